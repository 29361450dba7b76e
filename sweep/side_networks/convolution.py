"""The convolution: a ladder whose rungs let a token see its neighbours, by a depthwise 3 x 3 convolution.

The definition and the export format; `ladder_rows.py` is how the engine runs it.
"""

from collections.abc import Sequence
from math import isqrt
from typing import Any

import torch.nn.functional as F
from torch import Tensor, nn

from sweep.side_networks.ladder import Ladder, Rung
from sweep.side_networks.padding import PaddedLayerNorm, padded_normal

KERNEL = 3


def grid_side(n_tokens: int, n_prefix_tokens: int) -> int:
    """Side of the square that patch tokens make.

    Raises:
        ValueError: They make none.
    """
    n_patches = n_tokens - n_prefix_tokens
    side = isqrt(max(0, n_patches))
    if side == 0 or side * side != n_patches:
        raise ValueError(f"{n_patches} patch tokens make no square grid")
    return side


class RungConvolution(nn.Module):
    """A depthwise 3 x 3 convolution over the grid of patch tokens; prefix tokens get nothing.

    Args:
        rank: `r`.
        padded_rank: The stack's rank.
        n_prefix_tokens: Class and register tokens in front of the patch tokens.
        side: Of the grid, in tokens.
    """

    def __init__(self, rank: int, padded_rank: int, n_prefix_tokens: int, side: int):
        super().__init__()
        self.n_prefix_tokens, self.side = n_prefix_tokens, side
        self.norm = PaddedLayerNorm(rank, padded_rank)
        self.weight = padded_normal((rank, KERNEL, KERNEL), (padded_rank, KERNEL, KERNEL), 0.5 / KERNEL)

    def forward(self, h: Tensor, bias: Tensor | None = None) -> Tensor:
        """`(B, L, r)` to the same shape; there is no `bias`, since images have no ends."""
        patches = self.norm(h)[:, self.n_prefix_tokens :].mT
        of_grid = F.conv2d(
            patches.unflatten(-1, (self.side, self.side)), self.weight.unsqueeze(1), padding=1, groups=len(self.weight)
        )
        return F.pad(of_grid.flatten(2).mT, (0, 0, self.n_prefix_tokens, 0))


class ConvolutionRung(Rung):
    """A rung with a convolution where `Rung` has attention; arguments as of `RungConvolution` and `Rung`."""

    def __init__(self, rank: int, padded_rank: int, n_prefix_tokens: int, side: int, *, mlp: bool):
        super().__init__(rank, padded_rank, attention=False, mlp=mlp)
        self.mixing = RungConvolution(rank, padded_rank, n_prefix_tokens, side)


class Convolution(Ladder):
    """The side-network; arguments as of `Ladder`, but that there is no attention, and that inputs are images.

    Raises:
        ValueError: As of `Ladder`, or the patch tokens make no square grid.
    """

    def __init__(
        self,
        widths: Sequence[int],
        n_tokens: int,
        n_classes: int,
        rank: int,
        *,
        n_prefix_tokens: int = 0,
        **options: Any,
    ):
        self._grid = n_prefix_tokens, grid_side(n_tokens, n_prefix_tokens)
        super().__init__(widths, n_tokens, n_classes, rank, n_prefix_tokens=n_prefix_tokens, **options)

    def rung(self, rank: int, padded_rank: int, *, attention: bool, mlp: bool) -> Rung:
        """See `Ladder.rung`."""
        return ConvolutionRung(rank, padded_rank, *self._grid, mlp=mlp)
