"""What a run tells its workers, and what they answer. All of it can be pickled."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

from sweep.side_networks.own_networks import OwnNetwork
from sweep.study.shape import Shape
from sweep.tasks.own_losses import OwnLoss
from sweep.training.lane_stack import TrialEpoch
from sweep.training.lane_state import LaneState


@dataclass(frozen=True)
class UsersCode:
    """What lanes need of a study's file.

    Attributes:
        networks: Side-networks by the text that a spec has for them.
        losses: Losses by the text that a lane's configuration has for them.
    """

    networks: Mapping[str, OwnNetwork]
    losses: Mapping[str, OwnLoss]


@dataclass(frozen=True)
class Assignment:
    """A trial that a worker is to train.

    Attributes:
        trial: Its number.
        shape: Shape of its lanes. The worker must have the setting of this shape.
        first_order: Number of the data order of its first epoch. After `e` epochs it follows order `first_order + e`.
        lanes: States of its lanes, one a replicate.
    """

    trial: int
    shape: Shape
    first_order: int
    lanes: Sequence[LaneState]

    @property
    def next_order(self) -> int:
        """Number of the data order of its next epoch."""
        return self.first_order + self.lanes[0].epochs


@dataclass(frozen=True)
class Step:
    """One epoch of all trials of a worker.

    A trial may be behind, because the worker that had it was lost. It first trains the epochs that it missed.

    Attributes:
        generation: Number of the epoch, counted over the whole process. Data orders start again, this does not.
        order: Number of the data order of this epoch.
        drop: Trials that have ended, or that go to another worker.
        admit: Trials to take up.
        most_lanes: The most lanes that train at a time from now on, for each shape of these trials. More of them train
            in several stacks, one after the other.
    """

    generation: int
    order: int
    drop: Sequence[int] = ()
    admit: Sequence[Assignment] = ()
    most_lanes: Mapping[Shape, int] = field(default_factory=dict)

    @property
    def n_epochs(self) -> int:
        """The most epochs that a trial has to train."""
        return max([1, *(self.order - assignment.next_order + 1 for assignment in self.admit)])


@dataclass(frozen=True)
class StepResult:
    """The results of a step.

    Attributes:
        trials: Results by number of the trial.
        wall_seconds: Time that the worker took.
        out_of_memory: Trials whose stack did not fit in memory. The worker has dropped them.
        most_lanes: For each shape of these trials, the most lanes that the worker trains at a time from now on: half as
            many as did not fit; none if one trial alone did not fit.
    """

    trials: dict[int, TrialEpoch]
    wall_seconds: float
    out_of_memory: Sequence[int] = ()
    most_lanes: Mapping[Shape, int] = field(default_factory=dict)


@dataclass(frozen=True)
class WorkerFailure:
    """The answer of a worker that could not do what it was told.

    Attributes:
        error: The exception, if it is an error of the user's that sweep explains; else None.
        text: The exception with its traceback.
    """

    error: Exception | None
    text: str


@dataclass(frozen=True)
class WorkerLost:
    """Stands for the answer of a worker that is no longer there.

    Attributes:
        reason: What became of it, as the end of a sentence about it.
    """

    reason: str = "has died"

    @classmethod
    def silent(cls, seconds: float) -> "WorkerLost":
        """A worker that was ended because it had not answered in time."""
        return cls(f"did not answer for {seconds:g} s and was ended")
