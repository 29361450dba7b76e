"""Lane-wise metrics: every lane, whatever loss trained it, is measured by the same numbers."""

import torch
import torch.nn.functional as F
from torch import Tensor

N_CALIBRATION_BINS = 15


def classification_metrics(logits: Tensor, labels: Tensor) -> dict[str, Tensor]:
    """Metrics of every lane on one set of images.

    Probabilities are the softmax of the logits, also for lanes trained with one-vs-all losses, so that lanes under
    different losses compare.

    Args:
        logits: `(N, n, C)`.
        labels: `(n,)`.

    Returns:
        Each `(N,)`, fp64: `top1` accuracy; `mean_class_accuracy` and `worst_class_accuracy` over the classes present;
        `nll`, the mean negative log-likelihood in nats; `ece`, the expected calibration error over 15 bins of equal
        width (Guo et al. 2017). A lane with a logit that is not finite has NaN in all of them.
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
    broken = ~logits.isfinite().all(-1).all(-1)
    return {name: values.masked_fill(broken, torch.nan) for name, values in metrics.items()}


def correct_answers(logits: Tensor, labels: Tensor) -> Tensor:
    """Which images each lane gets right, `(N, n)` of bool, from logits `(N, n, C)` and labels `(n,)`."""
    return logits.argmax(-1) == labels


def _class_accuracies(correct: Tensor, labels: Tensor, n_classes: int) -> Tensor:
    """Accuracy on each class that is present: `(N, n)` to `(N, classes)`."""
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
