"""LAST, low-rank attention side-tuning (arXiv 2402.04009), written as in the paper.

This module is the definition and the export format. The engine runs `rank_space.py`, which computes the same function
from the same parameters without a residual stream per lane.
"""

from collections.abc import Callable, Sequence
from typing import cast

import torch
from torch import Tensor, nn

from backbones.stages import lengths_of
from sweep.side_networks.attention import attention
from sweep.side_networks.head import Head
from sweep.side_networks.padding import check_rank
from sweep.side_networks.token_head import TokenHead
from sweep.side_networks.visible import attention_bias
from sweep.study.lane_config import Pool


class LowRankAttention(nn.Module):
    """One module: `LSA(x) = x + Attention(LN(x) W_q, LN(x) W_k, LN(x) W_v) W_up`, without an FFN.

    Args:
        width: Backbone width `D`.
        rank: Inner width of this module, `r`; the attention scale is `1/sqrt(r)`.
        padded_rank: Number of rows and columns to allocate, at least `rank`. Those beyond `rank` start at zero and stay
            zero, because every gradient of the padding is a product with another part of the padding. So modules of
            several ranks can share one stack, and each computes exactly what a module of its own rank computes.
    """

    own_rank: Tensor

    def __init__(self, width: int, rank: int, padded_rank: int):
        super().__init__()
        self.norm = nn.LayerNorm(width)
        self.q = padded_linear(width, rank, (padded_rank, width))
        self.k = padded_linear(width, rank, (padded_rank, width))
        self.v = padded_linear(width, rank, (padded_rank, width))
        self.up = padded_linear(rank, width, (width, padded_rank))
        self.register_buffer("own_rank", torch.tensor(float(rank)), persistent=False)
        nn.init.zeros_(self.up.weight)

    @property
    def scale(self) -> Tensor:
        """`1/sqrt(r)` of the module's own rank, exact in any dtype that the module is moved to."""
        return self.own_rank.rsqrt()

    def forward(self, x: Tensor, bias: Tensor | None = None) -> Tensor:
        """Apply the module to a residual stream.

        Args:
            x: `(B, L, D)`.
            bias: Added to the scores, see `visible.py`.

        Returns:
            `(B, L, D)`.
        """
        h = self.norm(x)
        out: Tensor = x + self.up(attention(self.scale * self.q(h), self.k(h), self.v(h), bias))
        return out

    def rows(self) -> tuple[Tensor, Tensor]:
        """The weights for `rank_space.py`: of queries, keys and values, `(3r, D)`, and of `W_up`, `(r, D)`.

        Those of the queries include the scale.
        """
        return torch.cat([self.scale * self.q.weight, self.k.weight, self.v.weight]), self.up.weight.T


def padded_linear(inputs: int, outputs: int, padded_shape: tuple[int, int]) -> nn.Linear:
    """A layer without bias. It is drawn at its own size, so that padding changes no random number, and then padded."""
    linear = nn.Linear(inputs, outputs, bias=False)
    padded = torch.zeros(padded_shape)
    padded[:outputs, :inputs] = linear.weight.detach()
    linear.weight = nn.Parameter(padded)
    linear.out_features, linear.in_features = padded_shape
    return linear


def check_shape(rank: int, padded_rank: int, modules_per_block: int, n_stages: int) -> None:
    """Check the sizes of a side-network.

    Raises:
        ValueError: `rank` is below 1 or above `padded_rank`, a block has no module, or there are fewer than two stages.
    """
    check_rank(rank, padded_rank)
    if modules_per_block < 1:
        raise ValueError(f"a block needs at least one module; got {modules_per_block}")
    if n_stages < 2:
        raise ValueError(f"LAST needs at least two stages, z_0 and z_1; got {n_stages}")


class LAST(nn.Module):
    """The side-network: `m` blocks of `T` low-rank attention modules beside a frozen backbone.

    The stages are `z_0 … z_m`:

        u_0 = z_0,   u_i = F_i(u_{i-1} + z_i),   F_i = LSA_T ∘ … ∘ LSA_1
        x_i = u_i − Σ_{j<i} z_j,   representation = x_m,   logits = head(LN(pool(representation)))

    `W_up` starts at zero, so an untrained LAST is the linear probe.

    Args:
        width: Backbone width `D`.
        n_stages: Number of stages, `m + 1`.
        n_classes: Number of outputs `C`.
        rank: Rank `r` of every module.
        modules_per_block: Modules per block, `T`.
        pool: `"mean"` of the patch tokens (or of a text's tokens), the `"class"` token, or the `"last"` token.
        n_prefix_tokens: Class and register tokens before the patch tokens.
        causal: Whether a token only attends to itself and earlier tokens, as beside a text decoder.
        dense: Whether there are logits for every patch token, for segmentation, as `token_head.py` says.
        head_stages: If `dense`, number of stages whose representations the head reads: the last `k`.
        head_cells: If `dense`, rows and columns of places that a token answers for.
        padded_rank: The stack's rank, see `LowRankAttention`; if not given, `rank`.
        attention: Makes a module from width, rank and padded rank; another kind of module has its parts `norm` and
            `rows`, too.

    Raises:
        ValueError: `rank` is below 1 or above `padded_rank`, a block has no module, there are fewer than two stages, or
            `pool` is `"class"` and there is no prefix token.
    """

    def __init__(
        self,
        width: int,
        n_stages: int,
        n_classes: int,
        rank: int,
        *,
        modules_per_block: int = 1,
        pool: Pool = "mean",
        n_prefix_tokens: int = 0,
        causal: bool = False,
        dense: bool = False,
        head_stages: int = 1,
        head_cells: int = 1,
        padded_rank: int | None = None,
        attention: Callable[[int, int, int], nn.Module] = LowRankAttention,
    ):
        super().__init__()
        padded_rank = rank if padded_rank is None else padded_rank
        check_shape(rank, padded_rank, modules_per_block, n_stages)
        self.rank, self.causal = rank, causal
        # The head is drawn first, so that lanes with the same seed start from the same head, whatever their rank.
        self.head: Head | TokenHead
        if dense:
            earlier = [width] * (head_stages - 1)
            self.head = TokenHead(
                width, n_classes, n_prefix_tokens=n_prefix_tokens, earlier_widths=earlier, cells=head_cells
            )
        else:
            self.head = Head(width, n_classes, pool=pool, n_prefix_tokens=n_prefix_tokens)
        self.blocks = nn.ModuleList(
            nn.Sequential(*(attention(width, rank, padded_rank) for _ in range(modules_per_block)))
            for _ in range(n_stages - 1)
        )

    def forward(self, stages: Sequence[Tensor]) -> Tensor:
        """Logits from the stages of a batch.

        Args:
            stages: `z_0 … z_m`, each `(B, L, D)`; for texts `backbones.stages.Stages`.

        Returns:
            Logits, `(B, C)`, or of every patch token `(B, P, C)`.
        """
        lengths = lengths_of(stages)
        bias = attention_bias(stages[0][..., 0], lengths, causal=self.causal)
        first = len(self.blocks) - (len(self.head.weights) if isinstance(self.head, TokenHead) else 1)
        u = before = stages[0]
        representations = []
        for i, (block, z) in enumerate(zip(self.blocks, stages[1:], strict=True)):
            u = u + z
            for module in cast("nn.Sequential", block):
                u = module(u, bias)
            if i >= first:
                representations.append(u - before)
            before = before + z
        if isinstance(self.head, TokenHead):
            return self.head.of_streams(representations)
        logits: Tensor = self.head(self.head.pool(representations[-1], lengths))
        return logits
