"""Ladders as the engine runs them: the same parameters and function, with channels as rows and shared products.

The only products of size `D` are `LN(z_i) W_i`, frozen features times a matrix of the lane. The matrices of all lanes
are stacked, so that each stage needs one matrix product. It needs no gradient with respect to the features, and LN's
statistics are computed once for all lanes. All other tensors are `(r, B·L)` per lane: channels are rows and tokens are
columns, so that sums over channels run over whole rows. Rows are padded to a multiple of `COLUMNS`.

All functions take one lane, or all lanes of a stack with a first dimension `N`, which the docstrings leave out. `vmap`
would do the same, but calls Python many times for every compiled kernel. In short steps that takes longer than the
kernels, and stacks that train at the same time wait for one another's Python.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Self, cast

import torch
import torch.nn.functional as F
from torch import Tensor
from torch.func import vmap

from backbones.stages import lengths_of
from sweep.machine.precision import product
from sweep.side_networks.all_lanes import of_each_lane
from sweep.side_networks.attention import attention
from sweep.side_networks.convolution import KERNEL, Convolution, FullConvolution, RungConvolution, RungFullConvolution
from sweep.side_networks.cpu import convolution as convolution_kernels
from sweep.side_networks.cpu import heads as head_kernels
from sweep.side_networks.cpu import rung as rung_kernels
from sweep.side_networks.ladder import HEADS, Ladder, Rung, RungAttention, RungMLP
from sweep.side_networks.padding import COLUMNS, PaddedLayerNorm, PaddedLinear
from sweep.side_networks.read_out import AttentionPooling
from sweep.side_networks.token_head import TokenStreamHead
from sweep.side_networks.visible import attention_bias


@dataclass(frozen=True)
class Grid:
    """Maps columns to tokens, and says which tokens a token may attend to.

    Attributes:
        n_images: Number of images or texts, `B`.
        n_tokens: Number of tokens, `L`.
        lengths: Number of tokens of each text, `(B,)`; None for images.
        causal: Whether a token only attends to itself and earlier tokens.
        bias: Both restrictions as numbers that are added to the scores, see `visible.py`.
    """

    n_images: int
    n_tokens: int
    lengths: Tensor | None
    causal: bool
    bias: Tensor | None

    @classmethod
    def of(cls, stages: Sequence[Tensor], *, causal: bool) -> Self:
        """The grid of a batch of stages, each `(B, L, D)`."""
        lengths = lengths_of(stages)
        n_images, n_tokens = stages[0].shape[:2]
        return cls(n_images, n_tokens, lengths, causal, attention_bias(stages[0][..., 0], lengths, causal=causal))

    def of_images(self, rows: Tensor) -> Tensor:
        """Rows without the padding columns, `(r, B, L)`."""
        of_images: Tensor = rows[..., : self.n_images * self.n_tokens].unflatten(-1, (self.n_images, self.n_tokens))
        return of_images

    def tokens(self, rows: Tensor) -> Tensor:
        """Rows as tokens, `(B, L, r)`."""
        return self.of_images(rows).movedim(-3, -1)


class RowsLadder(Ladder):
    """`Ladder`, computed in rows. Same constructor, same `state_dict`, same logits up to rounding.

    Attributes:
        product_dtype: Dtype that the frozen features are rounded to for products, see `sweep.machine.precision`; None
            for no rounding.
    """

    product_dtype: torch.dtype | None = None

    @property
    def takes_lanes(self) -> bool:
        """Whether `forward` takes the parameters of all lanes of a stack, see `sweep.training.stack`."""
        return not isinstance(self.head, TokenStreamHead)

    def forward(self, stages: Sequence[Tensor]) -> Tensor:
        """Logits `(B, C)` from stages `z_0 … z_m`, each `(B, L, D_i)`; for texts `backbones.stages.Stages`.

        With `DENSE`, they are of every patch token, `(B, P, C)`.
        """
        if len(stages) != len(self.entries):
            raise ValueError(f"a ladder with {len(self.entries)} entries takes as many stages, not {len(stages)}")
        grid = Grid.of(stages, causal=self.causal)
        n_images, n_tokens, lengths = grid.n_images, grid.n_tokens, grid.lengths
        entries = cast("list[PaddedLinear]", self.entries)
        added = [self._projected(entry, z) for entry, z in zip(entries, stages, strict=True)]
        n_columns = n_images * n_tokens
        positions = self.positions[..., :n_tokens, :].mT.tile(n_images)
        h = added[0] + F.pad(positions, (0, added[0].shape[-1] - n_columns))
        for rung, p in zip(cast("list[Rung]", self.rungs), added[1:], strict=True):
            h = h + p
            if rung.mixing is not None:
                x = normalised_rows(cast("PaddedLayerNorm", rung.mixing.norm), h)
                h = h + self._mixed(rung, x, grid)
            if rung.mlp is not None:
                h = with_mlp_of_rows(rung.mlp, h)
        if isinstance(self.head, TokenStreamHead):
            return self.head.beside(stages, grid.tokens(self.head.stream @ normalised_rows(self.head.norm, h)))
        pooled = normalised = None
        if self.head.pooled is not None and self.up is not None:
            pool = self.head.pooled.pool
            if self.pooling is None:
                of_stream = pool(grid.tokens(h), lengths)
            else:
                of_stream = attention_pooled(self.pooling, h, grid)
            pooled = pool(stages[-1], lengths) + of_stream @ self.up
        if self.head.matrix is not None:
            normalised = grid.tokens(normalised_rows(self.head.matrix.norm, h))
        if h.dim() == 3:
            return of_each_lane(self.head, pooled, normalised, shared=lengths)
        logits: Tensor = self.head(pooled, normalised, lengths)
        return logits

    def _projected(self, entry: PaddedLinear, stage: Tensor) -> Tensor:
        """`LN(z) W + b` as rows, `(r, B·L)`."""
        frozen = F.layer_norm(stage, stage.shape[-1:]).flatten(0, 1)
        if missing := -len(frozen) % COLUMNS:
            frozen = F.pad(frozen, (0, 0, 0, missing))  # a copy, also if nothing is missing
        frozen = frozen if self.product_dtype is None else frozen.to(self.product_dtype)
        return product(entry.weight, frozen.T) + entry.bias.unsqueeze(-1)

    def _mixed(self, rung: Rung, x: Tensor, grid: "Grid") -> Tensor:
        """Output of a rung's mixing layer, `(r, B·L)`, from `LN(h)`."""
        return attention_of_rows(cast("RungAttention", rung.mixing), x, grid)


class RowsConvolution(RowsLadder, Convolution):
    """`Convolution`, computed in rows. Same constructor, same `state_dict`, same logits up to rounding."""

    def _mixed(self, rung: Rung, x: Tensor, grid: "Grid") -> Tensor:
        return convolution_of_rows(cast("RungConvolution", rung.mixing), x, grid)


class RowsFullConvolution(RowsLadder, FullConvolution):
    """`FullConvolution`, computed in rows. Same constructor, same `state_dict`, same logits up to rounding."""

    def _mixed(self, rung: Rung, x: Tensor, grid: "Grid") -> Tensor:
        return full_convolution_of_rows(cast("RungFullConvolution", rung.mixing), x, grid)


def normalised_rows(norm: PaddedLayerNorm, h: Tensor) -> Tensor:
    """`norm` over the rows of `h`, `(r, B·L)`."""
    if rung_kernels.fits(h):
        return rung_kernels.normalised(norm, h)
    own = norm.own.unsqueeze(-1)
    n_channels = own.sum(-2, keepdim=True)
    centred = (h - (h * own).sum(-2, keepdim=True) / n_channels) * own
    variance = centred.square().sum(-2, keepdim=True) / n_channels
    normalised: Tensor = centred * (variance + norm.eps).rsqrt() * norm.weight.unsqueeze(-1) + norm.bias.unsqueeze(-1)
    return normalised


def with_mlp_of_rows(mlp: RungMLP, h: Tensor) -> Tensor:
    """`h` plus `mlp` of it, `(r, B·L)`."""
    if rung_kernels.fits(h):
        return rung_kernels.with_mlp(mlp.norm, mlp.up, mlp.down, h)
    inner = F.gelu(mlp.up.weight @ normalised_rows(mlp.norm, h) + mlp.up.bias.unsqueeze(-1))
    return h + mlp.down.weight @ inner + mlp.down.bias.unsqueeze(-1)


def attention_of_rows(module: RungAttention, x: Tensor, grid: Grid) -> Tensor:
    """`module` of `LN(h)`, `(r, B·L)`.

    Args:
        module: The module with the weights.
        x: `LN(h)`, `(r, B·L)`.
        grid: The tokens of its columns.
    """
    scaled = module.scale[..., None, None, None] * module.q
    weights = torch.cat([scaled, module.k, module.v], -3).flatten(-3, -2)  # (3·2·w, r)
    qkv, out = weights @ x, module.out.movedim(-3, -2).flatten(-2)
    if head_kernels.fits(qkv, qkv.shape[-2] // (3 * HEADS)):
        lengths = torch.full((grid.n_images,), grid.n_tokens) if grid.lengths is None else grid.lengths
        return out @ head_kernels.attended(qkv, HEADS, grid.n_tokens, lengths, causal=grid.causal)
    of_heads = grid.of_images(qkv).unflatten(-3, (3, HEADS, -1)).movedim(-3, -1)  # (3, 2, B, L, w)
    q, k, v = of_heads.flatten(-4, -3).unbind(-4)  # (2·B, L, w)
    bias = grid.bias
    if bias is not None and len(bias) > 1:
        bias = bias.repeat(HEADS, 1, 1)
    attend = attention if q.dim() == 3 else vmap(attention, in_dims=(0, 0, 0, None))
    attended = attend(q, k, v, bias).unflatten(-3, (HEADS, -1)).movedim(-1, -3)  # (2, w, B, L)
    rows = attended.flatten(-2).flatten(-3, -2)
    return out @ F.pad(rows, (0, x.shape[-1] - rows.shape[-1]))


def attention_pooled(module: AttentionPooling, h: Tensor, grid: Grid) -> Tensor:
    """`module` of the rows `h`, `(r, B·L)`: the mean of every image's tokens with learned weights, `(B, r)`.

    Sums instead of matrix products, so that a lane's bits do not depend on others.
    """
    scores = (module.scaled_query.unsqueeze(-1) * normalised_rows(module.norm, h)).sum(-2, keepdim=True)
    weights = module.weights(grid.of_images(scores), grid.lengths)  # (1, B, L)
    return (weights * grid.of_images(h)).sum(-1).mT


def convolution_of_rows(module: RungConvolution, x: Tensor, grid: Grid) -> Tensor:
    """`module` of `LN(h)`, `(r, B·L)`: a sum of nine shifted copies, so that a lane's bits do not depend on others."""
    if convolution_kernels.fits(x):
        return convolution_kernels.convolved(x, module.weight, grid.n_images, grid.n_tokens, module.n_prefix_tokens)
    framed, side = framed_grid(module, x, grid), module.side
    of_grid = torch.zeros_like(framed[..., 1:-1, 1:-1])
    for row in range(KERNEL):
        for column in range(KERNEL):
            shifted = framed[..., row : row + side, column : column + side]
            of_grid = of_grid + module.weight[..., row, column, None, None, None] * shifted
    rows = F.pad(of_grid.flatten(-2), (module.n_prefix_tokens, 0)).flatten(-2)
    return F.pad(rows, (0, x.shape[-1] - rows.shape[-1]))


def framed_grid(module: RungConvolution, x: Tensor, grid: Grid) -> Tensor:
    """The patches of rows `(r, B·L)` with zeros around them, `(r, B, side + 2, side + 2)`."""
    patches = grid.of_images(x)[..., module.n_prefix_tokens :]
    return F.pad(patches.unflatten(-1, (module.side, module.side)), (1, 1, 1, 1))


def full_convolution_of_rows(module: RungFullConvolution, x: Tensor, grid: Grid) -> Tensor:
    """`module` of `LN(h)`, `(r, B·L)`: for each row of the kernel, one product over its three columns."""
    framed, side = framed_grid(module, x, grid), module.side
    shifted = torch.cat([framed[..., column : column + side] for column in range(KERNEL)], -4)
    n_columns = grid.n_images * side**2
    rows = x.new_zeros(())
    for row in range(KERNEL):
        weight = module.weight[..., row, :].mT.flatten(-2)  # (r, 3·r), column after column
        columns = shifted[..., row : row + side, :].flatten(-3)
        rows = rows + weight @ F.pad(columns, (0, -n_columns % COLUMNS))
    of_grid = rows[..., :n_columns].unflatten(-1, (grid.n_images, side**2))
    rows = F.pad(of_grid, (module.n_prefix_tokens, 0)).flatten(-2)
    return F.pad(rows, (0, x.shape[-1] - rows.shape[-1]))
