"""How much each image, or each of its labels, counts in the loss of a lane.

Where every image has one class, an image's loss is multiplied by the weight of its class, whatever the loss. Where an
image may have several labels, the loss is a sum over labels, and each label's part is multiplied by a weight that
depends on whether the image has the label.

The mean over a batch stays the mean over its images. Balanced weights have the mean 1 over the training data, so
learning rates keep their meaning.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from sweep.errors import UsageError

BALANCED, UNWEIGHTED = "balanced", "none"
Weights = str | Sequence[float] | None
"""As `LaneConfig.class_weights` has them."""


def weights_of_classes(weights: Weights, counts: Tensor) -> Tensor:
    """The weight of each class, `(C,)`.

    Balanced, a class of `n_c` of all `n` training images has the weight `n / (K n_c)`, for `K` classes that have
    training images: all classes count alike. A class without training images has the weight 1.

    Args:
        weights: What the lane declares.
        counts: Training images of each class, `(C,)`, in the dtype of the logits.

    Raises:
        UsageError: There are not as many numbers as classes.
    """
    if weights == BALANCED:
        return torch.where(counts > 0, counts.sum() / ((counts > 0).sum() * counts.clamp_min(1)), 1.0)
    return _given(weights, counts)


def weights_of_labels(weights: Weights, counts: Tensor, n_images: int) -> tuple[Tensor, Tensor]:
    """The weights of each label for images that have it, and for images that have it not, both `(C,)`.

    Balanced, of a label that `n_c` of all `n` training images have, these are `n / (2 n_c)` and `n / (2 (n - n_c))`. A
    label that all training images have, or none, is not weighted. Numbers are weights for the images that have a label,
    as PyTorch's `pos_weight`.

    Args:
        weights: What the lane declares.
        counts: Training images with each label, `(C,)`, in the dtype of the logits.
        n_images: Training images.

    Raises:
        UsageError: There are not as many numbers as labels.
    """
    if weights == BALANCED:
        lacking = n_images - counts
        varies = (counts > 0) & (lacking > 0)
        halves = (n_images / (2 * number.clamp_min(1)) for number in (counts, lacking))
        has, has_not = (torch.where(varies, half, 1.0) for half in halves)
        return has, has_not
    return _given(weights, counts), torch.ones_like(counts)


def _given(weights: Weights, counts: Tensor) -> Tensor:
    if weights is None or isinstance(weights, str):
        return torch.ones_like(counts)
    if len(weights) != len(counts):
        raise UsageError(
            f"LaneConfig.class_weights has {len(weights)} numbers, and the data have {len(counts)} classes"
        )
    return counts.new_tensor(list(weights))


@dataclass(frozen=True)
class LabelWeights:
    """Weights of labels for some lanes.

    Attributes:
        has: For images that have a label, `(N, C)`.
        has_not: For those that have it not, `(N, C)`.
    """

    has: Tensor
    has_not: Tensor

    def times(self, terms: Tensor, labels: Tensor) -> Tensor:
        """The terms of a loss, `(N, B, C)`, weighted by labels of 0 and 1, `(B, C)`."""
        return terms * (labels * self.has[:, None] + (1 - labels) * self.has_not[:, None])

    def of(self, lanes: Sequence[int]) -> "LabelWeights":
        """Those of some of the lanes."""
        return LabelWeights(self.has[lanes], self.has_not[lanes])
