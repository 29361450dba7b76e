"""The ladder family: a narrow network beside the backbone that reads every stage.

This module is the definition and the export format. The engine runs `ladder_rows.py`, which computes the same function
from the same parameters and shares the products of size `D` among all lanes.
"""

from collections.abc import Sequence
from typing import cast

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from backbones.stages import lengths_of
from sweep.side_networks.attention import attention
from sweep.side_networks.padding import PaddedLayerNorm, PaddedLinear, check_rank, padded_normal
from sweep.side_networks.read_out import AttentionPooling, StreamHead
from sweep.side_networks.token_head import TokenStreamHead
from sweep.side_networks.visible import attention_bias
from sweep.study.lane_config import Pool
from sweep.study.structure import ATTENTION, DENSE

HEADS = 2
"""Attention heads of a rung; the width of each is half the rank, rounded up."""

MLP_RATIO = 2
"""Inner width of a rung's MLP, in ranks."""

POSITION_DEVIATION = 0.02


class RungAttention(nn.Module):
    """`MHA(LN h) W_o` with two heads of width `r / 2`.

    Args:
        rank: `r`.
        padded_rank: The stack's rank.
    """

    own_width: Tensor

    def __init__(self, rank: int, padded_rank: int):
        super().__init__()
        width, padded_width = -(-rank // HEADS), -(-padded_rank // HEADS)
        own, padded = (HEADS, width, rank), (HEADS, padded_width, padded_rank)
        self.norm = PaddedLayerNorm(rank, padded_rank)
        self.q, self.k, self.v = (padded_normal(own, padded, rank**-0.5) for _ in range(3))
        own, padded = (HEADS, rank, width), (HEADS, padded_rank, padded_width)
        self.out = padded_normal(own, padded, 0.5 * rank**-0.5)
        self.register_buffer("own_width", torch.tensor(float(width)), persistent=False)

    @property
    def scale(self) -> Tensor:
        """`1/sqrt(width)` of a head's own width, exact in any dtype that the module is moved to."""
        return self.own_width.rsqrt()

    def forward(self, h: Tensor, bias: Tensor | None) -> Tensor:
        """`(B, L, r)` to the same shape.

        Args:
            h: The stream.
            bias: Added to the scores of every head, see `visible.py`.
        """
        x = self.norm(h)
        heads = [
            attention(self.scale * F.linear(x, q), F.linear(x, k), F.linear(x, v), bias)
            for q, k, v in zip(self.q, self.k, self.v, strict=True)
        ]
        return sum((F.linear(head, out) for head, out in zip(heads, self.out, strict=True)), torch.zeros_like(h))


class RungMLP(nn.Module):
    """`W_d gelu(W_u LN h + b_u) + b_d`, of inner width `2r`.

    Args:
        rank: `r`.
        padded_rank: The stack's rank.
    """

    def __init__(self, rank: int, padded_rank: int):
        super().__init__()
        inner, padded_inner = MLP_RATIO * rank, MLP_RATIO * padded_rank
        self.norm = PaddedLayerNorm(rank, padded_rank)
        self.up = PaddedLinear((rank, inner), (padded_rank, padded_inner), rank**-0.5)
        self.down = PaddedLinear((inner, rank), (padded_inner, padded_rank), 0.5 * inner**-0.5)

    def forward(self, h: Tensor) -> Tensor:
        """`(B, L, r)` to the same shape."""
        out: Tensor = self.down(F.gelu(self.up(self.norm(h))))
        return out


class Rung(nn.Module):
    """The layers that process the stream after a stage was added to it.

    Args:
        rank: `r`.
        padded_rank: The stack's rank.
        attention: Whether there is attention.
        mlp: Whether there is an MLP.
    """

    def __init__(self, rank: int, padded_rank: int, *, attention: bool, mlp: bool):
        super().__init__()
        self.mixing: nn.Module | None = RungAttention(rank, padded_rank) if attention else None
        self.mlp = RungMLP(rank, padded_rank) if mlp else None

    def forward(self, h: Tensor, bias: Tensor | None) -> Tensor:
        """`(B, L, r)` to the same shape; `bias` as in `RungAttention`."""
        if self.mixing is not None:
            h = h + self.mixing(h, bias)
        return h if self.mlp is None else h + self.mlp(h)


class Ladder(nn.Module):
    """The side-network: a stream `h` of width `r`, to which every stage is added after a projection of its own.

    The stages are `z_0 … z_m`. The first LN has no weights, since `W_i` absorbs them:

        p_i = LN(z_i) W_i + b_i
        h = p_0 + E                                 E: a table of positions
        for i = 1 … m:
            h += p_i
            h += MHA(LN h) W_o                      optional
            h += W_d gelu(W_u LN h + b_u) + b_d     optional
        logits: a read-out of `read_out.py`, or of `token_head.py` for segmentation

    With `pooled`, `attention` and `both`, an untrained ladder is the linear probe. Stages may differ in width.

    Args:
        widths: `D` of every stage, `m + 1` of them.
        n_tokens: Largest number of tokens of an input, `L`.
        n_classes: Number of outputs `C`.
        rank: Rank `r`.
        attention: Whether a rung has attention.
        mlp: Whether a rung has an MLP.
        read_out: As `StreamHead`, or `DENSE` for outputs of every patch token.
        head_stages: For `DENSE`, number of stages that the head reads: the last `k`.
        head_cells: For `DENSE`, rows and columns of places that a token answers for.
        pool: As `Head`.
        n_prefix_tokens: Class and register tokens before the patch tokens.
        causal: Whether a token only attends to itself and earlier tokens, as beside a text decoder.
        padded_rank: The stack's rank; if not given, `rank`.

    Raises:
        ValueError: `rank` is below 1 or above `padded_rank`, there are fewer than two stages, or as `StreamHead`.
    """

    def __init__(
        self,
        widths: Sequence[int],
        n_tokens: int,
        n_classes: int,
        rank: int,
        *,
        attention: bool = False,
        mlp: bool = True,
        read_out: str = "pooled",
        head_stages: int = 1,
        head_cells: int = 1,
        pool: Pool = "mean",
        n_prefix_tokens: int = 0,
        causal: bool = False,
        padded_rank: int | None = None,
    ):
        super().__init__()
        padded_rank = rank if padded_rank is None else padded_rank
        check_rank(rank, padded_rank)
        if len(widths) < 2:
            raise ValueError(f"a ladder needs at least two stages, z_0 and z_1; got {len(widths)}")
        self.rank, self.causal = rank, causal
        sizes = widths[-1], n_classes, rank, padded_rank
        self.head: StreamHead | TokenStreamHead
        if read_out == DENSE:
            earlier = widths[-head_stages:-1]
            self.head = TokenStreamHead(
                *sizes, n_prefix_tokens=n_prefix_tokens, earlier_widths=earlier, cells=head_cells
            )
        else:
            self.head = StreamHead(read_out, *sizes, pool=pool, n_prefix_tokens=n_prefix_tokens, n_tokens=n_tokens)
        self.entries = nn.ModuleList(PaddedLinear((D, rank), (D, padded_rank), D**-0.5) for D in widths)
        self.positions = padded_normal((n_tokens, rank), (n_tokens, padded_rank), POSITION_DEVIATION)
        self.rungs = nn.ModuleList(
            self.rung(rank, padded_rank, attention=attention, mlp=mlp) for _ in range(len(widths) - 1)
        )
        self.up = self.pooling = None
        if isinstance(self.head, StreamHead) and self.head.pooled is not None:
            self.up = padded_normal((rank, widths[-1]), (padded_rank, widths[-1]), 0.0)
            if read_out == ATTENTION:
                self.pooling = AttentionPooling(rank, padded_rank, self.head.pooled.tokens)

    def rung(self, rank: int, padded_rank: int, *, attention: bool, mlp: bool) -> Rung:
        """A rung of this kind of ladder; arguments as `Rung`."""
        return Rung(rank, padded_rank, attention=attention, mlp=mlp)

    def forward(self, stages: Sequence[Tensor]) -> Tensor:
        """Logits from the stages of a batch.

        Args:
            stages: `z_0 … z_m`, each `(B, L, D_i)`; for texts `backbones.stages.Stages`.

        Returns:
            Logits, `(B, C)`, or with `DENSE` of every patch token, `(B, P, C)`.
        """
        lengths = lengths_of(stages)
        bias = attention_bias(stages[0][..., 0], lengths, causal=self.causal)
        added = [entry(F.layer_norm(z, z.shape[-1:])) for entry, z in zip(self.entries, stages, strict=True)]
        h = added[0] + self.positions[: stages[0].shape[1]]
        for rung, p in zip(cast("list[Rung]", self.rungs), added[1:], strict=True):
            h = rung(h + p, bias)
        if isinstance(self.head, TokenStreamHead):
            return self.head.beside(stages, F.linear(self.head.norm(h), self.head.stream))
        pooled = normalised = None
        if self.head.pooled is not None and self.up is not None:
            pool = self.head.pooled.pool
            of_stream = pool(h, lengths) if self.pooling is None else self.pooling(h, lengths)
            pooled = pool(stages[-1], lengths) + of_stream @ self.up
        if self.head.matrix is not None:
            normalised = self.head.matrix.norm(h)
        logits: Tensor = self.head(pooled, normalised, lengths)
        return logits
