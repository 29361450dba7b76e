"""What every side-network ends in: pool the tokens, normalise, classify."""

import torch
from torch import Tensor, nn

from sweep.study.lane_config import Pool

KEEP = "head.keep"
"""What a side-network calls the buffer of its head that dropout replaces."""


def pooled_tokens(pool: Pool, n_prefix_tokens: int) -> slice:
    """Which tokens of an input a pooling takes the mean of.

    Args:
        pool: `"mean"` of the patch tokens or of a text's, the `"class"` token, or the `"last"` token.
        n_prefix_tokens: Class and register tokens in front of the patch tokens.

    Raises:
        ValueError: `pool="class"` without a prefix token, or an unknown pooling.
    """
    if pool not in ("mean", "class", "last"):
        raise ValueError(f"pool is 'mean', 'class' or 'last', not {pool!r}")
    if pool == "class" and n_prefix_tokens == 0:
        raise ValueError("pool 'class' needs a class token, and this backbone has no prefix token")
    return {"mean": slice(n_prefix_tokens, None), "class": slice(0, 1), "last": slice(-1, None)}[pool]


def share_of_tokens(tokens: slice, n_tokens: int, lengths: Tensor, dtype: torch.dtype) -> Tensor:
    """What each token of a text counts in the mean over `tokens`, `(B, L)`.

    Args:
        tokens: As `pooled_tokens` gives them, counted in the tokens that a text has.
        n_tokens: `L`.
        lengths: Tokens of each text, `(B,)`.
        dtype: Of the shares.
    """
    places = torch.arange(n_tokens, device=lengths.device)
    first = tokens.start or 0
    begin = lengths + first if first < 0 else torch.full_like(lengths, first)
    end = lengths if tokens.stop is None else torch.full_like(lengths, tokens.stop)
    pooled = (places >= begin.unsqueeze(-1)) & (places < end.unsqueeze(-1))
    return pooled.to(dtype) / (end - begin).unsqueeze(-1)


class Head(nn.Module):
    """`Linear(LN(pooled))`, with the pooling beside it so that callers can pool first where it is linear.

    Args:
        width: Backbone width `D`.
        n_classes: `C`.
        pool: As of `pooled_tokens`.
        n_prefix_tokens: Class and register tokens in front of the patch tokens.

    Raises:
        ValueError: As of `pooled_tokens`.

    Attributes:
        keep: What the normalised channels are multiplied by: 1, and in a training step with dropout a mask, `(B, D)`.
    """

    keep: Tensor

    def __init__(self, width: int, n_classes: int, *, pool: Pool, n_prefix_tokens: int):
        super().__init__()
        self.tokens = pooled_tokens(pool, n_prefix_tokens)
        self.norm = nn.LayerNorm(width)
        self.linear = nn.Linear(width, n_classes)
        self.register_buffer("keep", torch.ones(width), persistent=False)

    def pool(self, tokens: Tensor, lengths: Tensor | None = None) -> Tensor:
        """Mean over the pooled tokens: `(..., B, L, X)` to `(..., B, X)`; in a text, over those that the text has.

        Args:
            tokens: Of images, or of texts.
            lengths: Tokens of each text, `(B,)`; None for images.
        """
        if lengths is None:
            return tokens[..., self.tokens, :].mean(-2)
        return (tokens * share_of_tokens(self.tokens, tokens.shape[-2], lengths, tokens.dtype).unsqueeze(-1)).sum(-2)

    def forward(self, pooled: Tensor) -> Tensor:
        """Logits `(B, C)` from pooled tokens `(B, D)`."""
        logits: Tensor = self.linear(self.norm(pooled) * self.keep)
        return logits
