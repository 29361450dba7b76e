"""Ladders as the engine runs them: the same parameters and function, with channels as rows and shared products.

All that has the size `D` is `LN(z_i) W_i`, frozen features times a matrix of the lane. The matrices of all lanes lie
under one another, so that each stage takes one matrix product, without a gradient towards the features and with LN's
statistics computed once for all lanes. Everything else is `(r, B·L)` a lane: channels are rows and tokens lie along
the last dimension, so that sums over channels run over whole rows. Rows are padded to a multiple of `COLUMNS`.
"""

from collections.abc import Sequence
from typing import cast

import torch
import torch.nn.functional as F
from torch import Tensor

from backbones.stages import lengths_of
from sweep.machine.precision import product
from sweep.side_networks.attention import attention
from sweep.side_networks.convolution import KERNEL, Convolution, RungConvolution
from sweep.side_networks.ladder import HEADS, Ladder, Rung, RungAttention, RungMLP
from sweep.side_networks.padding import PaddedLayerNorm, PaddedLinear
from sweep.side_networks.visible import attention_bias

COLUMNS = 16
"""Of which the number of columns of `h` is a multiple: 64 bytes.

A CPU's library multiplies the matrices of all lanes one after the other. Where a row of the result is no multiple of 16
bytes, the next lane's result begins at another alignment, and is computed by other instructions with other last bits.
"""


class RowsLadder(Ladder):
    """`Ladder`, computed in rows. Same constructor, same `state_dict`, same logits up to rounding.

    Attributes:
        product_dtype: What the frozen features are rounded to for products, see `sweep.machine.precision`; None if they
            are not rounded.
    """

    product_dtype: torch.dtype | None = None

    def forward(self, stages: Sequence[Tensor]) -> Tensor:
        """Logits `(B, C)` from stages `z_0 … z_m`, each `(B, L, D_i)`; of texts `backbones.stages.Stages`."""
        if len(stages) != len(self.entries):
            raise ValueError(f"{len(self.entries)} entries take as many stages, not {len(stages)}")
        lengths, (n_images, n_tokens) = lengths_of(stages), stages[0].shape[:2]
        bias = attention_bias(stages[0][..., 0], lengths, causal=self.causal)
        entries = cast("list[PaddedLinear]", self.entries)
        added = [self._projected(entry, z) for entry, z in zip(entries, stages, strict=True)]
        n_columns = n_images * n_tokens
        positions = self.positions[:n_tokens].T.repeat(1, n_images)
        h = added[0] + F.pad(positions, (0, added[0].shape[1] - n_columns))
        for rung, p in zip(cast("list[Rung]", self.rungs), added[1:], strict=True):
            h = h + p
            if rung.mixing is not None:
                x = normalised_rows(cast("PaddedLayerNorm", rung.mixing.norm), h)
                h = h + self._mixed(rung, x, (n_images, n_tokens), bias)
            if rung.mlp is not None:
                h = h + mlp_of_rows(rung.mlp, h)
        pooled = normalised = None
        if self.head.pooled is not None and self.up is not None:
            pool = self.head.pooled.pool
            pooled = pool(stages[-1], lengths) + pool(_tokens(h, n_images, n_tokens), lengths) @ self.up
        if self.head.matrix is not None:
            normalised = _tokens(normalised_rows(self.head.matrix.norm, h), n_images, n_tokens)
        logits: Tensor = self.head(pooled, normalised, lengths)
        return logits

    def _projected(self, entry: PaddedLinear, stage: Tensor) -> Tensor:
        """`LN(z) W + b` as rows, `(r, B·L)`."""
        frozen = F.layer_norm(stage, stage.shape[-1:]).flatten(0, 1)
        frozen = F.pad(frozen, (0, 0, 0, -len(frozen) % COLUMNS))
        frozen = frozen if self.product_dtype is None else frozen.to(self.product_dtype)
        return product(entry.weight, frozen.T) + entry.bias.unsqueeze(1)

    def _mixed(self, rung: Rung, x: Tensor, grid: tuple[int, int], bias: Tensor | None) -> Tensor:
        """What a rung's tokens take from one another, `(r, B·L)`, of `LN(h)`."""
        return attention_of_rows(cast("RungAttention", rung.mixing), x, grid, bias)


class RowsConvolution(RowsLadder, Convolution):
    """`Convolution`, computed in rows. Same constructor, same `state_dict`, same logits up to rounding."""

    def _mixed(self, rung: Rung, x: Tensor, grid: tuple[int, int], bias: Tensor | None) -> Tensor:
        return convolution_of_rows(cast("RungConvolution", rung.mixing), x, grid)


def _of_images(rows: Tensor, n_images: int, n_tokens: int) -> Tensor:
    """Rows without what they are padded by, `(r, B, L)`."""
    of_images: Tensor = rows[:, : n_images * n_tokens].unflatten(1, (n_images, n_tokens))
    return of_images


def _tokens(rows: Tensor, n_images: int, n_tokens: int) -> Tensor:
    """Rows as tokens, `(B, L, r)`."""
    return _of_images(rows, n_images, n_tokens).movedim(0, -1)


def normalised_rows(norm: PaddedLayerNorm, h: Tensor) -> Tensor:
    """`norm` over the rows of `h`, `(r, B·L)`."""
    own, n_channels = norm.own.unsqueeze(1), norm.own.sum()
    centred = (h - (h * own).sum(0) / n_channels) * own
    variance = centred.square().sum(0) / n_channels
    normalised: Tensor = centred * (variance + norm.eps).rsqrt() * norm.weight.unsqueeze(1) + norm.bias.unsqueeze(1)
    return normalised


def mlp_of_rows(mlp: RungMLP, h: Tensor) -> Tensor:
    """`mlp` of `h`, `(r, B·L)`."""
    inner = F.gelu(mlp.up.weight @ normalised_rows(mlp.norm, h) + mlp.up.bias.unsqueeze(1))
    out: Tensor = mlp.down.weight @ inner + mlp.down.bias.unsqueeze(1)
    return out


def attention_of_rows(module: RungAttention, x: Tensor, grid: tuple[int, int], bias: Tensor | None) -> Tensor:
    """`module` of `LN(h)`, `(r, B·L)`; the heads of all images are one batch.

    Args:
        module: Whose weights.
        x: `LN(h)`.
        grid: `B` and `L`.
        bias: As of `RungAttention`.
    """
    weights = torch.cat([module.scale * module.q, module.k, module.v]).flatten(0, 1)  # (3·2·w, r)
    qkv = _of_images(weights @ x, *grid).unflatten(0, (3, HEADS, -1))
    q, k, v = qkv.movedim(2, -1).flatten(1, 2).unbind()  # each (2·B, L, w)
    if bias is not None and len(bias) > 1:
        bias = bias.repeat(HEADS, 1, 1)
    attended = attention(q, k, v, bias).unflatten(0, (HEADS, -1)).movedim(-1, 1)  # (2, w, B, L)
    rows = attended.flatten(2).flatten(0, 1)
    out: Tensor = module.out.movedim(0, 1).flatten(1) @ F.pad(rows, (0, x.shape[1] - rows.shape[1]))
    return out


def convolution_of_rows(module: RungConvolution, x: Tensor, grid: tuple[int, int]) -> Tensor:
    """`module` of `LN(h)`, `(r, B·L)`: nine shifted copies, so that a lane's bits depend on nothing beside it."""
    patches = _of_images(x, *grid)[..., module.n_prefix_tokens :]
    side = module.side
    framed = F.pad(patches.unflatten(-1, (side, side)), (1, 1, 1, 1))  # (r, B, side + 2, side + 2)
    of_grid = torch.zeros_like(framed[..., 1:-1, 1:-1])
    for row in range(KERNEL):
        for column in range(KERNEL):
            shifted = framed[..., row : row + side, column : column + side]
            of_grid = of_grid + module.weight[:, row, column, None, None, None] * shifted
    rows = F.pad(of_grid.flatten(2), (module.n_prefix_tokens, 0)).flatten(1)
    return F.pad(rows, (0, x.shape[1] - rows.shape[1]))
