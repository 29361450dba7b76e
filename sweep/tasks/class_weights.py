"""Class weights: how much each image, or each of its labels, counts in the loss of a lane.

If every image has one class, an image's loss is multiplied by the weight of its class, whatever the loss. If images may
have several labels, the loss is a sum over labels. Each label's term is then multiplied by a weight that depends on
whether the image has the label.

The mean over a batch is still the mean over its images. The mean of balanced weights over the training data is 1, so
learning rates keep their meaning.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from sweep.errors import UsageError

BALANCED, UNWEIGHTED = "balanced", "none"
Weights = str | Sequence[float] | None
"""The type of `LaneConfig.class_weights`."""


def weights_of_classes(weights: Weights, counts: Tensor) -> Tensor:
    """The weight of each class, `(C,)`.

    If `weights` is `"balanced"`, the weight of a class with `n_c` of all `n` training images is `n / (K n_c)`, where
    `K` is the number of classes that have training images. So all classes count alike. The weight of a class without
    training images is 1.

    Args:
        weights: The class weights of the lane's configuration.
        counts: Number of training images of each class, `(C,)`, in the dtype of the logits.

    Raises:
        UsageError: The number of weights is not the number of classes.
    """
    if weights == BALANCED:
        return torch.where(counts > 0, counts.sum() / ((counts > 0).sum() * counts.clamp_min(1)), 1.0)
    return _given(weights, counts)


def weights_of_labels(weights: Weights, counts: Tensor, n_images: int) -> tuple[Tensor, Tensor]:
    """The weights of each label for images that have it, and for images that do not have it, both `(C,)`.

    If `weights` is `"balanced"` and `n_c` of all `n` training images have a label, its weights are `n / (2 n_c)` and
    `n / (2 (n - n_c))`. A label that all training images have, or none, is not weighted. If `weights` are numbers, they
    are weights for the images that have a label, like PyTorch's `pos_weight`.

    Args:
        weights: The class weights of the lane's configuration.
        counts: Number of training images with each label, `(C,)`, in the dtype of the logits.
        n_images: Number of training images.

    Raises:
        UsageError: The number of weights is not the number of labels.
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
        has: Weights for images that have a label, `(N, C)`.
        has_not: Weights for images that do not have it, `(N, C)`.
    """

    has: Tensor
    has_not: Tensor

    def times(self, terms: Tensor, labels: Tensor) -> Tensor:
        """The terms of a loss, `(N, B, C)`, weighted by labels of 0 and 1, `(B, C)`."""
        return terms * (labels * self.has[:, None] + (1 - labels) * self.has_not[:, None])

    def of(self, lanes: Sequence[int]) -> "LabelWeights":
        """The weights of some of the lanes."""
        return LabelWeights(self.has[lanes], self.has_not[lanes])
