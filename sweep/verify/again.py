"""Train a recorded trial again: alone in the engine, and step by step beside plain PyTorch."""

import math
from collections.abc import Callable, Generator, Iterator
from contextlib import ExitStack, closing
from dataclasses import dataclass, replace
from functools import partial
from itertools import islice, repeat

import torch
from torch import Tensor, nn

from sweep.features.batches import Batch, StageData, TrainingData, n_batches, training_batches
from sweep.features.folds import Folds
from sweep.side_networks.spec import SideNetworkSpec
from sweep.tasks.lane_losses import LaneLosses
from sweep.training.dropout import LaneStep, dropout_buffers
from sweep.training.engine import Lane, Training
from sweep.training.measurement import measure_lanes
from sweep.training.optim import LaneOptimizers
from sweep.training.plain_loop import plain_steps
from sweep.training.schedule import schedule_factors
from sweep.training.stack import Stack
from sweep.verify.record import RecordedTrial

CurveKey = tuple[int, int, str]
LARGEST_COMPARED = 1e5
"""The largest weight that is compared. One unit in the last place of a larger number comes near the difference that is
promised."""


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
        folds: The folds of a run with cross-validation; both sets are then the images of train and val.
    """

    spec: SideNetworkSpec
    train_data: TrainingData
    val_data: StageData
    n_epochs: int
    batch_size: int
    seed: int
    device: torch.device
    folds: Folds | None = None

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
            Lane(
                trial.config,
                setting.spec.lane(trial.config.rank, seed, trial.config).to(setting.device),
                seed,
                fold=fold,
            )
            for seed, fold in zip(trial.seeds, trial.folds, strict=True)
        ],
        setting.train_data,
        setting.val_data,
        n_epochs=setting.n_epochs,
        batch_size=setting.batch_size,
        seed=setting.seed,
        folds=setting.folds,
    )
    curve: dict[CurveKey, float] = {}
    for epoch, order in enumerate(trial.orders, start=1):
        measured = measure_lanes(training.epoch(order), setting.val_data, {})
        for replicate, lane in enumerate(measured):
            curve |= {(replicate, epoch, name): value for name, value in lane.metrics.items()}
        on_epoch(epoch)
    return TrainedAgain(curve, setting.spec.trimmed(trial.config.rank, training.stack.lane_state(0)))


@dataclass(frozen=True)
class BesidePlainLoop:
    """The engine's steps compared with those of a plain PyTorch loop, in fp64.

    Attributes:
        n_steps: Number of steps that were taken.
        of_a_step: The largest difference of a weight after a single step, if both start from the same weights.
        of_all: The largest difference after all steps, if both loops run separately from the same initialisation:
            rounding differences grow in training.
        rounding: The largest difference of a weight after a single plain step, if the weights that it starts from are
            changed by one unit in their last place: what rounding alone can do to a step of this trial.
    """

    n_steps: int
    of_a_step: float
    of_all: float
    rounding: float


def steps_beside_plain_loop(trial: RecordedTrial, setting: Setting, n_steps: int) -> BesidePlainLoop:
    """Train a trial's first replicate in fp64, by the engine's step and by a plain PyTorch loop over the same batches.

    Args:
        trial: The recorded trial.
        setting: The data and settings of the run.
        n_steps: Number of steps to take; fewer if the trial took fewer.
    """
    rank, config = trial.config.rank, trial.config
    total = setting.n_epochs * setting.steps_per_epoch
    n_steps = min(n_steps, trial.epochs * setting.steps_per_epoch)
    lane = replace(setting.spec, precision="fp32").lane(rank, trial.seeds[0], config).to(setting.device, torch.float64)
    stack = Stack([lane, lane])  # a single lane trains beside a copy of itself, see `Training`

    def plain_loop() -> tuple[nn.Module, Generator[None]]:
        plain = setting.spec.plain(rank, config).to(setting.device, torch.float64)
        plain.load_state_dict(setting.spec.trimmed(rank, lane.state_dict()))
        batches = islice(_batches(trial, setting, stack.like), n_steps)
        length = {"n_steps": total, "steps_per_epoch": setting.steps_per_epoch}
        held_out = _held_out(trial, setting)
        return plain, plain_steps(plain, config, data, batches, **length, seed=trial.seeds[0], held_out=held_out)

    fold = trial.folds[0]
    data = setting.train_data if setting.folds is None or fold is None else setting.folds.learned_from(fold)
    own_way, its_steps = plain_loop()
    together, steps = plain_loop()
    nudged, nudged_steps = plain_loop()
    all_losses = LaneLosses([config] * 2, data.class_counts.to(setting.device), torch.float64, len(data))
    left_out: Iterator[Tensor | None] = _held_out(trial, setting) or repeat(None)
    optimizers = LaneOptimizers(stack.params, [config] * 2)
    factors = schedule_factors([config] * 2, total, setting.steps_per_epoch).to(setting.device)
    of_a_step = rounding = 0.0
    loops = (its_steps, steps, nudged_steps)
    with closing(_batches(trial, setting, stack.like)) as batches, ExitStack() as opened:
        for of_loop in loops:
            opened.enter_context(closing(of_loop))
        for step, ((stages, labels), out) in enumerate(islice(zip(batches, left_out, strict=False), n_steps)):
            learns = None if out is None else (~out).to(setting.device).expand(2, -1)
            losses_of = partial(all_losses, learns=learns)
            before = setting.spec.trimmed(rank, stack.lane_state(0))
            together.load_state_dict(before)
            nudged.load_state_dict({name: _next_number(tensor) for name, tensor in before.items()})
            at = LaneStep(config.dropout, trial.seeds[0], step)
            replaced = dropout_buffers([at] * 2, len(labels), stack.buffers)
            _, gradients = stack.gradients(stages, labels, losses_of, replaced)
            optimizers.step(gradients, factors[step], () if learns is None or learns.any() else (0, 1))
            for of_loop in loops:
                next(of_loop)
            ours, expected = setting.spec.trimmed(rank, stack.lane_state(0)), _on_cpu(together)
            if not (_has_not_diverged(ours) and _has_not_diverged(expected)):  # both should diverge
                n_steps = step + 1
                if _has_not_diverged(ours) != _has_not_diverged(_on_cpu(own_way)):
                    of_a_step = math.inf
                break
            of_a_step = max(of_a_step, largest_difference(ours, expected))
            rounding = max(rounding, largest_difference(_on_cpu(nudged), expected))
    of_all = largest_difference(setting.spec.trimmed(rank, stack.lane_state(0)), _on_cpu(own_way))
    return BesidePlainLoop(n_steps, of_a_step, of_all, rounding)


def _on_cpu(module: nn.Module) -> dict[str, Tensor]:
    return {name: tensor.detach().cpu().clone() for name, tensor in module.state_dict().items()}


def _has_not_diverged(weights: dict[str, Tensor]) -> bool:
    """Whether no weight is larger than `LARGEST_COMPARED`, or not a number."""
    return all(bool((tensor.abs() <= LARGEST_COMPARED).all()) for tensor in weights.values())


def _next_number(tensor: Tensor) -> Tensor:
    """Every number changed by one unit in its last place."""
    return torch.nextafter(tensor, torch.full_like(tensor, torch.inf)) if tensor.is_floating_point() else tensor


def _batches(trial: RecordedTrial, setting: Setting, like: Tensor) -> Generator[Batch]:
    """Yield all batches that a trial learned from, in order."""
    data = setting.train_data
    for order in trial.orders:
        yield from data.batches(order, training_batches(len(data), setting.batch_size, setting.seed, order), like)


def _held_out(trial: RecordedTrial, setting: Setting) -> Iterator[Tensor] | None:
    """Which images of each batch the trial's first replicate did not learn from; None if it learned from all."""
    if setting.folds is None or trial.folds[0] is None:
        return None
    of_fold, n_images = setting.folds.held_out(trial.folds[0]), len(setting.train_data)
    orders = (training_batches(n_images, setting.batch_size, setting.seed, order) for order in trial.orders)
    return (of_fold[wanted] for batches in orders for wanted in batches)


def largest_difference(a: dict[str, Tensor], b: dict[str, Tensor]) -> float:
    """Largest difference of two numbers, over all tensors; both sides have the same names and shapes.

    The difference is 0 where both are not a number, and infinite where one of them is not.
    """
    differences = [
        torch.where(
            (a[name] == b[name]) | (a[name].isnan() & b[name].isnan()), 0.0, (a[name] - b[name]).abs()
        ).nan_to_num(torch.inf)
        for name in a
    ]
    return max(difference.max().item() for difference in differences)
