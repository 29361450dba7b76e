"""Read-outs of a side-network that computes in a width of `r`: from its stream `h`, `(B, L, r)`, to logits.

    pooled   LN(mean z_m + mean(h) U) W_c + b_c             U starts at zero: the read-out starts as the linear probe
    tokens   [LN(h_1) … LN(h_L)] / √L W_t + b_t             a matrix `(L·r, C)`: what a token says depends on its place
    compact  ([LN(h_1) … LN(h_L)] / √L P) V + b_t           the same matrix as a product of width 32
    both     pooled and tokens added, with W_t = 0 at the start: starts as the linear probe as well

`U` belongs to the side-network and learns at its rate. Everything here is named `head.…` and learns at the head's rate.
"""

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from sweep.side_networks.head import Head
from sweep.side_networks.padding import PaddedLayerNorm, padded_normal
from sweep.study.lane_config import Pool
from sweep.study.structure import READ_OUTS

COMPACT_WIDTH = 32
"""Numbers between tokens and classes in the read-out `compact`."""

DEVIATION = 0.3
"""Of the logits that a read-out of tokens starts with."""


class TokenMatrix(nn.Module):
    """`[LN(h_1) … LN(h_L)] / √L W_t + b_t`: a matrix of weights for every token.

    Args:
        n_tokens: `L`, the most that an input has.
        n_classes: `C`.
        rank: `r`.
        padded_rank: The stack's rank.
        compact: Inner width of the product that stands for the matrix; None for the matrix itself.
        deviation: Standard deviation of the logits at the start.
    """

    def __init__(
        self, n_tokens: int, n_classes: int, rank: int, padded_rank: int, *, compact: int | None, deviation: float
    ):
        super().__init__()
        n_outputs = n_classes if compact is None else compact
        scale = rank**-0.5 * (deviation if compact is None else 1.0)
        self.norm = PaddedLayerNorm(rank, padded_rank)
        self.weight = padded_normal((n_outputs, n_tokens, rank), (n_outputs, n_tokens, padded_rank), scale)
        self.bias = nn.Parameter(torch.zeros(n_classes))
        self.up = None
        if compact is not None:
            self.up = nn.Parameter(deviation * compact**-0.5 * torch.randn(n_classes, compact))

    def forward(self, normalised: Tensor, keep: Tensor, lengths: Tensor | None) -> Tensor:
        """Logits `(B, C)`.

        Args:
            normalised: `LN(h)`, `(B, L, r)`.
            keep: What each token is multiplied by, `(L,)` or `(B, L)`, for as many tokens as an input may have.
            lengths: Tokens of each text, `(B,)`; None for images.
        """
        n_tokens = normalised.shape[1]
        shares = keep[..., :n_tokens]
        if lengths is None:
            shares = shares * n_tokens**-0.5
        else:
            there = torch.arange(n_tokens, device=normalised.device) < lengths.unsqueeze(-1)
            shares = shares * there.to(normalised.dtype) * lengths.to(normalised.dtype).rsqrt().unsqueeze(-1)
        numbers = (normalised * shares.unsqueeze(-1)).mT.flatten(1)  # channel by channel, as `ladder_rows.py` has them
        outputs = F.linear(numbers, self.weight[:, :n_tokens].mT.flatten(1))
        return (outputs if self.up is None else F.linear(outputs, self.up)) + self.bias


class StreamHead(nn.Module):
    """The head of a side-network with a stream of its own, for every read-out.

    Args:
        read_out: Which.
        width: `D` of the last stage.
        n_classes: `C`.
        rank: `r`.
        padded_rank: The stack's rank.
        pool: As of `Head`.
        n_prefix_tokens: As of `Head`.
        n_tokens: `L`, the most that an input has.

    Raises:
        ValueError: As of `Head`, or there is no such read-out.

    Attributes:
        pooled: The wide head, that of the linear probe; None if the read-out has none.
        matrix: The weights of every token; None if the read-out has none.
        keep: What is multiplied by 1 or, in a training step with dropout, by a mask `(B, …)`: the wide head's
            normalised channels, `D` of them, and then the tokens, `L` of them, whichever there are.
    """

    keep: Tensor

    def __init__(
        self,
        read_out: str,
        width: int,
        n_classes: int,
        rank: int,
        padded_rank: int,
        *,
        pool: Pool,
        n_prefix_tokens: int,
        n_tokens: int,
    ):
        super().__init__()
        if read_out not in READ_OUTS:
            raise ValueError(f"read_out is one of {', '.join(READ_OUTS)}, not {read_out!r}")
        self.pooled = self.matrix = None
        if read_out in ("pooled", "both"):
            self.pooled = Head(width, n_classes, pool=pool, n_prefix_tokens=n_prefix_tokens)
        if read_out != "pooled":
            self.matrix = TokenMatrix(
                n_tokens,
                n_classes,
                rank,
                padded_rank,
                compact=COMPACT_WIDTH if read_out == "compact" else None,
                deviation=0.0 if read_out == "both" else DEVIATION,
            )
        self.n_channels = 0 if self.pooled is None else width
        n_kept = self.n_channels + (0 if self.matrix is None else n_tokens)
        self.register_buffer("keep", torch.ones(n_kept), persistent=False)

    def forward(self, pooled: Tensor | None, normalised: Tensor | None, lengths: Tensor | None = None) -> Tensor:
        """Logits `(B, C)`.

        Args:
            pooled: `mean z_m + mean(h) U`, `(B, D)`; given if there is a wide head.
            normalised: `LN(h)` by the matrix's norm, `(B, L, r)`; given if there is a matrix.
            lengths: Tokens of each text, `(B,)`; None for images.
        """
        logits = torch.zeros((), dtype=self.keep.dtype, device=self.keep.device)
        if self.pooled is not None and pooled is not None:
            logits = self.pooled.linear(self.pooled.norm(pooled) * self.keep[..., : self.n_channels])
        if self.matrix is not None and normalised is not None:
            logits = logits + self.matrix(normalised, self.keep[..., self.n_channels :], lengths)
        return logits
