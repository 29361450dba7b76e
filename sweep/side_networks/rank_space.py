"""LAST in rank space: the same parameters and function as `last.py`, without a residual stream per lane.

The input of module `k` is a frozen part, equal for all lanes, plus a low-rank part:

    x_k = S_k + Σ_{j<k} U_jᵀ A_j        S_k = Σ_{i ≤ stage(k)} z_i,  A_j the attention output of module j,  U_j its W_up

LayerNorm depends on `x_k` only through its centred form `x̃_k = S̃_k + Σ Ũ_jᵀ A_j`. A module only needs its squared
length and `3r` projections of it. Let `W_γ` have the rows `γ ⊙ W_q/√r, γ ⊙ W_k, γ ⊙ W_v`:

    W_γ x̃_k = W_γ S̃_k + (W_γ Ũᵀ) A
    |x̃_k|²  = |S̃_k|² + 2 Σ_{j<k} A_j · (Ũ_j S̃_k) + |Σ_{j<k} Ũ_jᵀ A_j|²

All products of size `D` are with `S̃_k`, which is frozen and the same for all lanes. `rank_space_trunk.py` runs the
modules that way. `cpu/trunk.py` is a faster form in single precision on a CPU, up to a certain rank: it computes the
squared length without its `K²/2` products.
"""

from collections.abc import Sequence
from itertools import chain
from typing import cast

import torch
from torch import Tensor

from sweep.side_networks.cpu import trunk as cpu_trunk
from sweep.side_networks.last import LAST, LowRankAttention
from sweep.side_networks.rank_space_trunk import FrozenStreams, trunk
from sweep.side_networks.token_head import TokenHead, token_outputs


class RankSpaceLAST(LAST):
    """`LAST`, computed in rank space. Same constructor, same `state_dict`, same logits up to rounding.

    In the general form the work grows with `K² r`; in the direct form it grows with `K D`. See `cost.py`.

    Attributes:
        product_dtype: Dtype that the frozen streams are rounded to for products, see `sweep.machine.precision`; None
            for no rounding.
    """

    product_dtype: torch.dtype | None = None

    def forward(self, stages: Sequence[Tensor]) -> Tensor:
        """Logits `(B, C)` from stages `z_0 … z_m`, each `(B, L, D)`; for texts `backbones.stages.Stages`.

        If `dense`, they are of every patch token, `(B, P, C)`.
        """
        if len(stages) != len(self.blocks) + 1:
            raise ValueError(f"{len(self.blocks)} blocks need {len(self.blocks) + 1} stages, not {len(stages)}")
        modules = list(chain.from_iterable(cast("list[list[LowRankAttention]]", self.blocks)))
        weights, ups = zip(*(m.rows() for m in modules), strict=True)  # (3r, D) and U, (r, D)
        projections = [m.norm.weight * w for m, w in zip(modules, weights, strict=True)]  # W_γ, (3r, D)
        biases = [w @ m.norm.bias for m, w in zip(modules, weights, strict=True)]  # (3r,)
        centred_ups = [up - up.mean(-1, keepdim=True) for up in ups]

        frozen = FrozenStreams.of(
            stages,
            modules_per_block=len(modules) // len(self.blocks),
            eps=modules[0].norm.eps,
            dtype=self.product_dtype,
            causal=self.causal,
        )
        if isinstance(self.head, TokenHead):
            attended = trunk(frozen, projections, biases, centred_ups)
            return token_outputs(self.head, stages, attended, torch.cat(centred_ups))
        up, lengths = ups[0], frozen.lengths
        if self.product_dtype is None and cpu_trunk.is_compiled(up.shape[0], up.device, up.dtype):
            pooled = cpu_trunk.pooled_trunk(frozen, projections, biases, centred_ups, self.head.tokens)  # (K·r, B)
        else:
            pooled = self.head.pool(trunk(frozen, projections, biases, centred_ups).movedim(0, -1), lengths).T
        logits: Tensor = self.head(self.head.pool(stages[-1], lengths) + pooled.T @ torch.cat(ups))
        return logits
