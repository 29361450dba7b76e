"""What every side-network ends in: pool the tokens, normalise, classify."""

from typing import Literal

from torch import Tensor, nn

Pool = Literal["mean", "class"]


class Head(nn.Module):
    """`Linear(LN(pooled))`, with the pooling beside it so that callers can pool first where it is linear.

    Args:
        width: Backbone width `D`.
        n_classes: `C`.
        pool: `"mean"` of the patch tokens, or the `"class"` token.
        n_prefix_tokens: Class and register tokens in front of the patch tokens.

    Raises:
        ValueError: `pool="class"` without a prefix token, or an unknown pooling.
    """

    def __init__(self, width: int, n_classes: int, *, pool: Pool, n_prefix_tokens: int):
        super().__init__()
        if pool not in ("mean", "class"):
            raise ValueError(f"pool is 'mean' or 'class', not {pool!r}")
        if pool == "class" and n_prefix_tokens == 0:
            raise ValueError("pool 'class' needs a class token, and this backbone has no prefix token")
        self.tokens = slice(0, 1) if pool == "class" else slice(n_prefix_tokens, None)
        self.norm = nn.LayerNorm(width)
        self.linear = nn.Linear(width, n_classes)

    def pool(self, tokens: Tensor) -> Tensor:
        """Mean over the pooled tokens: `(..., L, X)` to `(..., X)`."""
        return tokens[..., self.tokens, :].mean(-2)

    def forward(self, pooled: Tensor) -> Tensor:
        """Logits `(B, C)` from pooled tokens `(B, D)`."""
        logits: Tensor = self.linear(self.norm(pooled))
        return logits
