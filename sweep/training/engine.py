"""The engine: one vectorised step trains `N` side-networks on one batch of frozen stages.

A side-network must take the list of stages and return logits, and for dropout its `head` must be a
`sweep.side_networks.head.Head`.

A `Training` trains a stack one epoch at a time. Between two epochs its lanes can be taken apart, some can be ended,
others added, and the result stacked again. A lane's numbers depend only on its configuration, its seed and the data
order that it saw, and not on the lanes that train beside it.
"""

import copy
import time
from collections.abc import Callable, Mapping, Sequence
from contextlib import closing
from dataclasses import dataclass, field
from functools import partial

import torch
from torch import Tensor, nn

from sweep.errors import UsageError
from sweep.features.batches import StageData, TrainingData, n_batches, training_batches
from sweep.features.folds import Folds
from sweep.machine.settings import computing_lanes
from sweep.side_networks.gated import effective_ranks
from sweep.side_networks.head import KEEP
from sweep.study.lane_config import LaneConfig
from sweep.tasks.lane_losses import LaneLosses
from sweep.training.dropout import LaneStep, dropout_buffers
from sweep.training.graphs import graphed
from sweep.training.optim import LaneOptimizers
from sweep.training.schedule import schedule_factors
from sweep.training.stack import Stack, split_logits


@dataclass
class Lane:
    """A side-network between two epochs, with all that is needed to continue its training in any stack.

    Attributes:
        config: Its hyperparameters.
        module: The side-network with its current weights.
        seed: Its seed, for dropout.
        optimizer_state: See `LaneOptimizers.lane_states`; empty before the first step.
        epochs: Number of epochs that it has trained for.
        fold: The fold that it is measured on and does not learn from; None without cross-validation.
    """

    config: LaneConfig
    module: nn.Module
    seed: int
    optimizer_state: dict[str, Tensor] = field(default_factory=dict)
    epochs: int = 0
    fold: int | None = None


@dataclass(frozen=True)
class EpochResult:
    """The results of one epoch of a stack.

    Attributes:
        train_loss: Mean of each lane's own loss over the images that it learned from in the epoch, `(N,)`.
        val_logits: Logits of every lane on the validation set after the epoch, `(N, n, C)`, on the CPU; see
            `Target.condensed`.
        wall_seconds: Time of training and evaluation.
        held_out: The images that each lane is measured on, boolean `(N, n)`; the others have no logits. None if all
            lanes are measured on all images.
        effective_rank: Ranks that each lane has left, the mean over its modules, `(N,)`; None unless ranks are learned.
    """

    train_loss: Tensor
    val_logits: Tensor
    wall_seconds: float
    held_out: Tensor | None = None
    effective_rank: Tensor | None = None


@dataclass(frozen=True)
class _Learning:
    """Who learns from a batch.

    Attributes:
        learns: Which images each lane learns from, boolean `(N, B)`; None if every lane learns from all.
        n_images: Number of these images, for all lanes or for each, `(N,)`.
        resting: Lanes that learn from none of them.
    """

    learns: Tensor | None
    n_images: int | Tensor
    resting: Sequence[int]


class Training:
    """Lanes that train together. They may have trained for different numbers of epochs.

    Args:
        lanes: The `N` lanes; their modules are copied. A single lane trains beside a copy of itself, because its bits
            in a stack of one would differ from those in a larger stack.
        train_data: The training set.
        val_data: The validation set, which every lane is measured on after each epoch.
        n_epochs: Number of epochs in every lane's schedule.
        batch_size: Images or texts per step, `B`.
        seed: The study's seed, for the data order.
        folds: For cross-validation: both sets have the same images, every lane has a fold, and it learns from the
            images of every batch that are not in its fold. A lane makes no step with a batch that has none.

    Raises:
        UsageError: A lane has dropout, but its side-network does not have a `sweep.side_networks.head.Head`.
    """

    def __init__(
        self,
        lanes: Sequence[Lane],
        train_data: TrainingData,
        val_data: StageData,
        *,
        n_epochs: int,
        batch_size: int,
        seed: int,
        folds: Folds | None = None,
    ):
        self.n_lanes = len(lanes)
        self.lanes = list(lanes) if len(lanes) > 1 else [lanes[0], copy.copy(lanes[0])]
        self.train_data, self.val_data = train_data, val_data
        self.held_out = None if folds is None else torch.stack([folds.held_out(lane.fold or 0) for lane in self.lanes])
        self.batch_size, self.seed = batch_size, seed
        self.steps_per_epoch = n_batches(len(train_data), batch_size)
        configs = [lane.config for lane in self.lanes]
        self.stack = Stack([lane.module for lane in self.lanes])
        if KEEP not in self.stack.buffers and any(config.dropout for config in configs):
            kind = type(self.lanes[0].module).__name__
            raise UsageError(
                f"LaneConfig.dropout is given, but {kind} cannot apply it; use sweep.side_networks.head.Head as its "
                f"`head`, or leave dropout out"
            )
        like = self.stack.like
        counts, self.n_learned = train_data.class_counts, [len(train_data)] * len(self.lanes)
        if folds is not None and self.held_out is not None:
            counts = folds.class_counts[[lane.fold or 0 for lane in self.lanes]]
            self.n_learned = (~self.held_out).sum(1).tolist()
        self.losses_of = LaneLosses(configs, counts.to(like.device), like.dtype, self.n_learned)
        self.optimizers = LaneOptimizers(self.stack.params, configs)
        self.optimizers.load([lane.optimizer_state for lane in self.lanes])
        self.step = graphed(partial(take_step, self.stack, self.losses_of, self.optimizers), like.device)
        factors = schedule_factors(configs, n_epochs * self.steps_per_epoch, self.steps_per_epoch)
        self.factors = factors.unflatten(0, (n_epochs, self.steps_per_epoch)).to(like)

    def epoch(self, order: int, on_step: Callable[[], None] = lambda: None) -> EpochResult:
        """Train every lane for one epoch, and evaluate it on the validation set.

        Args:
            order: Number of the data order to follow, counted from 1.
            on_step: Called after every optimizer step.
        """
        started = time.perf_counter()
        train_loss = self.learn(order, on_step)
        held_out = None if self.held_out is None else self.held_out[: self.n_lanes]
        ranks = effective_ranks(self.stack.params)
        left = None if ranks is None else ranks.cpu()[: self.n_lanes]
        return EpochResult(train_loss, self._val_logits(), time.perf_counter() - started, held_out, left)

    def learn(self, order: int, on_step: Callable[[], None] = lambda: None) -> Tensor:
        """Train every lane for one epoch without an evaluation; arguments as `epoch`.

        Returns:
            `EpochResult.train_loss`.
        """
        like, data = self.stack.like, self.train_data
        factors = torch.stack([self.factors[lane.epochs, :, i] for i, lane in enumerate(self.lanes)], 1)
        loss_sum = like.new_zeros(len(self.lanes))
        indices = list(training_batches(len(data), self.batch_size, self.seed, order))
        with closing(data.batches(order, indices, like)) as batches:
            for step, (stages, labels) in enumerate(batches):
                replaced = dropout_buffers(self._lane_steps(step), len(labels), self.stack.buffers)
                learning = self._learning(indices[step])
                if learning.learns is None:
                    losses = self.step(stages, labels, factors[step], replaced)
                else:
                    losses_of = partial(self.losses_of, learns=learning.learns)
                    of_step = (stages, labels, factors[step], replaced, learning.resting)
                    losses = take_step(self.stack, losses_of, self.optimizers, *of_step)
                loss_sum += losses * learning.n_images
                on_step()
        for lane in self.lanes:
            lane.epochs += 1
        n_learned = torch.tensor(self.n_learned).to(like)
        return (loss_sum / n_learned).cpu()[: self.n_lanes]

    def _learning(self, wanted: Tensor) -> "_Learning":
        """Which lanes learn from which images of a batch, whose indices are `wanted`, `(B,)`."""
        if self.held_out is None:
            return _Learning(None, len(wanted), ())
        learns = ~self.held_out[:, wanted]
        n_images = learns.sum(1)
        resting = (n_images == 0).nonzero().flatten().tolist()
        return _Learning(learns.to(self.stack.like.device), n_images.to(self.stack.like), resting)

    def _val_logits(self) -> Tensor:
        """Logits of every lane on the images that it is measured on, `(N, n, C)`; not a number for other images."""
        if self.held_out is None:
            return split_logits(self.stack, self.val_data)[: self.n_lanes]
        logits: Tensor | None = None
        for held_out in self.held_out.unique(dim=0):
            lanes = (self.held_out == held_out).all(1).nonzero().flatten()
            own = split_logits(self.stack.of_lanes(lanes), self.val_data, held_out.nonzero().flatten())
            if logits is None:
                logits = own.new_full((len(self.lanes), len(held_out), *own.shape[2:]), torch.nan)
            logits[lanes[:, None], held_out.nonzero().flatten()] = own[: len(lanes)]
        assert logits is not None  # there are lanes
        return logits[: self.n_lanes]

    def _lane_steps(self, step: int) -> list[LaneStep]:
        """Every lane at a step of the epoch."""
        return [
            LaneStep(lane.config.dropout, lane.seed, lane.epochs * self.steps_per_epoch + step) for lane in self.lanes
        ]

    def update_lanes(self) -> list[Lane]:
        """Copy the stack's weights and optimizer states to the lanes, so that they can be saved or stacked anew."""
        states = self.optimizers.lane_states()
        lanes = self.lanes[: self.n_lanes]
        for i, lane in enumerate(lanes):
            lane.module.load_state_dict(self.stack.lane_state(i))
            lane.optimizer_state = states[i]
        return lanes


def take_step(
    stack: Stack,
    losses_of: Callable[[Tensor, Tensor], Tensor],
    optimizers: LaneOptimizers,
    stages: list[Tensor],
    labels: Tensor,
    factor: Tensor,
    replaced: Mapping[str, Tensor],
    resting: Sequence[int] = (),
) -> Tensor:
    """Train every lane of a stack on a batch; arguments as `Stack.gradients` and `LaneOptimizers.step`.

    Returns:
        Losses before the update, `(N,)`, detached.
    """
    losses, grads = stack.gradients(stages, labels, losses_of, replaced)
    with computing_lanes(stack.n_lanes, stack.like.device):
        optimizers.step(grads, factor, resting)
    return losses


def train(
    modules: Sequence[nn.Module],
    configs: Sequence[LaneConfig],
    train_data: TrainingData,
    val_data: StageData,
    *,
    n_epochs: int,
    batch_size: int,
    seed: int,
    lane_seeds: Sequence[int] | None = None,
    folds: Folds | None = None,
    lane_folds: Sequence[int] | None = None,
    only_last: bool = False,
) -> tuple[list[dict[str, Tensor]], list[EpochResult]]:
    """Train side-networks together from the first to the last epoch.

    Args:
        modules: The `N` side-networks; each maps stages, each `(B, L, D)`, to logits `(B, C)`. They are not changed.
        configs: Hyperparameters, one configuration per module.
        train_data: The training set.
        val_data: The validation set, which every lane is measured on after each epoch.
        n_epochs: Passes over `train_data`.
        batch_size: Images or texts per step, `B`.
        seed: Seed of the data order.
        lane_seeds: One seed per module, for its dropout; if not given, 0, 1, 2 and so on.
        folds: For cross-validation; see `Training`.
        lane_folds: With `folds`, the fold of each module.
        only_last: Whether lanes are measured after the last epoch only.

    Returns:
        The trained weights as one `state_dict` per lane, and one `EpochResult` per epoch in which they were measured.

    Raises:
        UsageError: The modules cannot train in one stack, or one has dropout but no `sweep.side_networks.head.Head`.
    """
    lane_seeds = range(len(modules)) if lane_seeds is None else lane_seeds
    numbers = [None] * len(modules) if lane_folds is None else lane_folds
    lanes = [
        Lane(config, module, lane_seed, fold=fold)
        for config, module, lane_seed, fold in zip(configs, modules, lane_seeds, numbers, strict=True)
    ]
    training = Training(lanes, train_data, val_data, n_epochs=n_epochs, batch_size=batch_size, seed=seed, folds=folds)
    results = []
    for order in range(1, n_epochs + 1):
        if only_last and order < n_epochs:
            training.learn(order)
        else:
            results.append(training.epoch(order))
    return [training.stack.lane_state(i) for i in range(len(lanes))], results
