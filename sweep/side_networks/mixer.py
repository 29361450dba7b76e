"""The mixer family: like LAST, but with low-rank MLPs over tokens and over channels instead of attention.

This module is the definition, the export format, and the form that the engine runs.
"""

from collections.abc import Sequence
from typing import cast

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from backbones.stages import lengths_of
from sweep.side_networks.head import Head
from sweep.side_networks.padding import check_rank, padded_normal
from sweep.study.lane_config import Pool


class MixerBlock(nn.Module):
    """`x += W_2 gelu(W_1 LN(x)ᵀ)` over tokens, then `x += V_2 gelu(V_1 LN(x))` over channels.

    Args:
        width: Backbone width `D`.
        n_tokens: Largest number of tokens of an input, `L`.
        rank: Inner width of both MLPs, `r`.
        padded_rank: The stack's rank.
    """

    def __init__(self, width: int, n_tokens: int, rank: int, padded_rank: int):
        super().__init__()
        self.token_norm, self.channel_norm = nn.LayerNorm(width), nn.LayerNorm(width)
        self.token_down = padded_normal((rank, n_tokens), (padded_rank, n_tokens), n_tokens**-0.5)
        self.token_up = padded_normal((n_tokens, rank), (n_tokens, padded_rank), 0.0)
        self.channel_down = padded_normal((rank, width), (padded_rank, width), width**-0.5)
        self.channel_up = padded_normal((width, rank), (width, padded_rank), 0.0)

    def forward(self, x: Tensor, there: Tensor | None) -> Tensor:
        """Apply the block to a residual stream.

        Args:
            x: `(B, L, D)`.
            there: 1 for the tokens of a text and 0 for the padding after its end, `(B, L, 1)`; None for images.

        Returns:
            `(B, L, D)`.
        """
        n_tokens = x.shape[1]
        h = self.token_norm(x) if there is None else self.token_norm(x) * there
        mixed = F.gelu(self.token_down[:, :n_tokens] @ h)  # (B, r, D)
        x = x + self.token_up[:n_tokens] @ mixed
        return x + F.linear(F.gelu(F.linear(self.channel_norm(x), self.channel_down)), self.channel_up)


class Mixer(nn.Module):
    """The side-network: one block `F_i` for each stage after `z_0`.

        y_0 = z_0,   y_i = F_i(z_i + y_{i-1}),   logits = head(LN(pool(y_m − Σ_{i<m} z_i)))

    The up-projections start at zero, so an untrained mixer is the linear probe.

    Args:
        width: Backbone width `D`, the same for all stages.
        n_stages: Number of stages, `m + 1`.
        n_tokens: Largest number of tokens of an input, `L`.
        n_classes: Number of outputs `C`.
        rank: Rank `r`.
        pool: As `Head`.
        n_prefix_tokens: Class and register tokens before the patch tokens.
        padded_rank: The stack's rank; if not given, `rank`.

    Raises:
        ValueError: `rank` is below 1 or above `padded_rank`, there are fewer than two stages, or as `Head`.
    """

    def __init__(
        self,
        width: int,
        n_stages: int,
        n_tokens: int,
        n_classes: int,
        rank: int,
        *,
        pool: Pool = "mean",
        n_prefix_tokens: int = 0,
        padded_rank: int | None = None,
    ):
        super().__init__()
        padded_rank = rank if padded_rank is None else padded_rank
        check_rank(rank, padded_rank)
        if n_stages < 2:
            raise ValueError(f"a mixer needs at least two stages, z_0 and z_1; got {n_stages}")
        self.rank = rank
        self.head = Head(width, n_classes, pool=pool, n_prefix_tokens=n_prefix_tokens)
        self.blocks = nn.ModuleList(MixerBlock(width, n_tokens, rank, padded_rank) for _ in range(n_stages - 1))

    def forward(self, stages: Sequence[Tensor]) -> Tensor:
        """Logits `(B, C)` from stages `z_0 … z_m`, each `(B, L, D)`; for texts `backbones.stages.Stages`."""
        lengths, there = lengths_of(stages), None
        if lengths is not None:
            places = torch.arange(stages[0].shape[1], device=lengths.device)
            there = (places < lengths.unsqueeze(-1)).to(stages[0].dtype).unsqueeze(-1)
        y = stages[0]
        for block, z in zip(cast("list[MixerBlock]", self.blocks), stages[1:], strict=True):
            y = block(z + y, there)
        representation = y - sum(stages[1:-1], start=stages[0])
        logits: Tensor = self.head(self.head.pool(representation, lengths))
        return logits
