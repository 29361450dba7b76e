"""The head of every side-network: pool the tokens, normalise, classify."""

import torch
from torch import Tensor, nn

from sweep.study.lane_config import Pool

KEEP = "head.keep"
"""Name of the buffer, within a side-network, that dropout replaces."""


def pooled_tokens(pool: Pool, n_prefix_tokens: int) -> slice:
    """The tokens over which a pooling takes the mean.

    Args:
        pool: `"mean"` of the patch tokens (or of a text's tokens), the `"class"` token, or the `"last"` token.
        n_prefix_tokens: Class and register tokens before the patch tokens.

    Raises:
        ValueError: `pool="class"` without a prefix token, or an unknown pooling.
    """
    if pool not in ("mean", "class", "last"):
        raise ValueError(f"pool is 'mean', 'class' or 'last', not {pool!r}")
    if pool == "class" and n_prefix_tokens == 0:
        raise ValueError("pool 'class' needs a class token, and this backbone has no prefix token")
    return {"mean": slice(n_prefix_tokens, None), "class": slice(0, 1), "last": slice(-1, None)}[pool]


def share_of_tokens(tokens: slice, n_tokens: int, lengths: Tensor, dtype: torch.dtype) -> Tensor:
    """Weight of each token of a text in the mean over `tokens`, `(B, L)`.

    Args:
        tokens: The result of `pooled_tokens`, as a slice of the tokens that a text has.
        n_tokens: Padded length of the texts, `L`.
        lengths: Number of tokens of each text, `(B,)`.
        dtype: Dtype of the weights.
    """
    places = torch.arange(n_tokens, device=lengths.device)
    first = tokens.start or 0
    begin = lengths + first if first < 0 else torch.full_like(lengths, first)
    end = lengths if tokens.stop is None else torch.full_like(lengths, tokens.stop)
    pooled = (places >= begin.unsqueeze(-1)) & (places < end.unsqueeze(-1))
    return pooled.to(dtype) / (end - begin).unsqueeze(-1)


class Head(nn.Module):
    """`Linear(LN(pooled))`. Pooling is a separate method, so that callers can pool before other linear operations.

    Args:
        width: Backbone width `D`.
        n_classes: Number of outputs `C`.
        pool: As `pooled_tokens`.
        n_prefix_tokens: Class and register tokens before the patch tokens.

    Raises:
        ValueError: As `pooled_tokens`.

    Attributes:
        keep: Factors on the normalised channels: 1, or in a training step with dropout a mask `(B, D)`.
    """

    keep: Tensor

    def __init__(self, width: int, n_classes: int, *, pool: Pool, n_prefix_tokens: int):
        super().__init__()
        self.tokens = pooled_tokens(pool, n_prefix_tokens)
        self.norm = nn.LayerNorm(width)
        self.linear = nn.Linear(width, n_classes)
        self.register_buffer("keep", torch.ones(width), persistent=False)

    def pool(self, tokens: Tensor, lengths: Tensor | None = None) -> Tensor:
        """Mean over the pooled tokens: `(..., B, L, X)` to `(..., B, X)`. Padding after the end of a text is left out.

        Args:
            tokens: Tokens of images or texts.
            lengths: Number of tokens of each text, `(B,)`; None for images.
        """
        if lengths is None:
            return tokens[..., self.tokens, :].mean(-2)
        return (tokens * share_of_tokens(self.tokens, tokens.shape[-2], lengths, tokens.dtype).unsqueeze(-1)).sum(-2)

    def forward(self, pooled: Tensor) -> Tensor:
        """Logits `(B, C)` from pooled tokens `(B, D)`."""
        logits: Tensor = self.linear(self.norm(pooled) * self.keep)
        return logits
