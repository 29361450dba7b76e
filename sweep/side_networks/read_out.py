"""Read-outs of a side-network with a stream `h` of width `r`: they map `h`, `(B, L, r)`, to logits.

    pooled     LN(mean z_m + mean(h) U) W_c + b_c             U starts at zero: it starts as the linear probe
    attention  LN(mean z_m + (Σ_l a_l h_l) U) W_c + b_c       a = softmax_l(LN(h_l)·q / √r), over the pooled tokens; q
                                                              starts at zero: it starts as `pooled`
    tokens     [LN(h_1) … LN(h_L)] / √L W_t + b_t             a matrix `(L·r, C)` with weights for every position
    compact    ([LN(h_1) … LN(h_L)] / √L P) V + b_t           the same matrix, factorised with an inner width of 32
    both       pooled plus tokens, with W_t = 0 at the start: it starts as the linear probe, too

`U` and `q` belong to the side-network and have its learning rate. All other parameters have names that begin with
`head.`, and so have the head's learning rate.
"""

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from sweep.side_networks.attention import softmax
from sweep.side_networks.head import Head, share_of_tokens
from sweep.side_networks.padding import PaddedLayerNorm, padded_normal
from sweep.study.lane_config import Pool
from sweep.study.structure import ATTENTION, READ_OUTS

COMPACT_WIDTH = 32
"""Inner width of the factorised matrix in the read-out `compact`."""

DEVIATION = 0.3
"""Standard deviation of the initial logits of the read-outs `tokens` and `compact`."""


class AttentionPooling(nn.Module):
    """`Σ_l a_l h_l` with `a = softmax_l(LN(h_l)·q / √r)`, over the tokens that the head pools. LN has no weights.

    Args:
        rank: Rank `r`.
        padded_rank: The stack's rank.
        tokens: The tokens that the head pools, see `pooled_tokens`.
    """

    own_rank: Tensor

    def __init__(self, rank: int, padded_rank: int, tokens: slice):
        super().__init__()
        self.tokens = tokens
        self.norm = PaddedLayerNorm(rank, padded_rank, trained=False)  # q absorbs a weight, and softmax ignores a bias
        self.query = padded_normal((rank,), (padded_rank,), 0.0)
        self.register_buffer("own_rank", torch.tensor(float(rank)), persistent=False)

    @property
    def scaled_query(self) -> Tensor:
        """`q / √r`, exact in any dtype that the module is moved to."""
        return self.query * self.own_rank.rsqrt().unsqueeze(-1)

    def weights(self, scores: Tensor, lengths: Tensor | None) -> Tensor:
        """The weights `a` of all tokens, zero for those that are not pooled, `(..., B, L)`.

        Args:
            scores: `LN(h_l)·q / √r`, `(..., B, L)`.
            lengths: Number of tokens of each text, `(B,)`; None for images.
        """
        n_tokens = scores.shape[-1]
        if lengths is None:
            begin, end, _ = self.tokens.indices(n_tokens)
            return F.pad(softmax(scores[..., self.tokens]), (begin, n_tokens - end))
        there = share_of_tokens(self.tokens, n_tokens, lengths, scores.dtype) > 0
        return softmax(scores.masked_fill(~there, -torch.inf))

    def forward(self, h: Tensor, lengths: Tensor | None) -> Tensor:
        """`(B, r)` from the stream `h`, `(B, L, r)`; `lengths` as in `weights`."""
        weights = self.weights(F.linear(self.norm(h), self.scaled_query.unsqueeze(0)).squeeze(-1), lengths)
        return (weights.unsqueeze(-1) * h).sum(-2)


class TokenMatrix(nn.Module):
    """`[LN(h_1) … LN(h_L)] / √L W_t + b_t`: a matrix of weights for every token.

    Args:
        n_tokens: Largest number of tokens of an input, `L`.
        n_classes: Number of outputs `C`.
        rank: Rank `r`.
        padded_rank: The stack's rank.
        compact: Inner width of a factorised matrix; None for a full matrix.
        deviation: Standard deviation of the initial logits.
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
            keep: Factors on the tokens, `(L,)` or `(B, L)`, where `L` is the largest number of tokens.
            lengths: Number of tokens of each text, `(B,)`; None for images.
        """
        n_tokens = normalised.shape[1]
        shares = keep[..., :n_tokens]
        if lengths is None:
            shares = shares * n_tokens**-0.5
        else:
            there = torch.arange(n_tokens, device=normalised.device) < lengths.unsqueeze(-1)
            shares = shares * there.to(normalised.dtype) * lengths.to(normalised.dtype).rsqrt().unsqueeze(-1)
        numbers = (normalised * shares.unsqueeze(-1)).mT.flatten(1)  # channels first, as in `ladder_rows.py`
        outputs = F.linear(numbers, self.weight[:, :n_tokens].mT.flatten(1))
        return (outputs if self.up is None else F.linear(outputs, self.up)) + self.bias


class StreamHead(nn.Module):
    """The head of a ladder, for every read-out.

    Args:
        read_out: A name in `READ_OUTS`.
        width: Width `D` of the last stage.
        n_classes: Number of outputs `C`.
        rank: Rank `r`.
        padded_rank: The stack's rank.
        pool: As `Head`.
        n_prefix_tokens: As `Head`.
        n_tokens: Largest number of tokens of an input, `L`.

    Raises:
        ValueError: As `Head`, or there is no such read-out.

    Attributes:
        pooled: The head of the linear probe; None if the read-out does not have it.
        matrix: The weights of every token; None if the read-out does not have them.
        keep: Factors on the `D` normalised channels of `pooled`, followed by factors on the `L` tokens of `matrix`, if
            the read-out has them. The factors are 1, or in a training step with dropout a mask `(B, …)`.
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
        if read_out in ("pooled", ATTENTION, "both"):
            self.pooled = Head(width, n_classes, pool=pool, n_prefix_tokens=n_prefix_tokens)
        if read_out not in ("pooled", ATTENTION):
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
            pooled: `mean z_m + mean(h) U`, or with weights in place of the second mean, `(B, D)`, if the read-out has
                `pooled`.
            normalised: `LN(h)` by the matrix's norm, `(B, L, r)`, if the read-out has `matrix`.
            lengths: Number of tokens of each text, `(B,)`; None for images.
        """
        logits = torch.zeros((), dtype=self.keep.dtype, device=self.keep.device)
        if self.pooled is not None and pooled is not None:
            logits = self.pooled.linear(self.pooled.norm(pooled) * self.keep[..., : self.n_channels])
        if self.matrix is not None and normalised is not None:
            logits = logits + self.matrix(normalised, self.keep[..., self.n_channels :], lengths)
        return logits
