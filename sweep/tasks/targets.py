"""Targets: how labels become inputs of a loss, and how outputs become predictions."""

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from sweep.tasks.box_metrics import as_found, detection_metrics, precision_of_images, resampled_ap
from sweep.tasks.boxes import by_cell
from sweep.tasks.kinds import (
    CLASSES,
    DETECTION,
    LARGEST_TARGET,
    MULTI_LABEL,
    REGRESSION,
    SEGMENTATION,
    TASK_KINDS,
    TaskKind,
    recorded_kind,
)
from sweep.tasks.label_maps import IGNORED, accuracy_of_images, interpolated, pixel_counts, segmentation_metrics
from sweep.tasks.metrics import (
    classification_metrics,
    correct_answers,
    multi_label_metrics,
    regression_metrics,
    right_labels,
)

N_RESAMPLES = 200
"""Number of bootstrap resamples of the images for a standard error."""


@dataclass(frozen=True)
class Target:
    """The kind of task of a data set, and for regression the scale of its targets.

    Attributes:
        kind: Kind of task.
        mean: Means of the `C` targets in the training set, for regression; else empty.
        std: Standard deviations of the `C` targets in the training set, for regression; else empty.
    """

    kind: TaskKind = CLASSES
    mean: tuple[float, ...] = ()
    std: tuple[float, ...] = ()

    @classmethod
    def of(cls, task: str, train_labels: np.ndarray) -> "Target":
        """The target of a data set.

        Args:
            task: Name of the kind of task.
            train_labels: Labels of the training set, `(n,)` or `(n, C)`; they decide the scale of a regression.
        """
        if task != REGRESSION.name:
            return cls(TASK_KINDS[task])
        return cls(REGRESSION, tuple(train_labels.mean(0).tolist()), tuple(train_labels.std(0).tolist()))

    def encode(self, labels: Tensor, like: Tensor) -> Tensor:
        """Labels in the form that losses take, on the device of `like`.

        Args:
            labels: Class indices `(B,)`; for multi-label tasks 0 or 1, `(B, C)`; for regression numbers in the units of
                the data, `(B, C)`; for segmentation maps of classes, `(B, M, M)`; for detection boxes, `(B, M, 6)`.
            like: A tensor with the dtype and device of outputs.

        Returns:
            Class indices `(B,)` or `(B, M, M)`; or, with `like`'s dtype, 0 and 1, numbers standardised on the training
            set, `(B, C)`, or boxes.
        """
        if self.kind in (CLASSES, SEGMENTATION):
            return labels.to(like.device, torch.int64)
        if self.kind is REGRESSION:
            labels = labels.double()
            labels = (labels - labels.new_tensor(self.mean)) / labels.new_tensor(self.std)
        return labels.to(like)

    def decode(self, outputs: Tensor) -> Tensor:
        """Predictions from outputs `(..., C)`: logits unchanged, or for regression fp64 numbers in the data's units.

        In single precision, a Julian date would be off by hours and a UNIX time by minutes.
        """
        if self.kind is not REGRESSION:
            return outputs
        outputs = outputs.double()
        return outputs * outputs.new_tensor(self.std) + outputs.new_tensor(self.mean)

    def condensed(self, outputs: Tensor) -> Tensor:
        """What metrics need of outputs: for detection the boxes that are found, else the outputs as they are.

        Args:
            outputs: `(N, n, C)` or `(N, n, P, C)`.

        Returns:
            The same on the CPU, or for detection `(N, n, D, 6)`; see `found_boxes`. All methods that take outputs and
            labels take either.
        """
        return as_found(outputs) if self.kind is DETECTION else outputs.cpu()

    def shown(self, outputs: Tensor, labels: Tensor) -> Tensor:
        """One lane's predictions as a metric of a study file gets them.

        They are those of `decode`, for segmentation interpolated, and for detection the boxes that are found.

        Args:
            outputs: `(n, C)` or `(n, P, C)`.
            labels: `(n,)`, `(n, C)`, `(n, M, M)` or `(n, M, 6)`.

        Returns:
            Predictions `(n, C)`, `(n, C, M, M)` or `(n, D, 6)`.
        """
        if self.kind is DETECTION:
            return as_found(outputs)
        return interpolated(outputs, labels.shape[-1]) if self.kind is SEGMENTATION else self.decode(outputs)

    def together(self, outputs: Tensor) -> Tensor:
        """The joint prediction of several ensemble members.

        It is the logarithm of their mean probabilities for classes (of every token, for segmentation), the logit of
        their mean probabilities for multi-label tasks, and the mean of their numbers for regression. For detection,
        every cell has the logit of the mean probability of a class, and the mean of the outputs for its box.

        Args:
            outputs: Predictions of the members as `decode` returns them, `(N, B, C)` or `(N, B, P, C)`.

        Returns:
            Predictions `(B, C)` or `(B, P, C)`.
        """
        n_members = len(outputs)
        if self.kind in (CLASSES, SEGMENTATION):
            return F.log_softmax(outputs, dim=-1).logsumexp(0) - math.log(n_members)
        if self.kind is MULTI_LABEL:
            return _mean_logit(outputs)
        if self.kind is DETECTION:
            logits, edges = by_cell(outputs)
            cells = torch.cat([_mean_logit(logits), edges.mean(0)], -1)
            return cells.reshape(outputs.shape[1:])
        return outputs.mean(0)

    def probabilities(self, outputs: Tensor) -> Tensor:
        """Probabilities of classes or labels from the result of `decode`, `(..., C)`; for regression, unchanged."""
        if self.kind in (CLASSES, SEGMENTATION):
            return outputs.softmax(-1)
        return outputs.sigmoid() if self.kind is MULTI_LABEL else outputs

    def counts(self, labels: Tensor, n_outputs: int) -> Tensor:
        """Number of images of each class or with each label, or of pixels or boxes, `(C,)`; zeros for regression.

        For segmentation, labels are maps, `(n, M, M)`, or the numbers of pixels in every image, `(n, C)`. For
        detection, they are boxes, `(n, M, 6)`, or the numbers of boxes in every image.
        """
        if self.kind is CLASSES:
            return torch.bincount(labels, minlength=n_outputs)
        if self.kind is SEGMENTATION and labels.dim() > 2:
            return torch.bincount(labels[labels != IGNORED], minlength=n_outputs)
        if self.kind is DETECTION and labels.dim() > 2:
            boxes = labels[(labels[..., 0] >= 0) & (labels[..., 5] == 0)]
            return torch.bincount(boxes[:, 0].long(), minlength=n_outputs)
        return torch.zeros(n_outputs, dtype=torch.int64) if self.kind is REGRESSION else labels.sum(0)

    def measure(self, outputs: Tensor, labels: Tensor) -> dict[str, Tensor]:
        """Metrics of every lane, each `(N,)`, from outputs `(N, n, C)` or `(N, n, P, C)`; see `sweep.tasks.metrics`.

        The errors of a regression are computed between standardised numbers, so that a shift of all targets does not
        change any metric.
        """
        if self.kind is CLASSES:
            return classification_metrics(outputs, labels)
        if self.kind is MULTI_LABEL:
            return multi_label_metrics(outputs, labels)
        if self.kind is SEGMENTATION:
            return segmentation_metrics(outputs, labels)
        if self.kind is DETECTION:
            return detection_metrics(as_found(outputs), labels)
        outputs = outputs.double()
        return regression_metrics(outputs, self.encode(labels, outputs), unit=outputs.new_tensor(self.std))

    def of_images(self, outputs: Tensor, labels: Tensor) -> Tensor:
        """Score of each lane on each image, `(N, n)`; `TaskKind.paired` names it.

        For classes it says whether the prediction is correct (boolean). For multi-label tasks it is the share of
        correct labels, and for segmentation that of correct pixels. For detection it is the average precision of the
        image. For regression it is the squared error in units of the training set's variance, as the mean over targets.
        """
        if self.kind is CLASSES:
            return correct_answers(outputs, labels)
        if self.kind is MULTI_LABEL:
            return right_labels(outputs, labels)
        if self.kind is SEGMENTATION:
            return accuracy_of_images(outputs, labels)
        if self.kind is DETECTION:
            return precision_of_images(as_found(outputs), labels)
        return (outputs.double() - self.encode(labels, outputs.double())).square().mean(-1)

    def measure_one(self, outputs: Tensor, labels: Tensor) -> dict[str, float]:
        """Metrics of one lane from outputs `(n, C)` or `(n, P, C)`, with the score's standard error."""
        metrics = {name: values[0].item() for name, values in self.measure(outputs[None], labels).items()}
        return metrics | self.standard_error(outputs, labels)

    def standard_error(self, outputs: Tensor, labels: Tensor) -> dict[str, float]:
        """The standard error of one lane's score, under the score's name with `_error` appended.

        It is the standard deviation over `N_RESAMPLES` bootstrap resamples of the images, always the same ones. The
        result is empty for classes, whose standard error follows from the score.
        """
        if self.kind is CLASSES:
            return {}
        generator = torch.Generator().manual_seed(0)
        n_images = len(labels)
        resamples = [torch.randint(n_images, (n_images,), generator=generator) for _ in range(N_RESAMPLES)]
        if self.kind is SEGMENTATION:
            counts = pixel_counts(outputs[None], labels)
            scores = [counts.ious(drawn).mean().item() for drawn in resamples]
        elif self.kind is DETECTION:
            scores = resampled_ap(as_found(outputs), labels, resamples)
        else:
            of_resamples = (self.measure(outputs[None, drawn], labels[drawn]) for drawn in resamples)
            scores = [metrics[self.kind.score].item() for metrics in of_resamples]
        defined = torch.tensor(scores, dtype=torch.float64)
        defined = defined[defined.isfinite()]  # a resample may lack every label, or all variance
        return {f"{self.kind.score}_error": defined.std().item() if len(defined) > 1 else math.nan}


def _mean_logit(logits: Tensor) -> Tensor:
    """The logit of the mean probability over the first dimension."""
    return F.logsigmoid(logits).logsumexp(0) - F.logsigmoid(-logits).logsumexp(0)


OF_CLASSES = Target()


def recorded_target(record: Mapping[str, Any], n_outputs: int) -> Target:
    """The target that a record describes by `task`, `mean` and `std`. Records without a task are of classes.

    Raises:
        KeyError: The mean or the standard deviation of a regression is missing.
        TypeError: They are not numbers.
        ValueError: They are not finite, out of range, or their number is not `n_outputs`.
        SweepError: There is no such task.
    """
    if not isinstance(record, Mapping):
        raise TypeError(f"{record!r} is not a JSON object")
    kind = recorded_kind(record)
    if kind is not REGRESSION:
        return Target(kind)
    mean, std = (tuple(map(_finite, record[name])) for name in ("mean", "std"))
    if not (len(mean) == len(std) == n_outputs and all(deviation > 0 for deviation in std)):
        raise ValueError(f"mean {mean} and std {std} are not those of {n_outputs} targets")
    return Target(kind, mean, std)


def _finite(number: Any) -> float:
    if not isinstance(number, int | float) or not abs(number) <= LARGEST_TARGET:
        raise ValueError(f"{str(number)[:40]!r} is not a finite number")
    return float(number)
