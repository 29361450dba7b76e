"""Stages of texts: as those of images, with how many tokens of each text there are."""

from collections.abc import Iterable, Sequence

from torch import Tensor


class Stages(list[Tensor]):
    """`z_0 … z_m` of a batch of texts of several lengths, each `(B, L, D)`; what lies beyond a text's length is zero.

    A list like that of images, so that whatever takes stages takes these; who has to know asks `lengths_of`.

    Args:
        stages: The tensors.
        lengths: Tokens of each text, `(B,)`, from 1 to `L`.
    """

    def __init__(self, stages: Iterable[Tensor], lengths: Tensor):
        super().__init__(stages)
        self.lengths = lengths


def lengths_of(stages: Sequence[Tensor]) -> Tensor | None:
    """Tokens of each text, `(B,)`; None of images, which all have the same."""
    return stages.lengths if isinstance(stages, Stages) else None
