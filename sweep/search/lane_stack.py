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
    """The data and the side-network structure that the lanes of one shape train with.

    Attributes:
        study: The study, with this shape's declarations.
        spec: Structure of the side-networks.
        tokens: Number of tokens `L`.
        train_data: Features and labels of the training set.
        val_data: Features and labels of the validation set.
    """

    study: Study
    spec: SideNetworkSpec
    tokens: int
    train_data: TrainingData
    val_data: StageData


SettingOf = Callable[[Shape], StackSetting]
"""Gives the setting of a shape. It may have to load a backbone and compute features first.

Raises `UnusableShapeError` if no lane can have that shape.
"""


class UnusableShapeError(SweepError):
    """No lane can have this shape: its backbone cannot be loaded, or does not fit the data or the side-network."""


class LaneStack:
    """Lanes of one shape, each with a trial.

    Args:
        shape: Shape of the lanes.
        setting: Their data and side-network structure.
        device: Device that they train on.

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
            order: Number of the data order to follow.
            reporter: Receives an event at every step.
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
        """Copy the weights of the stack back into its lanes.

        Args:
            take_apart: Whether the next epoch has other lanes, and so needs another stack.
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
