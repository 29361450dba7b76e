"""Stages of texts: like those of images, with the number of tokens of each text."""

from collections.abc import Iterable, Sequence

from torch import Tensor


class Stages(list[Tensor]):
    """The stages `z_0 … z_m` of a batch of texts, each `(B, L, D)`, with zeros after the end of each text.

    This is a list as for images, so all code that takes stages accepts it. `lengths_of` returns the lengths.

    Args:
        stages: The tensors.
        lengths: The number of tokens of each text, `(B,)`, from 1 to `L`.
    """

    def __init__(self, stages: Iterable[Tensor], lengths: Tensor):
        super().__init__(stages)
        self.lengths = lengths


def lengths_of(stages: Sequence[Tensor]) -> Tensor | None:
    """Return the number of tokens of each text, `(B,)`; None for images, which all have the same number."""
    return stages.lengths if isinstance(stages, Stages) else None
