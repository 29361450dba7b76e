"""LAST in rank space: the same parameters and function as `last.py`, without a residual stream per lane.

The stream that enters module `k` is a frozen part, equal for all lanes, plus a low-rank part:

    x_k = S_k + Σ_{j<k} A_j U_j        S_k = Σ_{i ≤ stage(k)} z_i,  A_j the attention output of module j,  U_j its W_up

LayerNorm sees `x_k` only through its centred form `x̃_k = S̃_k + Σ A_j Ũ_j`, and all that is needed of it are the
`3r` projections that the module reads and the variance. Stack the rows that are to be multiplied with `x̃_k`:

    R = [γ ⊙ W_q; γ ⊙ W_k; γ ⊙ W_v; Ũ_1; …; Ũ_{k-1}]         ((3 + k − 1) r, D)
    R x̃_k = R S̃_k + (R Ũᵀ) A                    the one product of size D is with S̃_k, shared by all lanes
    D · variance = |S̃_k|² + A · (Ũ S̃_k) + A · (Ũ x̃_k)       whose last two terms need only the lower rows above

Everything a lane owns is `(r, B·L)`: tokens lie along the last dimension, so that under `vmap` the shared product is
one matrix product `(N·c, D) × (D, B·L)` and the remaining passes run over long contiguous rows.
"""

from collections.abc import Sequence
from itertools import accumulate
from operator import add
from typing import cast

import torch
from torch import Tensor

from sweep.side_networks.attention import attention
from sweep.side_networks.last import LAST, LowRankAttention


class RankSpaceLAST(LAST):
    """`LAST`, computed in rank space. Same constructor, same `state_dict`, same logits up to rounding.

    Work grows with `K² r` where the direct form's grows with `K D`, so ranks in the hundreds favour the direct form.
    """

    def forward(self, stages: Sequence[Tensor]) -> Tensor:
        """Logits `(B, C)` from stages `z_0 … z_m`, each `(B, L, D)`."""
        grid = stages[0].shape[:2]
        ups: list[Tensor] = []  # U_j, each (r, D)
        centred_ups: list[Tensor] = []  # Ũ_j, each (r, D)
        attended: list[Tensor] = []  # A_j, each (r, B·L)

        frozen_streams = list(accumulate(stages, add))[1:]
        for block, frozen in zip(self.blocks, frozen_streams, strict=True):
            centred = frozen - frozen.mean(-1, keepdim=True)
            shared = centred.flatten(0, 1).T  # S̃_k, (D, B·L)
            shared_square = centred.square().sum(-1).flatten()  # |S̃_k|², (B·L)
            for module in cast("Sequence[LowRankAttention]", block):
                qkv = _projections(module, shared, shared_square, centred_ups, attended)
                q, k, v = qkv.unflatten(-1, grid).unflatten(0, (3, -1)).permute(0, 2, 3, 1)
                attended.append(attention(q, k, v).permute(2, 0, 1).flatten(1))
                ups.append(module.up.weight.T)
                centred_ups.append(ups[-1] - ups[-1].mean(-1, keepdim=True))

        pooled_attention = self.head.pool(torch.cat(attended).unflatten(-1, grid).movedim(0, -1))
        logits: Tensor = self.head(self.head.pool(stages[-1]) + pooled_attention @ torch.cat(ups))
        return logits


def _projections(
    module: LowRankAttention,
    shared: Tensor,
    shared_square: Tensor,
    centred_ups: list[Tensor],
    attended: list[Tensor],
) -> Tensor:
    """Scaled queries, keys and values of module `k` from the parts of its stream.

    Args:
        module: Module `k`, of rank `r`.
        shared: `S̃_k`, `(D, B·L)`.
        shared_square: `|S̃_k|²`, `(B·L,)`.
        centred_ups: `Ũ_1 … Ũ_{k-1}`, each `(r, D)`.
        attended: `A_1 … A_{k-1}`, each `(r, B·L)`.

    Returns:
        `LN(x_k) [W_q/√r, W_k, W_v]`, `(3r, B·L)`.
    """
    weights = torch.cat([module.scale * module.q.weight, module.k.weight, module.v.weight])
    rows = torch.cat([module.norm.weight * weights, *centred_ups])
    n_weights = len(weights)
    products = rows @ shared  # R S̃_k
    square = shared_square
    if attended:
        ups, low_rank = torch.cat(centred_ups), torch.cat(attended)
        of_stream = products + (rows @ ups.T) @ low_rank  # R x̃_k
        square = square + (low_rank * (products[n_weights:] + of_stream[n_weights:])).sum(0)
        products = of_stream
    inverse_deviation = torch.rsqrt(square / shared.shape[0] + module.norm.eps)
    return products[:n_weights] * inverse_deviation + (weights @ module.norm.bias).unsqueeze(-1)
