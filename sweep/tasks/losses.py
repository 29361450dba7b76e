"""Loss functions of several lanes at once, each lane with its own parameters.

On the CPU, PyTorch gives `exp`, `log`, `expm1` and `logsigmoid` the same bits at every position of a tensor, but not
`pow` and `sigmoid`. So these two are avoided: a lane's result must not depend on its position in the stack.
"""

import torch
import torch.nn.functional as F
from torch import Tensor

from sweep.tasks.class_weights import LabelWeights


def cross_entropy(logits: Tensor, labels: Tensor, label_smoothing: Tensor) -> Tensor:
    """Cross-entropy with smoothed labels; each lane has its own amount of smoothing.

    Args:
        logits: `(N, B, C)`.
        labels: Class indices, `(B,)`.
        label_smoothing: Probability moved from the label to all classes, `(N,)`.

    Returns:
        The loss of every image, `(N, B)`.
    """
    log_p = F.log_softmax(logits, -1)
    of_label, over_classes = _of_label(log_p, labels), log_p.mean(-1)
    label_smoothing = label_smoothing[:, None]
    return -(of_label + label_smoothing * (over_classes - of_label))


def focal(logits: Tensor, labels: Tensor, gamma: Tensor) -> Tensor:
    """Focal loss `−(1 − p)^γ log p` (Lin et al. 2017), `gamma` `(N,)`; shapes as in `cross_entropy`."""
    log_p = _of_label(F.log_softmax(logits, -1), labels)
    # 1 - p is exactly 0 if p is 1, and there the derivative of a power below one is infinite.
    missed = (-torch.expm1(log_p)).clamp_min(torch.finfo(log_p.dtype).tiny)
    return -(gamma[:, None] * missed.log()).exp() * log_p


def logit_adjusted(logits: Tensor, labels: Tensor, weight: Tensor, log_prior: Tensor) -> Tensor:
    """Cross-entropy on `logits + τ log prior` (Menon et al. 2021): training sees the prior, prediction does not.

    Args:
        logits: `(N, B, C)`.
        labels: `(B,)`.
        weight: `τ`, `(N,)`.
        log_prior: Logarithm of the class frequencies of every lane's training images, `(N, C)`.

    Returns:
        The loss of every image, `(N, B)`.
    """
    adjusted = logits + weight[:, None, None] * log_prior[:, None]
    return -_of_label(F.log_softmax(adjusted, -1), labels)


def binary_one_vs_all(logits: Tensor, labels: Tensor, weights: LabelWeights | None = None) -> Tensor:
    """Sum over classes of binary cross-entropies; shapes as in `cross_entropy`. Labels may also be 0 or 1, `(B, C)`.

    Only labels of 0 and 1 can have weights.
    """
    targets = labels if labels.dim() > 1 else F.one_hot(labels, logits.shape[-1]).to(logits.dtype)
    terms = (1 - targets) * logits - F.logsigmoid(logits)
    return (terms if weights is None else weights.times(terms, targets)).sum(-1)


def asymmetric(
    logits: Tensor,
    labels: Tensor,
    gamma_positive: Tensor,
    gamma_negative: Tensor,
    margin: Tensor,
    weights: LabelWeights | None = None,
) -> Tensor:
    """Asymmetric loss (Ridnik et al. 2021): a sum of binary focal losses that weights absent labels less.

    Let `p` be the probability of a label and `q = max(p − margin, 0)`. The loss is `−(1 − p)^γ₊ log p` if the image has
    the label, and `−q^γ₋ log(1 − q)` if it does not.

    Args:
        logits: `(N, B, C)`.
        labels: 0 or 1, `(B, C)`.
        gamma_positive: `γ₊`, `(N,)`.
        gamma_negative: `γ₋`, `(N,)`.
        margin: Probability up to which an absent label costs nothing, `(N,)`.
        weights: Weights of the labels.

    Returns:
        The loss of every image, `(N, B)`.
    """
    gamma_positive, gamma_negative, margin = (x[:, None, None] for x in (gamma_positive, gamma_negative, margin))
    tiny = torch.finfo(logits.dtype).tiny
    log_p, log_not_p = F.logsigmoid(logits), F.logsigmoid(-logits)
    not_q = (log_not_p.exp() + margin).clamp(tiny, 1)
    present = (gamma_positive * log_not_p).exp() * log_p
    absent = (gamma_negative * (1 - not_q).clamp_min(tiny).log()).exp() * not_q.log()
    terms = -(labels * present + (1 - labels) * absent)
    return (terms if weights is None else weights.times(terms, labels)).sum(-1)


def squared_error(values: Tensor, targets: Tensor) -> Tensor:
    """Mean over targets of the squared errors.

    Args:
        values: Outputs `(N, B, C)`.
        targets: Targets `(B, C)`, standardised on the training set.

    Returns:
        The loss of every image, `(N, B)`.
    """
    return (values - targets).square().mean(-1)


def huber(values: Tensor, targets: Tensor, delta: Tensor) -> Tensor:
    """Huber loss: half the squared error, and linear for errors above a lane's `delta` `(N,)`; see `squared_error`."""
    errors = (values - targets).abs()
    near = errors.minimum(delta[:, None, None])
    return (near * (errors - 0.5 * near)).mean(-1)


def _of_label(scores: Tensor, labels: Tensor) -> Tensor:
    """Each image's score at its label: `(N, B, C)` to `(N, B)`."""
    return scores.gather(-1, labels.expand(scores.shape[:-1]).unsqueeze(-1)).squeeze(-1)
