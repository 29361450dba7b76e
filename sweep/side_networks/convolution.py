"""The convolution families: ladders whose rungs mix neighbouring tokens by a 3 x 3 convolution.

That of `convolution` is depthwise: every channel has nine weights. That of `full_convolution` has an `r x r` matrix for
each of the nine places, so that what a neighbour says may depend on where it lies.

This module is the definition and the export format. The engine runs the forms in `ladder_rows.py`.
"""

from collections.abc import Sequence
from typing import Any, ClassVar

import torch.nn.functional as F
from torch import Tensor, nn

from backbones.grid import grid_side
from sweep.side_networks.ladder import Ladder, Rung
from sweep.side_networks.padding import PaddedLayerNorm, padded_normal

KERNEL = 3


class RungConvolution(nn.Module):
    """A depthwise 3 x 3 convolution over the grid of patch tokens. Its output is zero for prefix tokens.

    Args:
        rank: `r`.
        padded_rank: The stack's rank.
        n_prefix_tokens: Class and register tokens before the patch tokens.
        side: Side of the grid, in tokens.
    """

    def __init__(self, rank: int, padded_rank: int, n_prefix_tokens: int, side: int):
        super().__init__()
        self.n_prefix_tokens, self.side = n_prefix_tokens, side
        self.norm = PaddedLayerNorm(rank, padded_rank)
        self.weight = self.drawn(rank, padded_rank)

    def drawn(self, rank: int, padded_rank: int) -> nn.Parameter:
        """New weights, `(r, 3, 3)`."""
        return padded_normal((rank, KERNEL, KERNEL), (padded_rank, KERNEL, KERNEL), 0.5 / KERNEL)

    def convolved(self, grid: Tensor) -> Tensor:
        """The convolution of the grids of some images, `(B, r, side, side)`, to the same shape."""
        return F.conv2d(grid, self.weight.unsqueeze(1), padding=1, groups=len(self.weight))

    def forward(self, h: Tensor, bias: Tensor | None = None) -> Tensor:
        """`(B, L, r)` to the same shape. `bias` must be None, since all tokens of an image are visible."""
        patches = self.norm(h)[:, self.n_prefix_tokens :].mT
        of_grid = self.convolved(patches.unflatten(-1, (self.side, self.side)))
        return F.pad(of_grid.flatten(2).mT, (0, 0, self.n_prefix_tokens, 0))


class RungFullConvolution(RungConvolution):
    """The same with an `r x r` matrix for each of the nine places."""

    def drawn(self, rank: int, padded_rank: int) -> nn.Parameter:
        """New weights, `(r, r, 3, 3)`: outputs before inputs."""
        own, padded = (rank, rank, KERNEL, KERNEL), (padded_rank, padded_rank, KERNEL, KERNEL)
        return padded_normal(own, padded, 0.5 / KERNEL * rank**-0.5)

    def convolved(self, grid: Tensor) -> Tensor:
        """See `RungConvolution.convolved`."""
        return F.conv2d(grid, self.weight, padding=1)


class ConvolutionRung(Rung):
    """A rung with a convolution of some kind instead of attention; arguments as `RungConvolution` and `Rung`."""

    def __init__(
        self, kind: type[RungConvolution], rank: int, padded_rank: int, n_prefix_tokens: int, side: int, *, mlp: bool
    ):
        super().__init__(rank, padded_rank, attention=False, mlp=mlp)
        self.mixing = kind(rank, padded_rank, n_prefix_tokens, side)


class Convolution(Ladder):
    """The side-network; arguments as `Ladder`. It has no attention, and its inputs must be images.

    Raises:
        ValueError: As `Ladder`, or the patch tokens do not make a square grid.
    """

    kind: ClassVar[type[RungConvolution]] = RungConvolution

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
        return ConvolutionRung(self.kind, rank, padded_rank, *self._grid, mlp=mlp)


class FullConvolution(Convolution):
    """The side-network whose convolutions mix channels too; arguments and errors as `Convolution`."""

    kind = RungFullConvolution
