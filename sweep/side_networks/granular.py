"""The granular form of LAST's modules, after GraLoRA (arXiv 2505.20355): as many parameters, a higher rank.

A module of LAST has two low-rank products of `D x D`: `W_q W_kᵀ`, which gives the scores, and `W_v W_up`, which gives
the output. Both have rank `r`. Here the `D` channels are split into `k` parts, and so are the rows and columns of these
products. Each of the `k x k` blocks is a product of its own, of rank `r / k`:

    scores   Σ_{j,i} (x_j Q_{j,i}) · (x_i K_{j,i})       x_j: part j of LN(x), (D/k);  Q, K, V: D/k x r/k
    output   y_i = Σ_j Attention(x_j V_{j,i}) U_{j,i}    U: r/k x D/k

A module has the `4 D r` weights of LAST, and both products can have rank `k r`. With `k = 1` this is LAST.

Written with all blocks side by side, this is a module of LAST of rank `k r`, most of whose weights are zero. So
`rank_space.py` runs it as it is.
"""

from functools import partial

import torch
from torch import Tensor, nn

from sweep.side_networks.attention import attention
from sweep.side_networks.padding import padded_normal


class GranularAttention(nn.Module):
    """One module: `x + Attention(LN(x) W_q, LN(x) W_k, LN(x) W_v) W_up`, with both low-rank products in `k x k` blocks.

    In `q` and `v`, entry `[i, c, d]` belongs to block `(j, i)`, where `j` is the part that channel `d` is in. In `k`
    and `up`, entry `[j, c, d]` belongs to block `(j, i)`, where `i` is the part that channel `d` is in.

    Args:
        width: Backbone width `D`, a multiple of `parts`.
        rank: Rank `r`, a multiple of `parts`; the attention scale is `1/sqrt(k r)`.
        padded_rank: The stack's rank, a multiple of `parts`; see `last.LowRankAttention`.
        parts: Number of parts, `k`.

    Raises:
        ValueError: A size is not a multiple of `parts`.
    """

    own_rank: Tensor
    part: Tensor

    def __init__(self, width: int, rank: int, padded_rank: int, *, parts: int):
        super().__init__()
        for name, size in (("the width", width), ("the rank", rank), ("the stack's rank", padded_rank)):
            if size % parts:
                raise ValueError(f"{name} must be a multiple of the number of parts, {parts}, not {size}")
        self.norm = nn.LayerNorm(width)
        own, padded = (parts, rank // parts, width), (parts, padded_rank // parts, width)
        drawn = partial(padded_normal, own, padded, (3 * width / parts) ** -0.5)  # as wide as LAST's, by the inputs
        self.q, self.k, self.v = drawn(), drawn(), drawn()
        self.up = padded_normal(own, padded, 0.0)
        self.register_buffer("own_rank", torch.tensor(float(parts * rank)), persistent=False)
        self.register_buffer("part", torch.eye(parts).repeat_interleave(width // parts, 1), persistent=False)

    @property
    def scale(self) -> Tensor:
        """`1/sqrt(k r)` of the module's own rank."""
        return self.own_rank.rsqrt()

    def forward(self, x: Tensor, bias: Tensor | None = None) -> Tensor:
        """Apply the module to a residual stream.

        Args:
            x: `(B, L, D)`.
            bias: Added to the scores, see `visible.py`.

        Returns:
            `(B, L, D)`.
        """
        k = len(self.part)
        h = self.norm(x).unflatten(-1, (k, -1))  # parts of the channels: (B, L, k, D/k)
        q, keys, v, up = (w.unflatten(-1, (k, -1)) for w in (self.q, self.k, self.v, self.up))
        queries, values = (torch.einsum("bljd,icjd->bljic", h, w).flatten(2) for w in (q, v))
        read = torch.einsum("blid,jcid->bljic", h, keys).flatten(2)
        attended = attention(self.scale * queries, read, values, bias).unflatten(-1, (k, k, -1))
        return x + torch.einsum("bljic,jcid->blid", attended, up).flatten(2)

    def rows(self) -> tuple[Tensor, Tensor]:
        """The weights of all blocks side by side: queries, keys and values, `(3 k r, D)`, and `W_upᵀ`, `(k r, D)`.

        The queries include the scale.
        """
        by_input = self.part[:, None, None]  # of block (j, i): the channels of part j
        by_output = self.part[None, :, None]  # the channels of part i
        q, v = ((w * by_input).flatten(0, 2) for w in (self.q, self.v))
        k, up = ((w.unsqueeze(1) * by_output).flatten(0, 2) for w in (self.k, self.up))
        return torch.cat([self.scale * q, k, v]), up
