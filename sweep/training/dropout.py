"""Dropout of the head's inputs. Every lane has its own rate and its own random numbers.

A lane's mask depends only on its seed and on the number of steps that it has taken. So it is the same in any stack and
after a run was resumed.
"""

from collections.abc import Mapping, Sequence
from typing import NamedTuple

import torch
from torch import Tensor

from sweep.machine.seeds import generator
from sweep.side_networks.head import KEEP


class LaneStep(NamedTuple):
    """A lane at one step.

    Attributes:
        rate: Dropout probability of the lane.
        seed: Seed of the lane.
        step: Number of optimizer steps that it has taken.
    """

    rate: float
    seed: int
    step: int


def dropout_mask(at: LaneStep, n_images: int, width: int, dtype: torch.dtype) -> Tensor:
    """Factors on a lane's channels in one step: 0 with probability `rate`, else `1 / (1 − rate)`.

    Args:
        at: The lane at this step.
        n_images: Number of images in the batch, `B`.
        width: Width of the head's input, `D`.
        dtype: The lane's dtype.

    Returns:
        The mask `(B, D)`, on the CPU.
    """
    kept = torch.rand(n_images, width, generator=generator(at.seed, "dropout", at.step)) >= at.rate
    return kept.to(dtype) / (1 - at.rate)


def dropout_buffers(lanes: Sequence[LaneStep], n_images: int, buffers: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """The masks that replace the heads' buffers in one step.

    Args:
        lanes: The `N` lanes at this step.
        n_images: Number of images in the batch, `B`.
        buffers: Buffers of the stack by name, each `(N, ...)`.

    Returns:
        Masks `(N, B, D)` by name, on the device of the lanes; empty if no lane has dropout.
    """
    if not any(at.rate for at in lanes):
        return {}
    like = buffers[KEEP]
    masks = torch.ones(len(lanes), n_images, like.shape[-1], dtype=like.dtype)
    for mask, at in zip(masks, lanes, strict=True):
        if at.rate:
            mask.copy_(dropout_mask(at, n_images, like.shape[-1], like.dtype))
    return {KEEP: masks.pin_memory().to(like.device, non_blocking=True) if like.is_cuda else masks}
