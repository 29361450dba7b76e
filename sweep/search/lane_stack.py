"""The lanes of one shape: the stack that trains them, and what they train on."""

from collections.abc import Callable
from dataclasses import dataclass

import torch

from sweep.errors import SweepError
from sweep.features.batches import StageData, TrainingData, n_batches
from sweep.records.reporter import Reporter
from sweep.search.ledger import Entrant
from sweep.side_networks.spec import SideNetworkSpec
from sweep.study.declaration import Study
from sweep.study.lane_config import LaneConfig
from sweep.study.shape import Shape
from sweep.training.engine import EpochResult, Lane, Training


@dataclass(frozen=True)
class StackSetting:
    """What the lanes of one shape train on and with.

    Attributes:
        study: As this shape has it.
        spec: Structure of the side-networks.
        tokens: `L`.
        train_data: What lanes learn from.
        val_data: What lanes are compared on.
    """

    study: Study
    spec: SideNetworkSpec
    tokens: int
    train_data: TrainingData
    val_data: StageData


SettingOf = Callable[[Shape], StackSetting]
"""Gives the setting of a shape, for which it may have to load a backbone and compute features.

Raises `UnusableShapeError` where there can be no lane of that shape.
"""


class UnusableShapeError(SweepError):
    """No lane can have this shape: its backbone cannot be loaded, or does not fit the data or the side-network."""


class LaneStack:
    """Lanes of one shape, each with a trial.

    Args:
        shape: Of the lanes.
        setting: What they train on and with.
        device: Where they train.

    Attributes:
        running: Trials in training.
    """

    def __init__(self, shape: Shape, setting: StackSetting, device: torch.device):
        self.shape, self.setting, self.device = shape, setting, device
        self.running: list[Entrant] = []
        self._training: Training | None = None

    def new_lane(self, config: LaneConfig, seed: int) -> Lane:
        """A lane that has not trained yet."""
        return Lane(config, self.setting.spec.lane(config.rank, seed, config).to(self.device), seed)

    def train_epoch(self, order: int, reporter: Reporter) -> EpochResult:
        """Train all lanes for one epoch.

        Args:
            order: The data order to follow.
            reporter: Told of every step.
        """
        study, data = self.setting.study, self.setting
        lanes = [lane for entrant in self.running for lane in entrant.lanes]
        if self._training is None:
            self._training = Training(
                lanes,
                data.train_data,
                data.val_data,
                n_epochs=study.epochs,
                batch_size=study.batch_size,
                seed=study.seed,
            )
        n_steps = n_batches(len(data.train_data), study.batch_size)
        reporter.epoch_started(len(lanes), len(self.running) / study.epochs / n_steps)
        return self._training.epoch(order, reporter.step)

    def update_lanes(self, *, take_apart: bool = False) -> None:
        """Bring the lanes up to date with the stack.

        Args:
            take_apart: Whether the next epoch has other lanes, and so another stack.
        """
        if self._training is not None:
            self._training.update_lanes()
            if take_apart:
                self._training = None

    def clear(self) -> list[Entrant]:
        """Take all trials out of training, and return those that have not ended."""
        taken = [entrant for entrant in self.running if entrant.alive]
        self.running, self._training = [], None
        return taken
