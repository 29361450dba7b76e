"""The linear probe: only the head, on one frozen stage. It is the reference that a side-network should beat."""

from collections.abc import Sequence
from typing import TYPE_CHECKING

from torch import Tensor, nn

from backbones.stages import lengths_of
from sweep.machine.seeds import drawing_from
from sweep.side_networks.head import Head
from sweep.side_networks.token_head import TokenHead
from sweep.study.lane_config import Pool

if TYPE_CHECKING:
    from sweep.side_networks.spec import SideNetworkSpec


class LinearProbe(nn.Module):
    """`logits = head(LN(pool(z_i)))`; for segmentation and detection a `TokenHead`, which may read several stages.

    Args:
        width: Backbone width `D`.
        n_classes: Number of outputs `C`.
        stage: Index of the stage to read; the last by default.
        pool: `"mean"` of the patch tokens (or of a text's tokens), the `"class"` token, or the `"last"` token.
        n_prefix_tokens: Class and register tokens before the patch tokens.
        dense: Whether there are logits for every patch token.
        earlier_widths: As `TokenHead`, if `dense`; `stage` is then the last of the stages that are read.
        cells: As `TokenHead`, if `dense`.
    """

    def __init__(
        self,
        width: int,
        n_classes: int,
        *,
        stage: int = -1,
        pool: Pool = "mean",
        n_prefix_tokens: int = 0,
        dense: bool = False,
        earlier_widths: Sequence[int] = (),
        cells: int = 1,
    ):
        super().__init__()
        self.stage = stage
        self.head: Head | TokenHead
        if dense:
            self.head = TokenHead(
                width, n_classes, n_prefix_tokens=n_prefix_tokens, earlier_widths=earlier_widths, cells=cells
            )
        else:
            self.head = Head(width, n_classes, pool=pool, n_prefix_tokens=n_prefix_tokens)

    def forward(self, stages: Sequence[Tensor]) -> Tensor:
        """Logits `(B, C)`, or of every patch token `(B, P, C)`, from stages, each `(B, L, D)`."""
        if isinstance(self.head, TokenHead):
            of_tokens: Tensor = self.head(stages[: self.stage % len(stages) + 1])
            return of_tokens
        logits: Tensor = self.head(self.head.pool(stages[self.stage], lengths_of(stages)))
        return logits


def pooled_probe(spec: "SideNetworkSpec", stage: int, seed: int) -> LinearProbe:
    """A newly initialised linear probe on one stage, for tokens that are already pooled."""
    with drawing_from(seed):
        return LinearProbe(spec.stage_widths[stage], spec.n_classes, stage=stage)


def token_probe(spec: "SideNetworkSpec", stages: Sequence[int], seed: int) -> LinearProbe:
    """A newly initialised linear probe of every token of some stages, by index. It is given only these stages."""
    with drawing_from(seed):
        *earlier, width = (spec.stage_widths[stage] for stage in stages)
        probe = LinearProbe(
            width,
            spec.n_outputs,
            n_prefix_tokens=spec.n_prefix_tokens,
            dense=True,
            earlier_widths=earlier,
            cells=spec.head_cells,
        )
        spec.started(probe)
        return probe
