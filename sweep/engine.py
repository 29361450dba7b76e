"""The engine: `N` side-networks trained by one vectorised step over one batch of frozen stages.

A stack does not know which side-network it trains. It asks that a module take the list of stages and return logits;
parameters and buffers are stacked with `stack_module_state`, and `vmap` runs the lanes. What a module computes from
the stages alone has no lane dimension, so `vmap` computes it once for all lanes.
"""

import copy
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor, nn
from torch.func import functional_call, stack_module_state, vmap

from sweep.batches import StageData, n_batches, training_batches
from sweep.lanes import LaneConfig
from sweep.losses import LaneLosses
from sweep.metrics import classification_metrics
from sweep.optim import LaneOptimizers, schedule_factors

EVALUATION_BATCH_SIZE = 64


class Stack:
    """`N` lanes of one shape.

    Args:
        modules: One side-network a lane, all of one class and shape, mapping stages (each `(B, L, D)`) to logits
            `(B, C)`. They are copied; the originals stay as they are.
    """

    def __init__(self, modules: Sequence[nn.Module]):
        self.n_lanes = len(modules)
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
        self, stages: list[Tensor], labels: Tensor, losses_of: Callable[[Tensor, Tensor], Tensor]
    ) -> tuple[Tensor, dict[str, Tensor]]:
        """Losses of every lane and the gradient of each with respect to its own parameters.

        No lane's loss depends on another lane's parameters, so the gradient of the sum is every lane's gradient.

        Args:
            stages: Each `(B, L, D)`.
            labels: `(B,)`.
            losses_of: Maps logits `(N, B, C)` and labels to losses `(N,)`.

        Returns:
            Losses `(N,)`, detached, and gradients by parameter name, each `(N, ...)`.
        """
        losses = losses_of(self.logits(stages), labels)
        grads = torch.autograd.grad(losses.sum(), list(self.params.values()))
        return losses.detach(), dict(zip(self.params, grads, strict=True))

    def lane_state(self, lane: int) -> dict[str, Tensor]:
        """A copy of one lane's parameters as its module's `state_dict`, on the CPU."""
        return {name: p[lane].detach().clone().cpu() for name, p in self.params.items()}


@dataclass(frozen=True)
class EpochResult:
    """What became of every lane in one epoch.

    Attributes:
        epoch: Counted from 1.
        train_loss: Mean over the epoch's images, each lane under its own loss, `(N,)`.
        val_metrics: By name, each `(N,)`, see `sweep.metrics`.
        wall_seconds: Of training and evaluation.
    """

    epoch: int
    train_loss: Tensor
    val_metrics: dict[str, Tensor]
    wall_seconds: float


def train(
    stack: Stack,
    configs: Sequence[LaneConfig],
    train_data: StageData,
    val_data: StageData,
    *,
    n_epochs: int,
    batch_size: int,
    seed: int,
    on_step: Callable[[], None] = lambda: None,
) -> Iterator[EpochResult]:
    """Train a stack, yielding after every epoch.

    Args:
        stack: `N` lanes; their parameters are updated in place.
        configs: One a lane.
        train_data: What to learn from.
        val_data: What every epoch is measured on.
        n_epochs: Passes over `train_data`.
        batch_size: `B`.
        seed: The study's seed, for the data order.
        on_step: Called after every optimizer step.

    Yields:
        One `EpochResult` an epoch.
    """
    losses_of = LaneLosses(configs, train_data.class_counts.to(stack.like.device), stack.like.dtype)
    optimizers = LaneOptimizers(stack.params, configs)
    steps_per_epoch = n_batches(len(train_data), batch_size)
    factors = schedule_factors(configs, n_epochs * steps_per_epoch, steps_per_epoch).to(stack.like)

    step = 0
    for epoch in range(1, n_epochs + 1):
        started = time.perf_counter()
        loss_sum = stack.like.new_zeros(stack.n_lanes)
        for indices in training_batches(len(train_data), batch_size, seed, epoch):
            stages, labels = train_data.batch(indices, stack.like)
            losses, grads = stack.gradients(stages, labels, losses_of)
            optimizers.step(grads, factors[step])
            loss_sum += losses * len(labels)
            step += 1
            on_step()
        val_metrics = evaluate(stack, val_data)
        wall_seconds = time.perf_counter() - started
        yield EpochResult(epoch, (loss_sum / len(train_data)).cpu(), val_metrics, wall_seconds)


@torch.no_grad()
def evaluate(stack: Stack, data: StageData) -> dict[str, Tensor]:
    """Metrics of every lane on a split, each `(N,)`, on the CPU."""
    batches = torch.arange(len(data)).split(EVALUATION_BATCH_SIZE)
    logits = torch.cat([stack.logits(data.batch(indices, stack.like)[0]) for indices in batches], dim=1)
    return classification_metrics(logits.cpu(), data.labels)
