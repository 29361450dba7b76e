"""Dropout of what the head classifies by, channels or tokens: every lane at its own rate, from its own random numbers.

A lane's mask follows from its seed and from how many steps it has taken, and from nothing else: it is the same in any
stack, in any lane, and after a run was resumed.
"""

from collections.abc import Mapping, Sequence
from typing import NamedTuple

import torch
from torch import Tensor

from sweep.machine.seeds import generator
from sweep.side_networks.head import KEEP


class LaneStep(NamedTuple):
    """Where a lane is.

    Attributes:
        rate: Its dropout.
        seed: Its own.
        step: Optimizer steps that it has taken.
    """

    rate: float
    seed: int
    step: int


def dropout_mask(at: LaneStep, n_images: int, width: int, dtype: torch.dtype) -> Tensor:
    """What a lane's channels are multiplied by in one step: 0 with probability `rate`, else `1 / (1 − rate)`.

    Args:
        at: The lane.
        n_images: `B`.
        width: Of what the head normalises, `D`.
        dtype: Of the lane.

    Returns:
        `(B, D)`, on the CPU.
    """
    kept = torch.rand(n_images, width, generator=generator(at.seed, "dropout", at.step)) >= at.rate
    return kept.to(dtype) / (1 - at.rate)


def dropout_buffers(lanes: Sequence[LaneStep], n_images: int, buffers: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """What stands in for the heads' buffers in one step.

    Args:
        lanes: `N` of them.
        n_images: `B`.
        buffers: Of the stack, by name, each `(N, ...)`.

    Returns:
        `(N, B, D)` by name, on the device of the lanes; empty where no lane drops anything.
    """
    if not any(at.rate for at in lanes):
        return {}
    like = buffers[KEEP]
    masks = torch.ones(len(lanes), n_images, like.shape[-1], dtype=like.dtype)
    for mask, at in zip(masks, lanes, strict=True):
        if at.rate:
            mask.copy_(dropout_mask(at, n_images, like.shape[-1], like.dtype))
    return {KEEP: masks.pin_memory().to(like.device, non_blocking=True) if like.is_cuda else masks}
