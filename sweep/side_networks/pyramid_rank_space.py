"""`PyramidLAST` in rank space: the same parameters and function, without a residual stream per lane.

`rank_space.py` explains the algebra. Two things differ here: `Ũ_j` is the up-projection into the width of the current
stream, and everything except the products with a frozen stream is plain PyTorch with autograd. Tokens are in the last
dimension, so that the stacked rows of all lanes need one matrix product with a frozen stream.
"""

from collections.abc import Sequence
from typing import cast

import torch
from torch import Tensor

from sweep.machine.precision import product
from sweep.side_networks.attention import attention
from sweep.side_networks.pyramid import PyramidAttention, PyramidLAST


class RankSpacePyramidLAST(PyramidLAST):
    """`PyramidLAST`, computed in rank space. Same constructor, same `state_dict`, same logits up to rounding."""

    def forward(self, stages: Sequence[Tensor]) -> Tensor:
        """Logits `(B, C)` from stages `z_0 … z_m`, each `(B, L, D_i)`."""
        if len(stages) != len(self.blocks) + 1:
            raise ValueError(f"{len(self.blocks)} blocks need {len(self.blocks) + 1} stages, not {len(stages)}")
        grid = stages[0].shape[:2]
        attended: list[Tensor] = []  # A of every module so far, (r, B·L)
        modules: list[PyramidAttention] = []
        frozen = stages[0]
        for i, (block, z) in enumerate(zip(self.blocks, stages[1:], strict=True), start=1):
            stream = self.streams[i]
            frozen = frozen + z if stream == self.streams[i - 1] else z
            centred = (frozen - frozen.mean(-1, keepdim=True)).flatten(0, 1).T  # S̃ᵀ, (D, B·L)
            squares = centred.square().sum(0)
            for module in cast("list[PyramidAttention]", block):
                ups = _ups(modules, stream) if modules else None
                qkv = _projected(module, centred, squares, ups, attended)
                q, k, v = (x.unflatten(1, grid).movedim(0, -1) for x in qkv.chunk(3))
                attended.append(attention(q, k, v).movedim(-1, 0).flatten(1))
                modules.append(module)
        pooled = self.head.pool(torch.cat(attended).unflatten(1, grid).movedim(0, -1))  # (B, K·r)
        added = pooled @ _ups(modules, self.streams[-1])
        logits: Tensor = self.head(self.head.pool(stages[-1]) + added)
        return logits


def _ups(modules: Sequence[PyramidAttention], stream: int) -> Tensor:
    """The stacked up-projections `U` of modules into one stream, `(k·r, D)`."""
    return torch.cat([cast("Tensor", module.up[str(stream)].weight).T for module in modules])


def _projected(
    module: PyramidAttention, centred: Tensor, squares: Tensor, ups: Tensor | None, attended: Sequence[Tensor]
) -> Tensor:
    """`LN(x) W` of a module, queries scaled: `(3r, B·L)`.

    Args:
        module: The module with the weights.
        centred: `S̃ᵀ`, `(D, B·L)`.
        squares: `|S̃|²`, `(B·L,)`.
        ups: `U` of the `k` earlier modules into this width, `(k·r, D)`; None if there are none.
        attended: `A` of the earlier modules, each `(r, B·L)`.
    """
    weights = torch.cat([module.scale * module.q.weight, module.k.weight, module.v.weight])  # (3r, D)
    projections, biases = weights * module.norm.weight, weights @ module.norm.bias
    projected = product(projections, centred)
    if ups is not None:
        centred_ups = ups - ups.mean(-1, keepdim=True)
        before = torch.cat(list(attended))
        projected = projected + (projections @ centred_ups.T) @ before
        mixed = 2 * product(centred_ups, centred) + (centred_ups @ centred_ups.T) @ before
        squares = squares + (before * mixed).sum(0)
    variance = squares / centred.shape[0]
    return projected * (variance + module.norm.eps).rsqrt() + biases.unsqueeze(-1)
