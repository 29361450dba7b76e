"""The losses of segmentation and detection as a PyTorch user would write them, for the plain loop."""

from collections.abc import Callable
from math import isqrt
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from sweep.study.lane_config import LaneConfig
from sweep.tasks.label_maps import IGNORED
from sweep.tasks.own_losses import is_own, loss_of_images
from sweep.training.plain_box_loss import plain_box_loss


def plain_dense_loss(config: LaneConfig, class_counts: Tensor) -> Callable[[Tensor, Tensor], Tensor]:
    """The loss function of a configuration.

    It maps outputs `(B, P, C)` and label maps `(B, M, M)` to a scalar; for detection, as `plain_box_loss`.

    Args:
        config: The configuration; without a loss it gets cross-entropy.
        class_counts: Number of training pixels, or boxes, of each class, `(C,)`, in the dtype of the outputs.
    """
    weights = _class_weights(config, class_counts)
    if config.loss == "focal_giou":
        return plain_box_loss(config, weights)

    def loss_of(outputs: Tensor, labels: Tensor) -> Tensor:
        rows = isqrt(outputs.shape[1])
        grid = outputs.mT.unflatten(-1, (rows, rows))
        logits = F.interpolate(grid, labels.shape[1:], mode="bilinear")  # (B, C, M, M)
        if config.loss is not None and is_own(config.loss):
            return loss_of_images(config.loss, config.extra)(logits, labels).mean()
        if config.loss == "dice":
            return _dice(logits, labels, weights)
        of_pixels = F.cross_entropy(
            logits, labels, ignore_index=IGNORED, label_smoothing=config.label_smoothing, reduction="none"
        )
        of_pixels = of_pixels * weights[labels.clamp(max=len(weights) - 1)]
        return of_pixels.sum() / max(1, int((labels != IGNORED).sum()))

    return loss_of


def _class_weights(config: LaneConfig, counts: Tensor) -> Tensor:
    given: Any = config.class_weights  # "balanced", or one number per class
    if given in (None, "none"):
        return torch.ones_like(counts)
    if given != "balanced":
        return counts.new_tensor(given)
    there = [count for count in counts.tolist() if count > 0]
    balanced = [sum(there) / (len(there) * count) if count > 0 else 1.0 for count in counts.tolist()]
    return counts.new_tensor(balanced)


def _dice(logits: Tensor, labels: Tensor, weights: Tensor) -> Tensor:
    p = logits.softmax(1)
    total = logits.new_zeros(())
    for image, own in zip(p, labels, strict=True):
        labelled = own != IGNORED
        scores = []
        for c, of_class in enumerate(image):
            chosen, true = of_class[labelled], (own[labelled] == c).to(of_class.dtype)
            scores.append((2 * (chosen * true).sum() + 1) / (chosen.sum() + true.sum() + 1))
        total = total + 1 - (torch.stack(scores) * weights).sum() / weights.sum()
    return total / len(labels)
