"""Measures the cost of a lane on a training step, for side-networks without a formula for it."""

import math
from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor, nn
from torch.utils.flop_counter import FlopCounterMode

from sweep.tasks.box_loss import focal_giou
from sweep.tasks.label_maps import cross_entropy_of_maps
from sweep.training.stack import Stack


def _operations(out: Sequence[int], a: Sequence[int], b: Sequence[int], **_: object) -> int:
    """Floating-point operations of a matrix product that is added to `out`, from the shapes."""
    return 2 * math.prod(a) * b[-1]


UNCOUNTED = {torch.ops.aten.addmm_: _operations, torch.ops.aten.baddbmm_: _operations}
"""Matrix products that PyTorch's counter does not know."""


@dataclass(frozen=True)
class LaneCost:
    """The cost that one more lane adds to a training step.

    Attributes:
        multiply_adds: Multiply-adds of its matrix products, forward and backward.
        kept_bytes: Bytes that its forward pass keeps for the backward pass.
    """

    multiply_adds: int
    kept_bytes: int


def measured_cost(lanes: Sequence[nn.Module], stages: list[Tensor], dense_labels: Tensor | None = None) -> LaneCost:
    """Measure a stack of two lanes and a stack of three, and return the difference.

    Args:
        lanes: Three lanes of one shape.
        stages: Stages of a batch, each `(B, L, D)`, in the dtype and on the device of the lanes.
        dense_labels: For segmentation label maps, `(B, M, M)`, and for detection boxes, `(B, M, 6)`, of the batch;
            their losses need much memory themselves.
    """
    two, three = (_measured(Stack(lanes[:n]), stages, dense_labels) for n in (2, 3))
    return LaneCost(three.multiply_adds - two.multiply_adds, three.kept_bytes - two.kept_bytes)


def _measured(stack: Stack, stages: list[Tensor], dense_labels: Tensor | None) -> LaneCost:
    weights = {parameter.untyped_storage().data_ptr() for parameter in stack.params.values()}
    kept: dict[int, int] = {}  # bytes by address, since several operations may keep the same tensor

    def keep(tensor: Tensor) -> Tensor:
        storage = tensor.untyped_storage()
        if storage.data_ptr() not in weights:
            kept[storage.data_ptr()] = storage.nbytes()
        return tensor

    def losses_of(logits: Tensor, labels: Tensor) -> Tensor:
        if dense_labels is None:
            return logits.square().mean((1, 2))
        loss = focal_giou if labels.is_floating_point() else cross_entropy_of_maps
        return loss(logits, labels, logits.new_zeros(len(logits))).mean(-1)

    no_labels = torch.zeros(len(stages[0]), dtype=torch.long, device=stages[0].device)
    labels = no_labels if dense_labels is None else dense_labels
    with (
        FlopCounterMode(display=False, custom_mapping=UNCOUNTED) as counter,
        torch.autograd.graph.saved_tensors_hooks(keep, lambda tensor: tensor),
    ):
        stack.gradients(stages, labels, losses_of)
    return LaneCost(counter.get_total_flops() // 2, sum(kept.values()))
