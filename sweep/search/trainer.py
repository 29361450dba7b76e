"""Who trains the lanes of a search: this process (`training_here.py`), or workers (`sweep.workers`)."""

from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from typing import Protocol

from torch import Tensor

from sweep.errors import SweepError
from sweep.records.reporter import Reporter
from sweep.search.ledger import Entrant
from sweep.study.shape import Shape
from sweep.training.lane_stack import StackEpoch, StackSetting
from sweep.training.lane_state import LaneState

SettingOf = Callable[[Shape], StackSetting]
"""Gives the setting of a shape. It may have to load a backbone and compute features first.

Raises `UnusableShapeError` if no lane can have that shape.
"""

Stacks = Mapping[Shape, Sequence[Entrant]]
"""The trials in training by shape."""


class UnusableShapeError(SweepError):
    """No lane can have this shape: its backbone cannot be loaded, or does not fit the data or the side-network."""


class Trainer(Protocol):
    """Trains lanes, and has their weights between two epochs.

    No result may depend on what trains beside a lane, on where it trains, or on the order in which stacks are trained.
    """

    def admit(self, entrant: Entrant, shape: Shape, states: Sequence[LaneState]) -> None:
        """Take up a trial that trains from the next epoch on.

        Args:
            entrant: The trial.
            shape: Shape of its lanes.
            states: States of its lanes, one a replicate.

        Raises:
            RuntimeError: The states are not those of lanes of this shape.
        """

    def train_epoch(
        self, stacks: Stacks, order: int, reporter: Reporter
    ) -> Iterator[tuple[Shape, StackEpoch | RuntimeError | MemoryError]]:
        """Train all stacks for one epoch.

        Args:
            stacks: All trials that were admitted and have not left.
            order: Number of the data order to follow.
            reporter: Receives progress events.

        Yields:
            Every shape with the results of its stack, or with the error that says that memory ran out. A stack that
            ran out of memory is gone, with all its trials.
        """

    def weights(self, entrant: Entrant) -> dict[str, Tensor]:
        """The current weights of a trial's first replicate, as a `state_dict` of its padded module, on the CPU."""

    def states(self, entrants: Collection[Entrant]) -> dict[int, list[LaneState]]:
        """The current states of trials' lanes, by number of the trial."""

    def leave(self, entrants: Collection[Entrant]) -> None:
        """Drop trials that have ended."""

    def free_memory(self) -> None:
        """Release the memory of dropped stacks before the next stack needs it."""
