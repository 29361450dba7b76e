"""What a worker does in the feature pass: it computes ranges of images or texts."""

from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from typing import Any

import numpy as np
import numpy.typing as npt
import torch

from backbones.protocol import Backbone
from sweep.data.base import Split
from sweep.data.decoding import UnreadableImageError
from sweep.errors import SweepError
from sweep.features.computing import computed, decoded
from sweep.features.entry import DTYPE, Part
from sweep.features.stored_batches import checksum_of

N_COMPARED = 4
"""Images that each worker decodes to see whether it gets the same pixels as the run's process."""


@dataclass(frozen=True)
class Computed:
    """The answer of a worker that has computed features.

    Attributes:
        checksums: Checksum of every batch.
        sent: The features of every batch, (B, S, L, D) float16; empty if the worker has written them to the cache.
        lengths: The number of tokens of each text, by batch; empty for images.
    """

    checksums: dict[range, int] = field(default_factory=dict)
    sent: dict[range, npt.NDArray[np.float16]] = field(default_factory=dict)
    lengths: dict[range, list[int]] = field(default_factory=dict)

    def check(self) -> None:
        """Raise `SweepError` if what was sent has other checksums than when it was sent."""
        for batch, values in self.sent.items():
            if checksum_of(values.data, self.lengths.get(batch)) != self.checksums[batch]:
                kind = "texts" if batch in self.lengths else "images"
                raise SweepError(
                    f"the features of {kind} {batch.start} to {batch.stop - 1} did not arrive as a worker sent them; "
                    f"continue with sweep resume"
                )


@dataclass(frozen=True)
class FeaturePass:
    """What a worker needs to compute features.

    Attributes:
        backbone: The backbone.
        split: The images or texts.
        part: Where the features of images belong; None for texts.
        inputs: Checksum of some of them, see `inputs_of`.
    """

    backbone: Backbone
    split: Split
    part: Part | None
    inputs: int

    def check(self) -> None:
        """Raise `SweepError` if this process does not see the same images or texts as the run's process."""
        if inputs_of(self.backbone, self._split_here()) != self.inputs:
            others = (
                "texts than this process, or other tokens"
                if self.part is None
                else ("images than this process, or decodes them to other pixels")
            )
            raise SweepError(f"it sees other {others}")

    def compute(self, batches: Sequence[range], device: torch.device, *, sees_cache: bool) -> Computed:
        """Compute batches. If this process sees the cache, write them to it, and return once they are on the disk.

        Raises:
            SweepError: An image cannot be decoded, or a feature is not a finite float16.
        """
        answer = Computed()
        part = self.part if sees_cache else None

        def store(batch: range, values: npt.NDArray[np.float16], lengths: list[int] | None) -> None:
            if part is not None:
                answer.checksums[batch] = part.write(batch, values)
                return
            answer.sent[batch] = np.ascontiguousarray(values, dtype=DTYPE)
            answer.checksums[batch] = checksum_of(answer.sent[batch].data, lengths)
            if lengths is not None:
                answer.lengths[batch] = lengths

        for _ in computed(self.backbone, self._split_here(), batches, device, store):
            pass
        if part is not None:
            part.sync()
        return answer

    def _split_here(self) -> Split:
        """The split for a worker. It does not look for all that it cannot read, as the run's process does."""

        def opened(index: int) -> Any:
            try:
                return self.split.open(index)
            except UnreadableImageError as error:
                raise SweepError(f"it cannot read the image {error.name}: {error.reason}") from error

        return replace(self.split, opener=opened)


def inputs_of(backbone: Backbone, split: Split) -> int:
    """Checksum of some images or texts of a split as a backbone gets them."""
    places = range(0, split.n_images, -(-split.n_images // N_COMPARED))
    ((_, images),) = decoded(backbone, split, [places])
    return checksum_of(images.contiguous().numpy().data, None)
