"""Lanes that train in this process: one stack a shape; the stacks take turns."""

import gc
from collections.abc import Collection, Iterator, Sequence

import torch
from torch import Tensor

from sweep.machine.memory import is_out_of_memory
from sweep.records.reporter import Reporter
from sweep.search.ledger import Entrant
from sweep.search.trainer import SettingOf, Stacks
from sweep.study.shape import Shape
from sweep.training.lane_stack import LaneStack, StackEpoch
from sweep.training.lane_state import LaneState


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

    def admit(self, entrant: Entrant, shape: Shape, states: Sequence[LaneState]) -> None:
        """See `Trainer`."""
        if shape not in self._stacks:
            self._stacks[shape] = LaneStack(self.setting_of(shape), self.device)
        self._stacks[shape].add(entrant.record.trial, states)
        self._shapes[entrant.record.trial] = shape
        self._freed = True

    def train_epoch(
        self, stacks: Stacks, order: int, reporter: Reporter
    ) -> Iterator[tuple[Shape, StackEpoch | RuntimeError | MemoryError]]:
        """See `Trainer`."""
        for shape, entrants in list(stacks.items()):
            setting, n_lanes = self.setting_of(shape), sum(len(entrant.record.seeds) for entrant in entrants)
            reporter.epoch_started(n_lanes, len(entrants) / setting.n_epochs / setting.n_steps)
            yield shape, self._epoch_of(shape, order, reporter)

    def _epoch_of(self, shape: Shape, order: int, reporter: Reporter) -> StackEpoch | RuntimeError | MemoryError:
        """The result of a stack's epoch, or an out-of-memory error without its traceback, which holds the stack."""
        try:
            return self._stacks[shape].train_epoch(order, reporter.step)
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
            self._freed = True

    def free_memory(self) -> None:
        """See `Trainer`."""
        if not self._freed:
            return
        self._freed = False
        gc.collect()
        if self.device.type == "cuda":
            torch.cuda.empty_cache()
