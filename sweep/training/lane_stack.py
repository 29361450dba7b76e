"""The lanes of one shape: the stack that trains them, what they train on, and the results of their epochs."""

from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

import torch
from torch import Tensor

from sweep.errors import SweepError
from sweep.features.batches import StageData, TrainingData, n_batches
from sweep.features.folds import Folds
from sweep.machine.at_once import shares
from sweep.side_networks.spec import SideNetworkSpec
from sweep.training.engine import EpochResult, Lane, Training
from sweep.training.lane_state import LaneState
from sweep.training.measurement import Metric, measure_lanes
from sweep.training.parts import in_parts, train_epoch

if TYPE_CHECKING:
    from sweep.study.declaration import Study


@dataclass(frozen=True)
class StackSetting:
    """What the lanes of one shape train with. It can be pickled, and holds nothing of the search.

    Attributes:
        spec: Structure of the side-networks.
        tokens: Number of tokens `L`.
        train_data: Features and labels of the training set.
        val_data: Features and labels of the validation set.
        n_epochs: Length of every lane's learning-rate schedule.
        batch_size: Images, or texts, a step.
        seed: The study's seed, for the data order.
        metrics: The study's own metrics by name.
        folds: The folds of a study with cross-validation; the training and the validation set are then the same images.
    """

    spec: SideNetworkSpec
    tokens: int
    train_data: TrainingData
    val_data: StageData
    n_epochs: int
    batch_size: int
    seed: int
    metrics: Mapping[str, Metric]
    folds: Folds | None = None

    @classmethod
    def of(
        cls, study: "Study", spec: SideNetworkSpec, tokens: int, train_data: TrainingData, val_data: StageData
    ) -> "StackSetting":
        """The setting of a study that has the declarations of the lanes' shape."""
        declared = (study.epochs, study.batch_size, study.seed, dict(study.metrics))
        folds = Folds.of(val_data, study.folds, study.repeats, study.seed) if study.folds else None
        return cls(spec, tokens, train_data, val_data, *declared, folds)

    @property
    def n_steps(self) -> int:
        """Optimizer steps of an epoch."""
        return n_batches(len(self.train_data), self.batch_size)


@dataclass(frozen=True)
class TrialEpoch:
    """The results of one trial after one epoch.

    Attributes:
        metrics: Metrics of each replicate, by the names of `LaneMeasurement`.
        failure: What is wrong with them; empty if nothing is.
        answers: Score of each replicate on each image of the validation set, `(replicates, n)`; see
            `Target.of_images`. With cross-validation, the lanes of one repeat together are a replicate.
        wall_seconds: The trial's share of the time that its stack took.
    """

    metrics: list[dict[str, float]]
    failure: str
    answers: Tensor
    wall_seconds: float


@dataclass(frozen=True)
class StackEpoch:
    """The results of a stack after one epoch.

    Attributes:
        trials: Results by number of the trial.
        wall_seconds: Time of training and evaluation.
    """

    trials: dict[int, TrialEpoch]
    wall_seconds: float

    def timed(self, share: float) -> "StackEpoch":
        """The same results with a share of the time, because other stacks trained at the same time."""
        trials = {
            trial: replace(epoch, wall_seconds=share * epoch.wall_seconds) for trial, epoch in self.trials.items()
        }
        return StackEpoch(trials, share * self.wall_seconds)


class LaneStack:
    """Lanes of one shape, some of each trial.

    Args:
        setting: Their data and side-network structure.
        device: Device that they train on.

    Attributes:
        lanes: Lanes by trial, one a replicate.
    """

    def __init__(self, setting: StackSetting, device: torch.device):
        self.setting, self.device = setting, device
        self.lanes: dict[int, list[Lane]] = {}
        self._parts: list[Training] = []

    def add(self, trial: int, states: Sequence[LaneState]) -> None:
        """Take up a trial; it trains from the next epoch on.

        Args:
            trial: Its number.
            states: States of its lanes, one for each replicate.
        """
        lanes = [state.lane(self.setting.spec, self.device) for state in states]
        self._take_apart()
        self.lanes[trial] = lanes

    def remove(self, trials: Collection[int]) -> None:
        """Drop trials, by number."""
        kept = {trial: lanes for trial, lanes in self.lanes.items() if trial not in trials}
        if kept:
            self._take_apart()
        self.lanes, self._parts = kept, []

    def train_epoch(self, order: int, on_step: Callable[[], None] = lambda: None) -> StackEpoch:
        """Train and measure all lanes for one epoch, in as many parts as use all cores.

        Args:
            order: Number of the data order to follow.
            on_step: Called after every optimizer step.
        """
        return self.measured(train_epoch(self.parts(), order, on_step))

    def parts(self, n_parts: int | None = None) -> list[Training]:
        """All lanes in so many parts, or if not given, in as many as use all cores; the order is that of `lanes`."""
        setting, lanes = self.setting, [lane for lanes in self.lanes.values() for lane in lanes]
        divided = in_parts(lanes, setting.train_data, self.device) if n_parts is None else shares(lanes, n_parts)
        if len(divided) != len(self._parts):
            self._take_apart()
            self._parts = [
                Training(
                    part,
                    setting.train_data,
                    setting.val_data,
                    n_epochs=setting.n_epochs,
                    batch_size=setting.batch_size,
                    seed=setting.seed,
                    folds=setting.folds,
                )
                for part in divided
            ]
        return self._parts

    def measured(self, result: EpochResult) -> StackEpoch:
        """The results of every trial, from the result of an epoch of all lanes."""
        setting = self.setting
        target, labels = setting.val_data.target, setting.val_data.labels
        measured = measure_lanes(result, setting.val_data, setting.metrics)
        answers = target.of_images(result.val_logits, labels)
        trials, first = {}, 0
        for trial, lanes in self.lanes.items():
            own = slice(first, first := first + len(lanes))
            failure = next((lane.failure for lane in measured[own] if lane.failure), "")
            metrics = [lane.metrics for lane in measured[own]]
            of_trial = answers[own] if setting.folds is None else setting.folds.together(answers[own])
            trials[trial] = TrialEpoch(metrics, failure, of_trial, result.wall_seconds / len(self.lanes))
        return StackEpoch(trials, result.wall_seconds)

    def weights(self, trial: int) -> dict[str, Tensor]:
        """The weights of a trial's first replicate, as a `state_dict` of its padded module, on the CPU."""
        first = self.lanes[trial][0]
        for part in self._parts:
            for place, lane in enumerate(part.lanes):
                if lane is first:
                    return part.stack.lane_state(place)
        return {name: tensor.cpu() for name, tensor in first.module.state_dict().items()}

    def states(self, trials: Collection[int]) -> dict[int, list[LaneState]]:
        """The current states of trials' lanes, by number."""
        self._update_lanes()
        return {trial: [LaneState.of(lane) for lane in self.lanes[trial]] for trial in trials}

    def _take_apart(self) -> None:
        """Give the lanes their current weights; the next epoch needs another stack."""
        self._update_lanes()
        self._parts = []

    def _update_lanes(self) -> None:
        """Give the lanes their current weights and optimizer states."""
        for part in self._parts:
            part.update_lanes()


def does_not_fit(n_lanes: int, batch_size: int, device: object) -> SweepError:
    """The error of a trial whose lanes do not fit in memory even without others."""
    return SweepError(
        f"one trial ({n_lanes} lane{'s' * (n_lanes > 1)} of batch size {batch_size}) does not "
        f"fit in the memory of {device}; lower --batch-size or the ranks"
    )
