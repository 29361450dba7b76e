"""Lane-wise metrics. All lanes have the same metrics, whatever their loss."""

import math

import torch
import torch.nn.functional as F
from torch import Tensor

N_CALIBRATION_BINS = 15
THRESHOLD = 0.5
"""Probability at which an image is predicted to have a label."""


def classification_metrics(logits: Tensor, labels: Tensor) -> dict[str, Tensor]:
    """Metrics of every lane on one set of images.

    Probabilities are the softmax of the logits, also for lanes trained with one-vs-all losses, so that lanes with
    different losses can be compared.

    Args:
        logits: `(N, n, C)`.
        labels: Class indices, `(n,)`.

    Returns:
        Metrics by name, each `(N,)`, fp64: `top1` accuracy; `mean_class_accuracy` and `worst_class_accuracy` over the
        classes that occur; `nll`, the mean negative log-likelihood in nats; `ece`, the expected calibration error over
        15 bins of equal width (Guo et al. 2017). A lane with a logit that is not finite has NaN in all of them.
    """
    logits = logits.double()
    log_p = F.log_softmax(logits, -1)
    confidence, predicted = log_p.exp().max(-1)
    correct = (predicted == labels).double()
    nll = -log_p.gather(-1, labels.expand(log_p.shape[:-1]).unsqueeze(-1)).squeeze(-1).mean(-1)
    of_class = _class_accuracies(correct, labels, logits.shape[-1])
    metrics = {
        "top1": correct.mean(-1),
        "mean_class_accuracy": of_class.mean(-1),
        "worst_class_accuracy": of_class.min(-1).values,
        "nll": nll,
        "ece": _expected_calibration_error(confidence, correct),
    }
    return _nan_where_broken(metrics, logits)


def multi_label_metrics(logits: Tensor, labels: Tensor) -> dict[str, Tensor]:
    """Metrics of every lane on one set of images, each of which may have any of `C` labels.

    Args:
        logits: `(N, n, C)`.
        labels: 0 or 1, `(n, C)`.

    Returns:
        Metrics by name, each `(N,)`, fp64: `map`, the mean of `average_precision` over the labels that occur;
        `micro_f1` over all answers together and `macro_f1`, the mean of F1 over the labels that occur, both at
        probability 0.5; `label_accuracy`, the share of correct answers; `bce`, the mean binary cross-entropy in nats. A
        lane with a logit that is not finite has NaN in all of them.
    """
    logits, has = logits.double(), labels.bool()
    present = has.any(0)
    said = logits >= _logit(THRESHOLD)
    true, errors = (said & has).double(), (said != has).double()
    of_label = _f1(true.sum(1), errors.sum(1))[:, present]
    metrics = {
        "map": average_precision(logits, has)[:, present].mean(-1),
        "micro_f1": _f1(true.sum((1, 2)), errors.sum((1, 2))),
        "macro_f1": of_label.mean(-1),
        "label_accuracy": 1 - errors.mean((1, 2)),
        "bce": ((1 - has.double()) * logits - F.logsigmoid(logits)).mean((1, 2)),
    }
    return _nan_where_broken(metrics, logits)


def average_precision(scores: Tensor, has: Tensor) -> Tensor:
    """Average precision of each label.

    This is the mean, over the images that have the label, of the precision among all images with at least that score.

    Args:
        scores: Scores `(N, n, C)`; they need not be finite.
        has: Whether an image has a label, boolean `(n, C)`.

    Returns:
        Average precisions `(N, C)`, fp64; NaN for a label that no image has.
    """
    order = scores.argsort(dim=1, descending=True, stable=True)
    ranked = scores.gather(1, order)
    hits = has.expand(scores.shape).gather(1, order).double()
    ranks = torch.arange(1, scores.shape[1] + 1, dtype=torch.float64, device=scores.device)[:, None]
    precision = hits.cumsum(1) / ranks
    last_of_tie = torch.ones_like(hits, dtype=torch.bool)
    last_of_tie[:, :-1] = ranked[:, :-1] != ranked[:, 1:]
    ends = torch.where(last_of_tie, ranks, torch.inf).flip(1).cummin(1).values.flip(1)
    precision = precision.gather(1, ends.long() - 1)  # images with equal scores are one step of the curve
    return (precision * hits).sum(1) / hits.sum(1)


def regression_metrics(values: Tensor, targets: Tensor, unit: Tensor | float = 1.0) -> dict[str, Tensor]:
    """Metrics of every lane on one set of images, each of which has `C` numbers as targets.

    Args:
        values: Outputs `(N, n, C)`.
        targets: Targets `(n, C)`.
        unit: Size of 1 in the units of the data, `(C,)` or one number for all targets.

    Returns:
        Metrics by name, each `(N,)`, fp64, as means over targets: `r2`, the share of the targets' variance on these
        images that is explained; `rmse`, the root of the mean squared error, and `mae`, the mean absolute error, both
        in the units of the data. A lane with a value that is not finite has NaN in all of them.
    """
    values, targets = values.double(), targets.double()
    errors = values - targets
    squared = errors.square().mean(1)
    metrics = {
        "r2": (1 - squared / targets.var(0, correction=0)).mean(-1),
        "rmse": (squared.sqrt() * unit).mean(-1),
        "mae": (errors.abs().mean(1) * unit).mean(-1),
    }
    return _nan_where_broken(metrics, values)


def correct_answers(logits: Tensor, labels: Tensor) -> Tensor:
    """Which images each lane classifies correctly: boolean `(N, n)`, from logits `(N, n, C)` and labels `(n,)`."""
    return logits.argmax(-1) == labels


def right_labels(logits: Tensor, labels: Tensor) -> Tensor:
    """Share of each image's labels that each lane answers correctly, `(N, n)`; shapes as in `multi_label_metrics`."""
    return ((logits >= _logit(THRESHOLD)) == labels.bool()).double().mean(-1)


def _logit(probability: float) -> float:
    return math.log(probability / (1 - probability))


def _f1(true_positives: Tensor, errors: Tensor) -> Tensor:
    """F1 score; 1 if there are neither true positives nor errors."""
    denominator = 2 * true_positives + errors
    return torch.where(denominator > 0, 2 * true_positives / denominator, 1.0)


def _nan_where_broken(metrics: dict[str, Tensor], outputs: Tensor) -> dict[str, Tensor]:
    """The metrics, with NaN for lanes that have an output that is not finite."""
    broken = ~outputs.isfinite().all(-1).all(-1)
    return {name: values.masked_fill(broken, torch.nan) for name, values in metrics.items()}


def _class_accuracies(correct: Tensor, labels: Tensor, n_classes: int) -> Tensor:
    """Accuracy on each class that occurs: `(N, n)` to `(N, classes)`."""
    of_class = F.one_hot(labels, n_classes).to(correct.dtype)  # (n, C)
    counts = of_class.sum(0)
    present = counts > 0
    return (correct @ of_class)[:, present] / counts[present]


def _expected_calibration_error(confidence: Tensor, correct: Tensor) -> Tensor:
    """Sum over bins of |accuracy − confidence|, each weighted by its share of images: both `(N, n)` to `(N,)`."""
    bins = (confidence.nan_to_num() * N_CALIBRATION_BINS).ceil().long().clamp(1, N_CALIBRATION_BINS) - 1
    gaps = confidence.new_zeros(len(confidence), N_CALIBRATION_BINS)
    gaps.scatter_add_(1, bins, correct - confidence)
    return gaps.abs().sum(-1) / confidence.shape[-1]
