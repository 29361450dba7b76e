"""Workers that train nothing: their metrics are drawn from seeded learning curves, and their weights never change."""

import math
import sys
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import numpy as np
import torch

from sweep.bench.stopwatch import Stopwatch
from sweep.machine.seeds import derive_seed
from sweep.study.shape import Shape
from sweep.training.lane_stack import StackSetting, TrialEpoch
from sweep.training.lane_state import LaneState
from sweep.workers.measured import CPU, Measured
from sweep.workers.messages import Assignment, Step, StepResult, UsersCode
from sweep.workers.packing import packed, unpacked

WORKERS = "workers"
"""The part of the time in which simulated workers work: it is none of the driver's."""

MESSAGES = "messages"

EPOCH_SECONDS = 10.0
"""What simulated workers say that an epoch took them."""


SIMULATED = Measured("simulated", "simulated", CPU, free_bytes=2**40, n_threads=1, speed=1e9)
"""What each simulated worker has."""


class PlentyOfMemory:
    """A `MemoryModel` in which everything fits."""

    def lanes_that_fit(self, shape: Shape, free_bytes: int) -> int:
        """See `MemoryModel`."""
        return sys.maxsize

    def left_for_features(self, shape: Shape, n_lanes: int, free_bytes: int) -> int:
        """See `MemoryModel`."""
        return 0


class SimulatedWorker:
    """Answers the calls that a `LaneWorker` answers.

    Args:
        n_val_images: Images for which it answers, whatever the validation set has.
    """

    def __init__(self, n_val_images: int):
        self.n_val_images = n_val_images
        self._settings: dict[Shape, StackSetting] = {}
        self._lanes: dict[int, Assignment] = {}
        self._n_trained: dict[int, int] = {}

    def measure(self) -> Measured:
        """See `LaneWorker`."""
        return SIMULATED

    def take_setting(self, shape: Shape, setting: StackSetting, code: UsersCode) -> None:
        """See `LaneWorker`."""
        self._settings[shape] = setting

    def step(self, step: Step) -> StepResult:
        """See `LaneWorker`."""
        for trial in step.drop:
            self._lanes.pop(trial, None)
        for assignment in step.admit:
            self._lanes[assignment.trial] = assignment
            self._n_trained[assignment.trial] = assignment.lanes[0].epochs
        trials = {}
        for trial, assignment in self._lanes.items():
            self._n_trained[trial] += 1
            trials[trial] = self._measured(assignment.lanes, self._n_trained[trial])
        return StepResult(trials, EPOCH_SECONDS)

    def states(self, trials: Sequence[int]) -> dict[int, list[LaneState]]:
        """See `LaneWorker`. The weights are the initial ones, and there is no state of an optimizer."""
        return {trial: [self._state(trial, lane) for lane in self._lanes[trial].lanes] for trial in trials}

    def _state(self, trial: int, lane: LaneState) -> LaneState:
        spec = self._settings[self._lanes[trial].shape].spec
        weights = spec.lane(lane.config.rank, lane.seed, lane.config).state_dict()
        return LaneState(lane.config, lane.seed, self._n_trained[trial], weights, {}, lane.fold)

    def _measured(self, lanes: Sequence[LaneState], epoch: int) -> TrialEpoch:
        metrics, answers = [], []
        for lane in lanes:
            draws = np.random.default_rng(derive_seed(lane.seed, "simulated", epoch))
            best = 0.9 - 0.1 * abs(math.log10(lane.config.lr) + 2.5) + 0.02 * math.log2(lane.config.rank)
            top1 = float(np.clip(best * (1 - math.exp(-epoch / 3)) + draws.normal(0, 0.02), 0.01, 0.99))
            nll = -math.log(top1)
            metrics.append(
                {
                    "train_loss": nll,
                    "val_top1": top1,
                    "val_mean_class_accuracy": top1,
                    "val_worst_class_accuracy": top1 / 2,
                    "val_nll": nll,
                    "val_ece": 0.05,
                }
            )
            answers.append(draws.random(self.n_val_images) < top1)
        return TrialEpoch(metrics, "", torch.from_numpy(np.stack(answers)), 0.0)


class SimulatedPool:
    """A `WorkerPool` in this process, whose calls and answers are packed as if they travelled.

    Args:
        n_workers: How many there are.
        n_val_images: See `SimulatedWorker`.
        stopwatch: Told which time is the workers' and which the driver's.

    Attributes:
        ready: Numbers of the workers that can be called.
        sent_bytes: Size of all calls and answers.
    """

    n_starting, apart = 0, ()

    def __init__(self, n_workers: int, n_val_images: int, stopwatch: Stopwatch):
        self.ready = list(range(n_workers))
        self.sent_bytes = 0
        self._stopwatch = stopwatch
        self._workers = [SimulatedWorker(n_val_images) for _ in self.ready]

    def call(self, calls: Mapping[int, bytes], timeout_seconds: float) -> Iterator[tuple[int, Any]]:
        """See `WorkerPool`."""
        for worker, call in calls.items():
            with self._stopwatch.timing(WORKERS):
                method, arguments = unpacked(call)
                answer = packed(getattr(self._workers[worker], method)(*arguments))
            self.sent_bytes += len(call) + len(answer)
            with self._stopwatch.timing(MESSAGES):
                received = unpacked(answer)
            yield worker, received

    def welcome(self, wait_seconds: float = 0.0) -> list[int]:
        """See `WorkerPool`."""
        return []

    def close(self) -> None:
        """See `WorkerPool`."""
