"""The losses of a stack: which loss each lane has, with which parameters and weights.

One stack can have several kinds of loss, and a kind that no lane uses costs nothing.
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any, Protocol

import torch
from torch import Tensor

from sweep.tasks.box_loss import focal_giou
from sweep.tasks.class_weights import UNWEIGHTED, LabelWeights, Weights, weights_of_classes, weights_of_labels
from sweep.tasks.kinds import CLASSES
from sweep.tasks.label_maps import cross_entropy_of_maps, dice, interpolated
from sweep.tasks.losses import (
    asymmetric,
    binary_one_vs_all,
    cross_entropy,
    focal,
    huber,
    logit_adjusted,
    squared_error,
)
from sweep.tasks.own_losses import is_own, losses_of_lanes

PARAMETERS = {
    "cross_entropy": ("label_smoothing",),
    "focal": ("focal_gamma",),
    "logit_adjusted": ("logit_adjustment",),
    "asymmetric": ("asymmetric_gamma_positive", "asymmetric_gamma_negative", "asymmetric_margin"),
    "huber": ("huber_delta",),
    "focal_giou": ("focal_gamma",),
}
"""By loss, the fields of `LaneConfig` that it takes after outputs and labels, in order."""


SUMS_OVER_LABELS = ("bce", "asymmetric")
"""Losses that are sums over labels, so that each label can have a weight."""

OF_TOKENS: Mapping[str, Callable[..., Tensor]] = {
    "cross_entropy": cross_entropy_of_maps,
    "dice": dice,
    "focal_giou": focal_giou,
}
"""The losses of segmentation and detection, whose outputs are those of tokens."""

TOKENS_ALONE = ("dice", "focal_giou")
"""Losses that only segmentation or detection has."""

DENSE_DIMENSIONS = 3
"""Dimensions of a batch of label maps, `(B, M, M)`, or of boxes, `(B, M, 6)`."""


def _own_on_maps(
    own: Callable[[Tensor, Tensor], Tensor], outputs: Tensor, labels: Tensor, learns: Tensor | None
) -> Tensor:
    """The losses of a study file, which take interpolated outputs, `(N, B, C, M, M)`, for label maps."""
    return own(interpolated(outputs, labels.shape[-1]), labels)


@dataclass(frozen=True)
class _Group:
    """Lanes with the same kind of loss.

    Attributes:
        lanes: Indices of the lanes.
        loss: Maps outputs `(n, B, C)` and labels to the loss of every image, `(n, B)`; None if it is a loss of
            tokens alone.
        of_tokens: The same for segmentation and detection, from outputs `(n, B, P, C)`, label maps or boxes, and which
            images each lane learns from; None if it is not a loss of these.
    """

    lanes: Tensor
    loss: Callable[[Tensor, Tensor], Tensor] | None
    of_tokens: Callable[[Tensor, Tensor, Tensor | None], Tensor] | None


class LossConfig(Protocol):
    """A configuration with a loss and, under the names in `PARAMETERS`, the loss's parameters."""

    @property
    def loss(self) -> str | None:
        """The kind of loss; None for the default of the task."""
        ...

    @property
    def class_weights(self) -> Weights:
        """See `sweep.tasks.class_weights`."""
        ...

    @property
    def extra(self) -> Mapping[str, Any]:
        """Values by name; those with the names of its parameters are for a loss of the study file."""
        ...


class LaneLosses:
    """The losses of a stack; each lane has its own kind and parameters.

    Args:
        configs: Configurations of the `N` lanes. One without a loss gets cross-entropy.
        class_counts: Number of training images of each class or with each label, `(C,)`, or `(N, C)` if lanes learn
            from different images. An empty class counts as one image.
        dtype: The dtype of the logits.
        n_images: Number of training images, of which an image may have several labels, or one number for each lane; if
            not given, the sum of `class_counts`.
    """

    def __init__(
        self,
        configs: Sequence[LossConfig],
        class_counts: Tensor,
        dtype: torch.dtype,
        n_images: int | Sequence[int] | None = None,
    ):
        device = class_counts.device
        of_lanes = class_counts.to(dtype).expand(len(configs), -1)
        counts = of_lanes.clamp_min(1)
        self.log_prior = (counts / counts.sum(-1, keepdim=True)).log()
        self.class_weights: Tensor | None = None
        self.label_weights: LabelWeights | None = None
        if any(config.class_weights not in (None, UNWEIGHTED) for config in configs):
            n_of_lanes = of_lanes.sum(-1).tolist() if n_images is None else n_images
            n_of_lanes = [n_of_lanes] * len(configs) if isinstance(n_of_lanes, int) else n_of_lanes
            self._weigh([config.class_weights for config in configs], of_lanes, [int(n) for n in n_of_lanes])
        self.groups: list[_Group] = []
        kinds = [config.loss or CLASSES.losses[0] for config in configs]
        for kind in sorted(set(kinds)):
            lanes = [lane for lane, of_lane in enumerate(kinds) if of_lane == kind]

            if is_own(kind):
                own = losses_of_lanes(kind, [configs[i].extra for i in lanes])
                self.groups.append(_Group(torch.tensor(lanes, device=device), own, partial(_own_on_maps, own)))
                continue

            def values(name: str, lanes: list[int] = lanes) -> Tensor:
                return torch.tensor([getattr(configs[i], name) for i in lanes], dtype=dtype, device=device)

            of_tokens = self._bind_to_tokens(kind, values, lanes)
            of_classes = None if kind in TOKENS_ALONE else self._bind(kind, values, lanes)
            self.groups.append(_Group(torch.tensor(lanes, device=device), of_classes, of_tokens))

    def _weigh(self, declared: Sequence[Weights], counts: Tensor, n_images: Sequence[int]) -> None:
        """Fill in the weights of every lane; those of lanes that declare none are 1."""
        self.class_weights = torch.stack(
            [weights_of_classes(weights, own) for weights, own in zip(declared, counts, strict=True)]
        )
        of_labels = [weights_of_labels(*of_lane) for of_lane in zip(declared, counts, n_images, strict=True)]
        has, has_not = (torch.stack(tensors) for tensors in zip(*of_labels, strict=True))
        self.label_weights = LabelWeights(has, has_not)

    def _bind(
        self, kind: str, values: Callable[[str], Tensor], lanes: Sequence[int]
    ) -> Callable[[Tensor, Tensor], Tensor]:
        """The loss function of one kind, with the parameters of its lanes."""
        losses: dict[str, Callable[..., Tensor]] = {
            "cross_entropy": cross_entropy,
            "focal": focal,
            "logit_adjusted": partial(logit_adjusted, log_prior=self.log_prior[list(lanes)]),
            "bce": binary_one_vs_all,
            "asymmetric": asymmetric,
            "mse": squared_error,
            "huber": huber,
        }
        loss, parameters = losses[kind], [values(name) for name in PARAMETERS.get(kind, ())]
        if self.label_weights is None or kind not in SUMS_OVER_LABELS:
            return lambda outputs, labels: loss(outputs, labels, *parameters)
        weights = self.label_weights.of(lanes)
        return lambda outputs, labels: loss(outputs, labels, *parameters, weights=weights if labels.dim() > 1 else None)

    def _bind_to_tokens(
        self, kind: str, values: Callable[[str], Tensor], lanes: Sequence[int]
    ) -> Callable[[Tensor, Tensor, Tensor | None], Tensor] | None:
        """The loss function of one kind for outputs of tokens, with the parameters and class weights of its lanes."""
        if kind not in OF_TOKENS:
            return None
        loss, parameters = OF_TOKENS[kind], [values(name) for name in PARAMETERS.get(kind, ())]
        weights = None if self.class_weights is None else self.class_weights[list(lanes)]
        return lambda outputs, labels, learns: loss(outputs, labels, *parameters, class_weights=weights, learns=learns)

    def __call__(self, logits: Tensor, labels: Tensor, learns: Tensor | None = None) -> Tensor:
        """Mean loss of every lane.

        The mean is taken for all lanes at once, because the number of lanes with the same kind of loss must not change
        the order of a sum.

        Args:
            logits: Outputs `(N, B, C)`, or for segmentation and detection `(N, B, P, C)`.
            labels: Labels as `Target.encode` returns them.
            learns: Which images each lane learns from, boolean `(N, B)`; if not given, all. The mean is over these, and
                the outputs for the others cannot change it. A lane that learns from none of them has the loss 0.

        Returns:
            Losses `(N,)`.
        """
        if learns is not None:
            logits = torch.where(learns.view(*learns.shape, *[1] * (logits.dim() - 2)), logits, 0)
        of_images = logits.new_zeros(logits.shape[:2])
        for group in self.groups:
            outputs = logits[group.lanes]
            if labels.dim() == DENSE_DIMENSIONS:
                assert group.of_tokens is not None  # `LaneConfig.on` refuses other losses
                losses = group.of_tokens(outputs, labels, None if learns is None else learns[group.lanes])
            else:
                assert group.loss is not None  # likewise
                losses = group.loss(outputs, labels)
            of_images = of_images.index_copy(0, group.lanes, losses)
        if self.class_weights is not None and labels.dim() == 1:
            of_images = of_images * self.class_weights[:, labels]
        if learns is not None:
            return torch.where(learns, of_images, 0).sum(-1) / learns.sum(-1).clamp_min(1)
        return of_images.mean(-1)
