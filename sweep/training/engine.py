"""The engine: one vectorised step trains `N` side-networks on one batch of frozen stages.

A stack can train any side-network. The module must take the list of stages and return logits, and for dropout its
`head` must be a `sweep.side_networks.head.Head`. Parameters and buffers are stacked with `stack_module_state`, and
`vmap` runs the lanes. Values that a module computes from the stages alone have no lane dimension, so `vmap` computes
them once for all lanes.

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
from torch.func import functional_call, stack_module_state, vmap

from sweep.errors import UsageError
from sweep.features.batches import StageData, TrainingData, n_batches, training_batches
from sweep.side_networks.head import KEEP
from sweep.study.lane_config import LaneConfig
from sweep.tasks.losses import LaneLosses
from sweep.training.dropout import LaneStep, dropout_buffers
from sweep.training.graphs import graphed
from sweep.training.optim import LaneOptimizers, schedule_factors

EVALUATION_BATCH_SIZE = 64


class Stack:
    """`N` lanes of one shape.

    Args:
        modules: One side-network per lane, all of one class and shape. A module maps stages, each `(B, L, D)`, to
            logits `(B, C)`. The modules are copied and not changed.

    Raises:
        UsageError: The modules do not have the same shapes, or differ in an attribute that is not a tensor.
    """

    def __init__(self, modules: Sequence[nn.Module]):
        self.n_lanes = len(modules)
        _check_shapes(modules)
        _check_attributes(modules)
        self.params, self.buffers = stack_module_state(list(modules))
        self._skeleton = copy.deepcopy(modules[0]).to("meta")
        self._forward = vmap(self._lane_forward, in_dims=(0, 0, None))

    @property
    def like(self) -> Tensor:
        """A tensor with the dtype and device of the lanes."""
        first: Tensor = next(iter(self.params.values()))
        return first

    def _lane_forward(self, params: dict[str, Tensor], buffers: dict[str, Tensor], stages: list[Tensor]) -> Tensor:
        logits: Tensor = functional_call(self._skeleton, (params, buffers), (stages,))
        return logits

    def logits(self, stages: list[Tensor]) -> Tensor:
        """Logits of every lane, `(N, B, C)`, from stages, each `(B, L, D)`."""
        logits: Tensor = self._forward(self.params, self.buffers, stages)
        return logits

    def gradients(
        self,
        stages: list[Tensor],
        labels: Tensor,
        losses_of: Callable[[Tensor, Tensor], Tensor],
        replaced: Mapping[str, Tensor] | None = None,
    ) -> tuple[Tensor, dict[str, Tensor]]:
        """Losses of every lane and the gradient of each with respect to its own parameters.

        No lane's loss depends on another lane's parameters, so the gradient of the sum is every lane's gradient.

        Args:
            stages: Each `(B, L, D)`.
            labels: `(B,)`.
            losses_of: Maps logits `(N, B, C)` and labels to losses `(N,)`.
            replaced: Buffers by name that are replaced in this step, each `(N, ...)`; see `dropout_buffers`.

        Returns:
            Losses `(N,)`, detached, and gradients by parameter name, each `(N, ...)`.
        """
        losses = losses_of(self._forward(self.params, {**self.buffers, **(replaced or {})}, stages), labels)
        grads = torch.autograd.grad(losses.sum(), list(self.params.values()))
        return losses.detach(), dict(zip(self.params, grads, strict=True))

    def lane_state(self, lane: int) -> dict[str, Tensor]:
        """A copy of one lane's parameters as its module's `state_dict`, on the CPU."""
        return {name: p[lane].detach().clone().cpu() for name, p in self.params.items()}


def _check_shapes(modules: Sequence[nn.Module]) -> None:
    """Raise an error if lanes cannot be stacked, which may happen with a user's own side-network."""
    first, *others = ({name: tuple(p.shape) for name, p in module.named_parameters()} for module in modules)
    for other in others:
        for name in sorted(first.keys() | other.keys()):
            if first.get(name) != other.get(name):
                raise UsageError(
                    f"lanes that train together must have weights of the same shapes, but {name} is "
                    f"{first.get(name, 'missing')} in one and {other.get(name, 'missing')} in another; give all trials "
                    f"of the study the same values of whatever decides the shapes"
                )


def _check_attributes(modules: Sequence[nn.Module]) -> None:
    """Raise an error if lanes differ in a plain attribute: the first lane's code runs with the tensors of each lane."""
    for name, of_first in modules[0].named_modules():
        if type(of_first).__module__.split(".")[0] in ("sweep", "torch"):  # sweep's note their own rank
            continue
        for module in modules[1:]:
            own = vars(module.get_submodule(name))
            for attribute, value in vars(of_first).items():
                if isinstance(value, bool | int | float | str) and own.get(attribute) != value:
                    where = ".".join(filter(None, [type(modules[0]).__name__, name, attribute]))
                    raise UsageError(
                        f"lanes that train together differ in {where}: {value!r} in one and {own.get(attribute)!r} in "
                        f"another. Keep it as a tensor in a buffer: register_buffer({attribute!r}, torch.tensor(…), "
                        f"persistent=False)"
                    )


@dataclass
class Lane:
    """A side-network between two epochs, with all that is needed to continue its training in any stack.

    Attributes:
        config: Its hyperparameters.
        module: The side-network with its current weights.
        seed: Its seed, for dropout.
        optimizer_state: See `LaneOptimizers.lane_states`; empty before the first step.
        epochs: Number of epochs that it has trained for.
    """

    config: LaneConfig
    module: nn.Module
    seed: int
    optimizer_state: dict[str, Tensor] = field(default_factory=dict)
    epochs: int = 0


@dataclass(frozen=True)
class EpochResult:
    """The results of one epoch of a stack.

    Attributes:
        train_loss: Mean of each lane's own loss over the images of the epoch, `(N,)`.
        val_logits: Logits of every lane on the validation set after the epoch, `(N, n, C)`, on the CPU.
        wall_seconds: Time of training and evaluation.
    """

    train_loss: Tensor
    val_logits: Tensor
    wall_seconds: float


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
    ):
        self.n_lanes = len(lanes)
        self.lanes = list(lanes) if len(lanes) > 1 else [lanes[0], copy.copy(lanes[0])]
        self.train_data, self.val_data = train_data, val_data
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
        self.losses_of = LaneLosses(configs, train_data.class_counts.to(like.device), like.dtype, len(train_data))
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
        like, data = self.stack.like, self.train_data
        factors = torch.stack([self.factors[lane.epochs, :, i] for i, lane in enumerate(self.lanes)], 1)
        loss_sum = like.new_zeros(len(self.lanes))
        indices = training_batches(len(data), self.batch_size, self.seed, order)
        with closing(data.batches(order, indices, like)) as batches:
            for step, (stages, labels) in enumerate(batches):
                replaced = dropout_buffers(self._lane_steps(step), len(labels), self.stack.buffers)
                loss_sum += self.step(stages, labels, factors[step], replaced) * len(labels)
                on_step()
        for lane in self.lanes:
            lane.epochs += 1
        val_logits = split_logits(self.stack, self.val_data)[: self.n_lanes]
        train_loss = (loss_sum / len(data)).cpu()[: self.n_lanes]
        return EpochResult(train_loss, val_logits, time.perf_counter() - started)

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
) -> Tensor:
    """Train every lane of a stack on a batch; arguments as `Stack.gradients` and `LaneOptimizers.step`.

    Returns:
        Losses before the update, `(N,)`, detached.
    """
    losses, grads = stack.gradients(stages, labels, losses_of, replaced)
    optimizers.step(grads, factor)
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

    Returns:
        The trained weights as one `state_dict` per lane, and one `EpochResult` per epoch.

    Raises:
        UsageError: The modules cannot train in one stack, or one has dropout but no `sweep.side_networks.head.Head`.
    """
    lane_seeds = range(len(modules)) if lane_seeds is None else lane_seeds
    lanes = [Lane(*of_lane) for of_lane in zip(configs, modules, lane_seeds, strict=True)]
    training = Training(lanes, train_data, val_data, n_epochs=n_epochs, batch_size=batch_size, seed=seed)
    results = [training.epoch(order) for order in range(1, n_epochs + 1)]
    return [training.stack.lane_state(i) for i in range(len(lanes))], results


@torch.no_grad()
def split_logits(stack: Stack, data: StageData) -> Tensor:
    """Logits of every lane on a whole split, `(N, n, C)`, on the CPU."""
    indices = torch.arange(len(data)).split(EVALUATION_BATCH_SIZE)
    with closing(data.batches(1, indices, stack.like)) as batches:
        return torch.cat([stack.logits(stages) for stages, _ in batches], dim=1).cpu()
