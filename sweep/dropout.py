"""Dropout of the channels that the head classifies by: every lane at its own rate, from its own random numbers.

A lane's mask follows from its seed and from how many steps it has taken, and from nothing else: it is the same in any
stack, in any lane, and after a run was resumed.
"""

from collections.abc import Sequence
from typing import NamedTuple

import torch
from torch import Tensor

from sweep.seeds import generator
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


def dropout_mask(at: LaneStep, like: Tensor) -> Tensor:
    """What a lane's channels are multiplied by in one step: 0 with probability `rate`, else `1 / (1 − rate)`.

    Args:
        at: The lane.
        like: The last stage of the batch, `(B, L, D)`.

    Returns:
        `(B, D)`, in the dtype and on the device of `like`.
    """
    n_images, width = like.shape[0], like.shape[-1]
    kept = torch.rand(n_images, width, generator=generator(at.seed, "dropout", at.step)) >= at.rate
    return (kept.to(like.dtype) / (1 - at.rate)).to(like.device)


def dropout_buffers(lanes: Sequence[LaneStep], like: Tensor) -> dict[str, Tensor]:
    """What stands in for the heads' buffers in one step, `(N, B, D)` by name; empty where no lane drops anything."""
    if not any(at.rate for at in lanes):
        return {}
    everything = like.new_ones(like.shape[0], like.shape[-1])
    return {KEEP: torch.stack([dropout_mask(at, like) if at.rate else everything for at in lanes])}
