"""Lanes that train in this process, in one stack for each shape.

Stacks take turns. On a CPU, small ones, which do not use all cores, train at the same time, each on cores of its own.
"""

import gc
import math
import time
from collections.abc import Callable, Collection, Iterator, Sequence

import torch
from torch import Tensor

from sweep.machine.at_once import Check, each_at_once, n_at_once
from sweep.machine.memory import is_out_of_memory
from sweep.records.reporter import Reporter
from sweep.search.ledger import Entrant
from sweep.search.trainer import SettingOf, Stacks
from sweep.study.shape import Shape
from sweep.training.lane_stack import LaneStack, StackEpoch
from sweep.training.lane_state import LaneState
from sweep.training.parts import can_share_cores, n_parts

TrainedEpoch = StackEpoch | RuntimeError | MemoryError
"""The results of a stack's epoch, or the error that says that memory ran out."""


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
        self._seconds: dict[Shape, float] = {}  # of the last epoch of a small stack

    def admit(self, entrant: Entrant, shape: Shape, states: Sequence[LaneState]) -> None:
        """See `Trainer`."""
        if shape not in self._stacks:
            self._stacks[shape] = LaneStack(self.setting_of(shape), self.device)
        self._stacks[shape].add(entrant.record.trial, states)
        self._shapes[entrant.record.trial] = shape
        self._freed = True

    def train_epoch(self, stacks: Stacks, order: int, reporter: Reporter) -> Iterator[tuple[Shape, TrainedEpoch]]:
        """See `Trainer`."""
        small = [shape for shape, entrants in stacks.items() if self._is_small(shape, n_lanes_of(entrants))]
        if n_at_once(torch.get_num_threads(), len(small)) == 1:
            small = []
        results: dict[Shape, TrainedEpoch] = {}
        for shape, entrants in list(stacks.items()):
            if shape not in small:
                self._announce(shape, entrants, reporter)
                results[shape] = self._epoch_of(shape, order, reporter.step)
            elif shape not in results:
                results |= self._at_the_same_time({one: stacks[one] for one in small}, order, reporter)
            yield shape, results.pop(shape)

    def _is_small(self, shape: Shape, n_lanes: int) -> bool:
        """Whether a stack does not use all cores by itself, but may share them."""
        return can_share_cores(self.setting_of(shape).train_data, self.device) and n_parts(n_lanes, self.device) == 1

    def _announce(self, shape: Shape, entrants: Sequence[Entrant], reporter: Reporter) -> None:
        setting = self.setting_of(shape)
        reporter.epoch_started(n_lanes_of(entrants), len(entrants) / setting.n_epochs / setting.n_steps)

    def _at_the_same_time(self, stacks: Stacks, order: int, reporter: Reporter) -> dict[Shape, TrainedEpoch]:
        """Train small stacks, as many at the same time as cores allow; the reporter hears of those in this thread.

        The time that all of them took is divided among them.
        """
        results: dict[Shape, TrainedEpoch] = {}

        def train(shape: Shape, check: Check, in_callers_thread: bool) -> None:
            if in_callers_thread:
                self._announce(shape, stacks[shape], reporter)

            def on_step() -> None:
                check()
                if in_callers_thread:
                    reporter.step()

            results[shape] = self._epoch_of(shape, order, on_step)

        longest_first = sorted(stacks, key=lambda shape: -self._seconds.get(shape, math.inf))
        started = time.perf_counter()
        each_at_once(longest_first, train, n_at_once(torch.get_num_threads(), len(stacks)))
        took = time.perf_counter() - started
        trained = {shape: result for shape, result in results.items() if isinstance(result, StackEpoch)}
        of_all = sum(result.wall_seconds for result in trained.values())
        self._seconds |= {shape: result.wall_seconds for shape, result in trained.items()}
        return {**results, **{shape: result.timed(took / of_all) for shape, result in trained.items()}}

    def _epoch_of(self, shape: Shape, order: int, on_step: Callable[[], None]) -> TrainedEpoch:
        """The result of a stack's epoch, or an out-of-memory error without its traceback, which holds the stack."""
        try:
            return self._stacks[shape].train_epoch(order, on_step)
        except (RuntimeError, MemoryError) as error:
            if not is_out_of_memory(error):
                raise
            del self._stacks[shape]
            self._freed = True
            return error.with_traceback(None)

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
                self._seconds.pop(shape, None)
            self._freed = True

    def free_memory(self) -> None:
        """See `Trainer`."""
        if not self._freed:
            return
        self._freed = False
        gc.collect()
        if self.device.type == "cuda":
            torch.cuda.empty_cache()
