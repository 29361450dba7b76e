"""Lanes that train in this process, in one stack for each shape.

Stacks take turns. On a CPU with several cores they train at the same time instead, see `sweep.training.parts`.
"""

import gc
import time
from collections.abc import Collection, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass

import torch
from torch import Tensor

from sweep.machine.at_once import Check, each_at_once, n_at_once
from sweep.machine.memory import is_out_of_memory
from sweep.records.reporter import Reporter
from sweep.search.ledger import Entrant
from sweep.search.trainer import SettingOf, Stacks
from sweep.study.shape import Shape
from sweep.training.engine import EpochResult, Training
from sweep.training.lane_stack import LaneStack, StackEpoch
from sweep.training.lane_state import LaneState
from sweep.training.parts import can_share_cores, joined, parts_of_stacks

TrainedEpoch = StackEpoch | RuntimeError | MemoryError
"""The results of a stack's epoch, or the error that says that memory ran out."""


@dataclass(frozen=True, eq=False)
class _Piece:
    """A part of a shape's stack, and its share of the work of an epoch, as `parts_of_stacks` takes it."""

    shape: Shape
    training: Training
    work: float


def n_lanes_of(entrants: Sequence[Entrant]) -> int:
    """Number of lanes of trials."""
    return sum(len(entrant.record.seeds) for entrant in entrants)


class TrainingHere:
    """A `Trainer` in this process.

    Args:
        setting_of: Gives the data and the side-network structure for a shape.
        device: Device that lanes train on.
    """

    def __init__(self, setting_of: SettingOf, device: torch.device):
        self.setting_of, self.device = setting_of, device
        self._stacks: dict[Shape, LaneStack] = {}
        self._shapes: dict[int, Shape] = {}
        self._freed = False
        self._lane_seconds: dict[Shape, float] = {}  # of one core, in the last epoch of a shape

    def admit(self, entrant: Entrant, shape: Shape, states: Sequence[LaneState]) -> None:
        """See `Trainer`."""
        if shape not in self._stacks:
            self._stacks[shape] = LaneStack(self.setting_of(shape), self.device)
        self._stacks[shape].add(entrant.record.trial, states)
        self._shapes[entrant.record.trial] = shape
        self._freed = True

    def train_epoch(self, stacks: Stacks, order: int, reporter: Reporter) -> Iterator[tuple[Shape, TrainedEpoch]]:
        """See `Trainer`."""
        sharing = {shape: entrants for shape, entrants in stacks.items() if self._can_share_cores(shape)}
        results: dict[Shape, TrainedEpoch] = {}
        for shape, entrants in list(stacks.items()):
            if shape not in results:
                together = sharing if shape in sharing else {shape: entrants}
                results |= self._at_the_same_time(together, order, reporter)
            yield shape, results[shape]

    def _can_share_cores(self, shape: Shape) -> bool:
        return can_share_cores(self.setting_of(shape).train_data, self.device)

    def _at_the_same_time(self, stacks: Stacks, order: int, reporter: Reporter) -> dict[Shape, TrainedEpoch]:
        """Train stacks, in as many parts at the same time as use all cores.

        The reporter hears of the steps in this thread, as if all threads made as many. The time that all stacks took
        is divided among them.
        """
        results: dict[Shape, TrainedEpoch] = {}
        pieces = self._pieces(stacks, results)
        epochs: dict[_Piece, EpochResult] = {}
        n_threads = n_at_once(torch.get_num_threads(), len(pieces)) if self.device.type == "cpu" else 1

        def train(piece: _Piece, check: Check, in_callers_thread: bool) -> None:
            shape, training = piece.shape, piece.training
            if in_callers_thread:
                setting, of_trial = self.setting_of(shape), n_lanes_of(stacks[shape]) / len(stacks[shape])
                n_trials = n_threads * training.n_lanes / of_trial
                reporter.epoch_started(n_lanes_of(stacks[shape]), n_trials / setting.n_epochs / setting.n_steps)

            def on_step() -> None:
                check()
                if in_callers_thread:
                    reporter.step()

            with self._out_of_memory_of(shape, results):
                epochs[piece] = training.epoch(order, on_step)

        started = time.perf_counter()
        each_at_once(sorted(pieces, key=lambda piece: -piece.work), train, n_threads)
        took = time.perf_counter() - started
        of_all = sum(epoch.wall_seconds for epoch in epochs.values())
        for shape in stacks.keys() - results.keys():
            own = [epochs[piece] for piece in pieces if piece.shape == shape]
            seconds = sum(epoch.wall_seconds for epoch in own)
            self._lane_seconds[shape] = seconds / n_lanes_of(stacks[shape])
            results[shape] = self._stacks[shape].measured(joined(own, took * seconds / of_all if of_all else 0.0))
        return results

    def _pieces(self, stacks: Stacks, results: dict[Shape, TrainedEpoch]) -> list["_Piece"]:
        """The parts of all stacks. A lane of a new shape is taken to cost as much as the costliest one so far."""
        n_lanes = {shape: n_lanes_of(entrants) for shape, entrants in stacks.items()}
        costliest = max(self._lane_seconds.values(), default=1.0)
        work = {shape: n * self._lane_seconds.get(shape, costliest) for shape, n in n_lanes.items()}
        pieces = []
        for shape, most_parts in parts_of_stacks(n_lanes, work, self.device).items():
            n_parts = most_parts if self._can_share_cores(shape) else 1
            with self._out_of_memory_of(shape, results):
                pieces += [_Piece(shape, part, work[shape] / n_parts) for part in self._stacks[shape].parts(n_parts)]
        return pieces

    @contextmanager
    def _out_of_memory_of(self, shape: Shape, results: dict[Shape, TrainedEpoch]) -> Iterator[None]:
        """If memory runs out, drop a shape's stack; the error is its result, without the traceback that holds it."""
        try:
            yield
        except (RuntimeError, MemoryError) as error:
            if not is_out_of_memory(error):
                raise
            self._stacks.pop(shape, None)
            self._freed = True
            results[shape] = error.with_traceback(None)

    def weights(self, entrant: Entrant) -> dict[str, Tensor]:
        """See `Trainer`."""
        return self._stacks[self._shapes[entrant.record.trial]].weights(entrant.record.trial)

    def states(self, entrants: Collection[Entrant]) -> dict[int, list[LaneState]]:
        """See `Trainer`."""
        wanted: dict[Shape, list[int]] = {}
        for entrant in entrants:
            wanted.setdefault(self._shapes[entrant.record.trial], []).append(entrant.record.trial)
        return {
            trial: states
            for shape, trials in wanted.items()
            for trial, states in self._stacks[shape].states(trials).items()
        }

    def leave(self, entrants: Collection[Entrant]) -> None:
        """See `Trainer`."""
        ended = {entrant.record.trial for entrant in entrants}
        for shape in {self._shapes.pop(trial) for trial in ended}:
            self._stacks[shape].remove(ended)
            if not self._stacks[shape].lanes:
                del self._stacks[shape]
            self._freed = True

    def free_memory(self) -> None:
        """See `Trainer`."""
        if not self._freed:
            return
        self._freed = False
        gc.collect()
        if self.device.type == "cuda":
            torch.cuda.empty_cache()
