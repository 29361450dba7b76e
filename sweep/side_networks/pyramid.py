"""LAST beside a backbone whose stages differ in width: the definition.

Frozen stages of different widths cannot be added. So a new residual stream begins at every width, with the frozen
stages of that width only. The contributions of earlier modules are kept: module `j` has computed `A_j = Attention(…)`,
`(B, L, r)`, and projects it into every stream that is read after it, with one up-projection per stream:

    x_k = S_k + Σ_{j<k} U_jᵀ A_j        S_k: sum of the stages up to module k that have its width, U_j of that width
    representation = z_m + Σ_j U_jᵀ A_j          logits = head(LN(pool(representation)))

All stages have the same `L` tokens, because the backbone pools them onto one grid. If all widths are equal, this is
`LAST`. All up-projections start at zero, so an untrained side-network is the linear probe.
"""

from collections.abc import Mapping, Sequence
from itertools import groupby
from typing import cast

import torch
from torch import Tensor, nn

from sweep.side_networks.attention import attention
from sweep.side_networks.head import Head
from sweep.side_networks.last import check_shape, padded_linear
from sweep.study.lane_config import Pool


class PyramidAttention(nn.Module):
    """One module: low-rank attention on a stream of one width, projected into this stream and the streams after it.

    Args:
        width: Width `D` of the stream that it reads.
        into: Width `D` of each stream that is read after it, by the stream's number.
        rank: Inner width `r`; the attention scale is `1/sqrt(r)`.
        padded_rank: Rows and columns to allocate; see `last.LowRankAttention`.
    """

    own_rank: Tensor

    def __init__(self, width: int, into: Mapping[int, int], rank: int, padded_rank: int):
        super().__init__()
        self.norm = nn.LayerNorm(width)
        self.q = padded_linear(width, rank, (padded_rank, width))
        self.k = padded_linear(width, rank, (padded_rank, width))
        self.v = padded_linear(width, rank, (padded_rank, width))
        self.up = nn.ModuleDict({str(i): padded_linear(rank, later, (later, padded_rank)) for i, later in into.items()})
        self.register_buffer("own_rank", torch.tensor(float(rank)), persistent=False)
        for up in self.up.parameters():
            nn.init.zeros_(up)

    @property
    def scale(self) -> Tensor:
        """`1/sqrt(r)` of the module's own rank."""
        return self.own_rank.rsqrt()

    def forward(self, x: Tensor) -> Tensor:
        """The attention output `A`, `(B, L, r)`, for a stream `(B, L, D)`."""
        h = self.norm(x)
        return attention(self.scale * self.q(h), self.k(h), self.v(h))


class PyramidLAST(nn.Module):
    """The side-network of a backbone whose stages have several widths.

    Args:
        widths: `D` of every stage, `m + 1` of them.
        n_classes: Number of outputs `C`.
        rank: Rank `r` of every module.
        modules_per_block: Modules per block, `T`.
        pool: `"mean"` of the patch tokens, or the `"class"` token.
        n_prefix_tokens: Class and register tokens before the patch tokens.
        padded_rank: The stack's rank; if not given, `rank`.

    Raises:
        ValueError: As `LAST`.
    """

    def __init__(
        self,
        widths: Sequence[int],
        n_classes: int,
        rank: int,
        *,
        modules_per_block: int = 1,
        pool: Pool = "mean",
        n_prefix_tokens: int = 0,
        padded_rank: int | None = None,
    ):
        super().__init__()
        padded_rank = rank if padded_rank is None else padded_rank
        check_shape(rank, padded_rank, modules_per_block, len(widths))
        self.rank = rank
        self.head = Head(widths[-1], n_classes, pool=pool, n_prefix_tokens=n_prefix_tokens)
        self.streams = streams_of(widths)
        stream_widths = [width for width, _ in groupby(widths)]
        reading = [stream for stream in self.streams[1:] for _ in range(modules_per_block)]  # by module
        modules = [
            PyramidAttention(
                stream_widths[stream],
                {later: stream_widths[later] for later in sorted({*reading[k + 1 :], self.streams[-1]})},
                rank,
                padded_rank,
            )
            for k, stream in enumerate(reading)
        ]
        self.blocks = nn.ModuleList(
            nn.ModuleList(modules[i : i + modules_per_block]) for i in range(0, len(modules), modules_per_block)
        )

    def forward(self, stages: Sequence[Tensor]) -> Tensor:
        """Logits from the stages of a batch.

        Args:
            stages: `z_0 … z_m`, each `(B, L, D_i)`.

        Returns:
            Logits, `(B, C)`.
        """
        x = stages[0]
        attended: list[tuple[PyramidAttention, Tensor]] = []
        for i, (block, z) in enumerate(zip(self.blocks, stages[1:], strict=True), start=1):
            stream = str(self.streams[i])
            if self.streams[i] == self.streams[i - 1]:
                x = x + z
            else:
                x = z + sum(module.up[stream](a) for module, a in attended)
            for module in cast("list[PyramidAttention]", block):
                a = module(x)
                attended.append((module, a))
                if stream in module.up:
                    x = x + module.up[stream](a)
        added = sum(module.up[str(self.streams[-1])](a) for module, a in attended)
        logits: Tensor = self.head(self.head.pool(stages[-1] + added))
        return logits


def streams_of(widths: Sequence[int]) -> list[int]:
    """For every stage, the number of its residual stream. Successive stages of one width share a stream."""
    return [stream for stream, (_, run) in enumerate(groupby(widths)) for _ in run]
