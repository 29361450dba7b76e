"""Lane-wise metrics: every lane, whatever loss trained it, is measured by the same four numbers."""

import torch
import torch.nn.functional as F
from torch import Tensor

METRICS = ("top1", "mean_class_accuracy", "nll", "ece")
N_CALIBRATION_BINS = 15


def classification_metrics(logits: Tensor, labels: Tensor) -> dict[str, Tensor]:
    """Metrics of every lane on one set of images.

    Probabilities are the softmax of the logits, also for lanes trained with one-vs-all losses, so that lanes under
    different losses compare.

    Args:
        logits: `(N, n, C)`.
        labels: `(n,)`.

    Returns:
        Each `(N,)`, fp64: `top1` accuracy; `mean_class_accuracy` over the classes present; `nll`, the mean negative
        log-likelihood in nats; `ece`, the expected calibration error over 15 bins of equal width (Guo et al. 2017).
        A lane with a logit that is not finite has NaN in all of them.
    """
    logits = logits.double()
    log_p = F.log_softmax(logits, -1)
    confidence, predicted = log_p.exp().max(-1)
    correct = (predicted == labels).double()
    nll = -log_p.gather(-1, labels.expand(log_p.shape[:-1]).unsqueeze(-1)).squeeze(-1).mean(-1)
    metrics = {
        "top1": correct.mean(-1),
        "mean_class_accuracy": _mean_class_accuracy(correct, labels, logits.shape[-1]),
        "nll": nll,
        "ece": _expected_calibration_error(confidence, correct),
    }
    broken = ~logits.isfinite().all(-1).all(-1)
    return {name: values.masked_fill(broken, torch.nan) for name, values in metrics.items()}


def _mean_class_accuracy(correct: Tensor, labels: Tensor, n_classes: int) -> Tensor:
    of_class = F.one_hot(labels, n_classes).to(correct.dtype)  # (n, C)
    counts = of_class.sum(0)
    present = counts > 0
    return ((correct @ of_class)[:, present] / counts[present]).mean(-1)


def _expected_calibration_error(confidence: Tensor, correct: Tensor) -> Tensor:
    """Sum over bins of |accuracy − confidence|, each weighted by its share of images: both `(N, n)` to `(N,)`."""
    bins = (confidence.nan_to_num() * N_CALIBRATION_BINS).ceil().long().clamp(1, N_CALIBRATION_BINS) - 1
    gaps = confidence.new_zeros(len(confidence), N_CALIBRATION_BINS)
    gaps.scatter_add_(1, bins, correct - confidence)
    return gaps.abs().sum(-1) / confidence.shape[-1]
