"""Train a recorded trial again: alone in the engine, and step by step beside plain PyTorch."""

from collections.abc import Callable, Generator
from contextlib import closing
from dataclasses import dataclass, replace
from itertools import islice

import torch
from torch import Tensor

from sweep.features.batches import Batch, StageData, TrainingData, n_batches, training_batches
from sweep.side_networks import trim_rank
from sweep.side_networks.spec import SideNetworkSpec
from sweep.tasks.losses import LaneLosses
from sweep.training.dropout import LaneStep, dropout_buffers
from sweep.training.engine import Lane, Stack, Training
from sweep.training.measurement import measure_lanes
from sweep.training.optim import LaneOptimizers, schedule_factors
from sweep.training.plain_loop import train_plainly
from sweep.verify.record import RecordedTrial

CurveKey = tuple[int, int, str]


@dataclass(frozen=True)
class Setting:
    """The data and the settings that a trial is trained with.

    Attributes:
        spec: The shape of the run's side-networks.
        train_data: The training data.
        val_data: The validation data.
        n_epochs: Length of the learning-rate schedule, in epochs.
        batch_size: `B`.
        seed: The study's seed.
        device: The device to train on.
    """

    spec: SideNetworkSpec
    train_data: TrainingData
    val_data: StageData
    n_epochs: int
    batch_size: int
    seed: int
    device: torch.device

    @property
    def steps_per_epoch(self) -> int:
        """The number of batches in an epoch."""
        return n_batches(len(self.train_data), self.batch_size)


@dataclass(frozen=True)
class TrainedAgain:
    """The result of training a trial again.

    Attributes:
        curve: Every measured value by replicate, epoch and metric.
        weights: The weights of the first replicate, as a `state_dict` of a plain LAST without padding.
    """

    curve: dict[CurveKey, float]
    weights: dict[str, Tensor]


def train_again(trial: RecordedTrial, setting: Setting, on_epoch: Callable[[int], None]) -> TrainedAgain:
    """Train a trial with the engine; its replicates are alone in the stack."""
    training = Training(
        [
            Lane(trial.config, setting.spec.lane(trial.config.rank, seed).to(setting.device), seed)
            for seed in trial.seeds
        ],
        setting.train_data,
        setting.val_data,
        n_epochs=setting.n_epochs,
        batch_size=setting.batch_size,
        seed=setting.seed,
    )
    curve: dict[CurveKey, float] = {}
    for epoch, order in enumerate(trial.orders, start=1):
        measured = measure_lanes(training.epoch(order), setting.val_data, {})
        for replicate, lane in enumerate(measured):
            curve |= {(replicate, epoch, name): value for name, value in lane.metrics.items()}
        on_epoch(epoch)
    return TrainedAgain(curve, trim_rank(training.stack.lane_state(0), trial.config.rank))


def steps_beside_plain_loop(trial: RecordedTrial, setting: Setting, n_steps: int) -> tuple[int, float]:
    """Train a trial's first replicate in fp64 twice on the same batches: by the engine, and by a plain PyTorch loop.

    Args:
        trial: The recorded trial.
        setting: The data and settings of the run.
        n_steps: The most steps to take; fewer if the trial took fewer.

    Returns:
        How many steps were taken, and the largest difference of a weight after them.
    """
    rank, config = trial.config.rank, trial.config
    total = setting.n_epochs * setting.steps_per_epoch
    n_steps = min(n_steps, trial.epochs * setting.steps_per_epoch)
    lane = replace(setting.spec, precision="fp32").lane(rank, trial.seeds[0]).to(setting.device, torch.float64)
    plain = setting.spec.plain(rank).to(setting.device, torch.float64)
    plain.load_state_dict(trim_rank(lane.state_dict(), rank))
    stack = Stack([lane, lane])  # a trial that is alone trains beside a copy of itself
    with closing(_batches(trial, setting, stack.like)) as batches:
        train_plainly(
            plain,
            config,
            setting.train_data,
            islice(batches, n_steps),
            n_steps=total,
            steps_per_epoch=setting.steps_per_epoch,
            seed=trial.seeds[0],
        )

    losses_of = LaneLosses([config] * 2, setting.train_data.class_counts.to(setting.device), torch.float64)
    optimizers = LaneOptimizers(stack.params, [config] * 2)
    factors = schedule_factors([config] * 2, total, setting.steps_per_epoch).to(setting.device)
    with closing(_batches(trial, setting, stack.like)) as batches:
        for step, (stages, labels) in enumerate(islice(batches, n_steps)):
            at = LaneStep(config.dropout, trial.seeds[0], step)
            replaced = dropout_buffers([at] * 2, len(labels), stack.params)
            _, gradients = stack.gradients(stages, labels, losses_of, replaced)
            optimizers.step(gradients, factors[step])
    expected = {name: tensor.cpu() for name, tensor in plain.state_dict().items()}
    return n_steps, largest_difference(trim_rank(stack.lane_state(0), rank), expected)


def _batches(trial: RecordedTrial, setting: Setting, like: Tensor) -> Generator[Batch]:
    """Yield all batches that a trial learned from, in order."""
    data = setting.train_data
    for order in trial.orders:
        yield from data.batches(order, training_batches(len(data), setting.batch_size, setting.seed, order), like)


def largest_difference(a: dict[str, Tensor], b: dict[str, Tensor]) -> float:
    """Return the largest difference over all tensors: 0 where both values are NaN, infinite where only one is."""
    differences = [
        torch.where(a[name].isnan() & b[name].isnan(), 0.0, (a[name] - b[name]).abs()).nan_to_num(torch.inf)
        for name in a
    ]
    return max(difference.max().item() for difference in differences)
