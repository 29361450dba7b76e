"""Details of a model's score: confusions between classes, calibration, and scores by label and target."""

import math
from dataclasses import dataclass

import torch
from torch import Tensor

from sweep.tasks.box_metrics import precision_of_classes
from sweep.tasks.label_maps import pixel_counts
from sweep.tasks.metrics import N_CALIBRATION_BINS, THRESHOLD, average_precision


@dataclass(frozen=True)
class CalibrationBin:
    """The images whose predicted class has a probability in one interval.

    Attributes:
        low: Lower end of the interval, excluded.
        high: Upper end of the interval, included.
        n: Number of images.
        confidence: Mean probability of the predicted class.
        accuracy: Share of correct predictions.
    """

    low: float
    high: float
    n: int
    confidence: float
    accuracy: float


@dataclass(frozen=True)
class LabelScore:
    """How well one class or label is found.

    Attributes:
        name: Name of the class or label.
        n: Number of images that have it.
        n_predicted: Number of images for which the model predicts it.
        precision: Share of the predicted images that have it; NaN if there are none.
        recall: Share of the images with it for which the model predicts it; NaN if there are none.
        average_precision: Average precision of a label; NaN for classes, and if no image has the label.
    """

    name: str
    n: int
    n_predicted: int
    precision: float
    recall: float
    average_precision: float = float("nan")


@dataclass(frozen=True)
class ClassOverlap:
    """How well the pixels of one class are found.

    Attributes:
        name: Name of the class.
        n_pixels: Number of labelled pixels of it.
        n_predicted: Number of labelled pixels that are predicted as it.
        iou: Intersection over union, both summed over all images; NaN if no pixel is of the class or predicted as it.
        precision: Share of the predicted pixels that are of it; NaN if there are none.
        recall: Share of its pixels that are predicted as it; NaN if there are none.
    """

    name: str
    n_pixels: int
    n_predicted: int
    iou: float
    precision: float
    recall: float


def class_overlaps(outputs: Tensor, labels: Tensor, names: tuple[str, ...]) -> list[ClassOverlap]:
    """Score each class of a segmentation.

    Args:
        outputs: Outputs of the patch tokens, `(n, P, C)`.
        labels: `(n, M, M)`.
        names: Names of the `C` classes.
    """
    counts = pixel_counts(outputs[None], labels)
    both, predicted, labelled = counts.both.sum((0, 1)), counts.predicted.sum((0, 1)), counts.labelled.sum(0)
    shares = (both.double() / whole for whole in (labelled + predicted - both, predicted, labelled))
    rows = zip(names, labelled.tolist(), predicted.tolist(), *(share.tolist() for share in shares), strict=True)
    return [ClassOverlap(*row) for row in rows]


@dataclass(frozen=True)
class ClassBoxes:
    """How well the boxes of one class are found.

    Attributes:
        name: Name of the class.
        n_boxes: Number of its boxes that are not ignored.
        ap: COCO's average precision; this and the others are NaN if the class has no box.
        ap50: The average precision at an intersection over union of 0.50.
        recall: Share of its boxes that a detection overlaps by 0.50.
    """

    name: str
    n_boxes: int
    ap: float
    ap50: float
    recall: float


def class_boxes(found: Tensor, labels: Tensor, names: tuple[str, ...]) -> list[ClassBoxes]:
    """Score each class of a detection.

    Args:
        found: Detections, `(n, D, 6)`; see `found_boxes`.
        labels: Boxes of the images, `(n, M, 6)`.
        names: Names of the `C` classes.
    """
    counted = labels[..., 0][(labels[..., 0] >= 0) & (labels[..., 5] == 0)].long()
    n_boxes = torch.bincount(counted, minlength=len(names)).tolist()
    scores = precision_of_classes(found, labels)
    nothing = {"ap": math.nan, "ap50": math.nan, "recall": math.nan}
    return [
        ClassBoxes(name, n, **scores.get(number, nothing))
        for number, (name, n) in enumerate(zip(names, n_boxes, strict=True))
    ]


def confusion_counts(predicted: Tensor, labels: Tensor, n_classes: int) -> Tensor:
    """Count images by true class (row) and predicted class (column): both `(n,)` to `(C, C)`."""
    return torch.bincount(labels * n_classes + predicted, minlength=n_classes**2).reshape(n_classes, n_classes)


def calibration_bins(probabilities: Tensor, labels: Tensor) -> list[CalibrationBin]:
    """Divide images into the bins of the expected calibration error, by the probability of their predicted class.

    Args:
        probabilities: Probabilities of the classes, `(n, C)`.
        labels: Class indices, `(n,)`.

    Returns:
        The bins that have images, in order.
    """
    confidence, predicted = probabilities.double().max(-1)
    correct = (predicted == labels).double()
    numbers = (confidence * N_CALIBRATION_BINS).ceil().long().clamp(1, N_CALIBRATION_BINS) - 1
    return [
        CalibrationBin(
            low=number / N_CALIBRATION_BINS,
            high=(number + 1) / N_CALIBRATION_BINS,
            n=int(inside.sum()),
            confidence=confidence[inside].mean().item(),
            accuracy=correct[inside].mean().item(),
        )
        for number in numbers.unique().tolist()
        for inside in [numbers == number]
    ]


def class_scores(confusion: Tensor, names: tuple[str, ...]) -> list[LabelScore]:
    """Precision and recall of every class, from `confusion_counts`."""
    right, n, n_predicted = confusion.diagonal().tolist(), confusion.sum(1).tolist(), confusion.sum(0).tolist()
    return [
        LabelScore(name, n[i], n_predicted[i], _share(right[i], n_predicted[i]), _share(right[i], n[i]))
        for i, name in enumerate(names)
    ]


def label_scores(probabilities: Tensor, labels: Tensor, names: tuple[str, ...]) -> list[LabelScore]:
    """Scores of every label, at a probability of 0.5: probabilities and labels (0 or 1) are `(n, C)`."""
    owned, given = labels.bool(), probabilities >= THRESHOLD
    precisions = average_precision(probabilities[None], owned)[0].tolist()
    n, n_predicted, n_both = (flags.sum(0).tolist() for flags in (owned, given, owned & given))
    counts = zip(names, n, n_predicted, n_both, precisions, strict=True)
    return [
        LabelScore(name, has, said, _share(both, said), _share(both, has), precision)
        for name, has, said, both, precision in counts
    ]


def _share(part: int, whole: int) -> float:
    return part / whole if whole else float("nan")
