"""The linear probe: the head alone, on one frozen stage. The reference that a side-network has to beat."""

from collections.abc import Sequence

from torch import Tensor, nn

from backbones.stages import lengths_of
from sweep.side_networks.head import Head
from sweep.study.lane_config import Pool


class LinearProbe(nn.Module):
    """`logits = head(LN(pool(z_i)))`.

    Args:
        width: Backbone width `D`.
        n_classes: `C`.
        stage: Which of the given stages to read; the last by default.
        pool: `"mean"` of the patch tokens or of a text's, the `"class"` token, or the `"last"` token.
        n_prefix_tokens: Class and register tokens in front of the patch tokens.
    """

    def __init__(self, width: int, n_classes: int, *, stage: int = -1, pool: Pool = "mean", n_prefix_tokens: int = 0):
        super().__init__()
        self.stage = stage
        self.head = Head(width, n_classes, pool=pool, n_prefix_tokens=n_prefix_tokens)

    def forward(self, stages: Sequence[Tensor]) -> Tensor:
        """Logits `(B, C)` from stages, each `(B, L, D)`."""
        logits: Tensor = self.head(self.head.pool(stages[self.stage], lengths_of(stages)))
        return logits
