"""Lane-wise losses: several kinds live in one stack, and a kind that no lane uses costs nothing.

PyTorch's CPU kernels give `exp`, `log`, `expm1` and `logsigmoid` the same bits at every position of a tensor, but not
`pow` and `sigmoid`, so these two are avoided: a lane's result must not depend on where in the stack it lies.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor

from sweep.lanes import LaneConfig


def cross_entropy(logits: Tensor, labels: Tensor, label_smoothing: Tensor) -> Tensor:
    """Cross-entropy against labels smoothed by a lane's own amount.

    Args:
        logits: `(N, B, C)`.
        labels: Class indices, `(B,)`.
        label_smoothing: `(N,)`.

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
    # 1 - p is exactly 0 for a certain answer, where the derivative of a power below one is infinite.
    missed = (-torch.expm1(log_p)).clamp_min(torch.finfo(log_p.dtype).tiny)
    return -(gamma[:, None] * missed.log()).exp() * log_p


def logit_adjusted(logits: Tensor, labels: Tensor, weight: Tensor, log_prior: Tensor) -> Tensor:
    """Cross-entropy on `logits + τ log prior` (Menon et al. 2021): training sees the prior, prediction does not.

    Args:
        logits: `(N, B, C)`.
        labels: `(B,)`.
        weight: `τ`, `(N,)`.
        log_prior: Logarithm of the training set's class frequencies, `(C,)`.

    Returns:
        The loss of every image, `(N, B)`.
    """
    adjusted = logits + weight[:, None, None] * log_prior
    return -_of_label(F.log_softmax(adjusted, -1), labels)


def binary_one_vs_all(logits: Tensor, labels: Tensor) -> Tensor:
    """Sum over classes of binary cross-entropies; shapes as in `cross_entropy`."""
    targets = F.one_hot(labels, logits.shape[-1]).to(logits.dtype)
    return ((1 - targets) * logits - F.logsigmoid(logits)).sum(-1)


def _of_label(scores: Tensor, labels: Tensor) -> Tensor:
    """Each image's score at its label: `(N, B, C)` to `(N, B)`."""
    return scores.gather(-1, labels.expand(scores.shape[:-1]).unsqueeze(-1)).squeeze(-1)


@dataclass(frozen=True)
class _Group:
    """Lanes under one kind of loss."""

    lanes: Tensor
    loss: Callable[[Tensor, Tensor], Tensor]


class LaneLosses:
    """The losses of a stack, each lane under its own kind and parameters.

    Args:
        configs: One configuration a lane, `N` of them.
        class_counts: Training images of each class, `(C,)`; an empty class counts as one image.
        dtype: The dtype of the logits.
    """

    def __init__(self, configs: Sequence[LaneConfig], class_counts: Tensor, dtype: torch.dtype):
        device = class_counts.device
        counts = class_counts.to(dtype).clamp_min(1)
        self.log_prior = (counts / counts.sum()).log()
        self.groups: list[_Group] = []
        for kind in sorted({config.loss for config in configs}):
            lanes = [lane for lane, config in enumerate(configs) if config.loss == kind]

            def values(name: str, lanes: list[int] = lanes) -> Tensor:
                return torch.tensor([getattr(configs[i], name) for i in lanes], dtype=dtype, device=device)

            self.groups.append(_Group(torch.tensor(lanes, device=device), self._bind(kind, values)))

    def _bind(self, kind: str, values: Callable[[str], Tensor]) -> Callable[[Tensor, Tensor], Tensor]:
        """The loss of one kind with its lanes' parameters filled in."""
        if kind == "cross_entropy":
            smoothing = values("label_smoothing")
            return lambda logits, labels: cross_entropy(logits, labels, smoothing)
        if kind == "focal":
            gamma = values("focal_gamma")
            return lambda logits, labels: focal(logits, labels, gamma)
        if kind == "logit_adjusted":
            weight = values("logit_adjustment")
            return lambda logits, labels: logit_adjusted(logits, labels, weight, self.log_prior)
        return binary_one_vs_all

    def __call__(self, logits: Tensor, labels: Tensor) -> Tensor:
        """Mean loss of every lane, `(N,)`, from logits `(N, B, C)` and labels `(B,)`.

        The mean is taken over all lanes at once: how many lanes share a kind must not decide the order of a sum.
        """
        of_images = logits.new_zeros(logits.shape[:2])
        for group in self.groups:
            of_images = of_images.index_copy(0, group.lanes, group.loss(logits[group.lanes], labels))
        return of_images.mean(-1)
