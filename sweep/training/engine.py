"""The engine: `N` side-networks trained by one vectorised step over one batch of frozen stages.

A stack does not know which side-network it trains. It asks that a module take the list of stages and return logits, and
for dropout that its `head` be `sweep.side_networks.head.Head`. Parameters and buffers are stacked with
`stack_module_state`, and `vmap` runs the lanes. What a module computes from the stages alone has no lane dimension, so
`vmap` computes it once for all lanes.

A `Training` advances a stack by an epoch at a time. Between two epochs its lanes can be taken apart, some of them
ended, others added, and stacked again: a lane's numbers depend on its configuration, its seed and the data order it
saw, and not on what trains beside it.
"""

import copy
import time
from collections.abc import Callable, Mapping, Sequence
from contextlib import closing
from dataclasses import dataclass, field

import torch
from torch import Tensor, nn
from torch.func import functional_call, stack_module_state, vmap

from sweep.errors import UsageError
from sweep.features.batches import StageData, TrainingData, n_batches, training_batches
from sweep.side_networks.head import KEEP
from sweep.study.lane_config import LaneConfig
from sweep.tasks.losses import LaneLosses
from sweep.training.dropout import LaneStep, dropout_buffers
from sweep.training.optim import LaneOptimizers, schedule_factors

EVALUATION_BATCH_SIZE = 64


class Stack:
    """`N` lanes of one shape.

    Args:
        modules: One side-network a lane, all of one class and shape, mapping stages (each `(B, L, D)`) to logits
            `(B, C)`. They are copied; the originals stay as they are.

    Raises:
        UsageError: They are not of one shape, or differ in something that is no tensor.
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
            replaced: Buffers by name that are others in this step, each `(N, ...)`; see `dropout_buffers`.

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
    """Refuse lanes that cannot be stacked, as those of a user's own side-network may be."""
    first, *others = ({name: tuple(p.shape) for name, p in module.named_parameters()} for module in modules)
    for other in others:
        for name in sorted(first.keys() | other.keys()):
            if first.get(name) != other.get(name):
                raise UsageError(
                    f"lanes that train together must have weights of the same shapes, and {name} is "
                    f"{first.get(name, 'missing')} in one and {other.get(name, 'missing')} in another; let what "
                    f"decides the shapes be the same in all trials of the study"
                )


def _check_attributes(modules: Sequence[nn.Module]) -> None:
    """Refuse lanes that differ in a plain value: the code of the first runs for all, with the tensors of each."""
    for name, of_first in modules[0].named_modules():
        if type(of_first).__module__.split(".")[0] in ("sweep", "torch"):  # sweep's keep their own rank for the record
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
    """A side-network in training, between two epochs: all that it needs to go on, whatever trains beside it.

    Attributes:
        config: Its hyperparameters.
        module: The side-network, with its weights as they are now.
        seed: Its own, for its dropout.
        optimizer_state: See `LaneOptimizers.lane_states`; empty before the first step.
        epochs: Epochs it has trained for.
    """

    config: LaneConfig
    module: nn.Module
    seed: int
    optimizer_state: dict[str, Tensor] = field(default_factory=dict)
    epochs: int = 0


@dataclass(frozen=True)
class EpochResult:
    """What became of every lane in one epoch.

    Attributes:
        train_loss: Mean over the epoch's images, each lane under its own loss, `(N,)`.
        val_logits: Of every lane after the epoch, `(N, n, C)`, on the CPU.
        wall_seconds: Of training and evaluation.
    """

    train_loss: Tensor
    val_logits: Tensor
    wall_seconds: float


class Training:
    """Lanes of any age that train together.

    Args:
        lanes: `N` of them; their modules are copied. One alone trains beside a copy of itself, because a lane's bits
            are the same in all stacks but those of one.
        train_data: What to learn from.
        val_data: What every epoch is measured on.
        n_epochs: Length of every lane's schedule.
        batch_size: `B`.
        seed: The study's seed, for the data order.

    Raises:
        UsageError: A lane has dropout, and its side-network no `sweep.side_networks.head.Head`.
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
                f"LaneConfig.dropout is given, and {kind} has nothing to drop from: as its `head` take "
                f"sweep.side_networks.head.Head, or leave dropout out"
            )
        like = self.stack.like
        self.losses_of = LaneLosses(configs, train_data.class_counts.to(like.device), like.dtype, len(train_data))
        self.optimizers = LaneOptimizers(self.stack.params, configs)
        self.optimizers.load([lane.optimizer_state for lane in self.lanes])
        factors = schedule_factors(configs, n_epochs * self.steps_per_epoch, self.steps_per_epoch)
        self.factors = factors.unflatten(0, (n_epochs, self.steps_per_epoch)).to(like)

    def epoch(self, order: int, on_step: Callable[[], None] = lambda: None) -> EpochResult:
        """Train every lane for one epoch, and measure it.

        Args:
            order: Which of the study's data orders to follow, counted from 1.
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
                losses, grads = self.stack.gradients(stages, labels, self.losses_of, replaced)
                self.optimizers.step(grads, factors[step])
                loss_sum += losses * len(labels)
                on_step()
        for lane in self.lanes:
            lane.epochs += 1
        val_logits = split_logits(self.stack, self.val_data)[: self.n_lanes]
        train_loss = (loss_sum / len(data)).cpu()[: self.n_lanes]
        return EpochResult(train_loss, val_logits, time.perf_counter() - started)

    def _lane_steps(self, step: int) -> list[LaneStep]:
        """Where every lane is at a step of the epoch."""
        return [
            LaneStep(lane.config.dropout, lane.seed, lane.epochs * self.steps_per_epoch + step) for lane in self.lanes
        ]

    def update_lanes(self) -> list[Lane]:
        """Bring the lanes up to the stack's weights, so that they can be stacked with others, or written down."""
        states = self.optimizers.lane_states()
        lanes = self.lanes[: self.n_lanes]
        for i, lane in enumerate(lanes):
            lane.module.load_state_dict(self.stack.lane_state(i))
            lane.optimizer_state = states[i]
        return lanes


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
    """Train side-networks together from their first epoch to their last.

    Args:
        modules: `N` of them; they are trained in place.
        configs: One a module.
        train_data: What to learn from.
        val_data: What every epoch is measured on.
        n_epochs: Passes over `train_data`.
        batch_size: `B`.
        seed: The study's seed, for the data order.
        lane_seeds: One a module, for its dropout; counted from 0 if not given.

    Returns:
        The trained weights, one `state_dict` a lane, and one `EpochResult` an epoch.
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
