"""Label maps: a class for every pixel. A side-network answers for tokens, and answers are interpolated between them.

A label map has `LABELS_A_TOKEN` times as many rows as the grid of tokens has. A lane's result must not depend on its
position in the stack, so the interpolation is written with sums and products of whole tensors.
"""

from dataclasses import dataclass
from math import isqrt

import torch
import torch.nn.functional as F
from torch import Tensor

from sweep.tasks.dense_sums import mean_over_parts

LABELS_A_TOKEN = 4
"""Rows, and columns, of labels for each token."""

IGNORED = 255
"""Label of a pixel that counts in no loss and no metric."""

MOST_CLASSES = 255

CHUNK_NUMBERS = 2**22
"""Interpolated outputs that metrics hold at a time."""


def by_place(outputs: Tensor, cells: int) -> Tensor:
    """Outputs of the cells of tokens, row by row of the whole image.

    Args:
        outputs: `(..., P, cells² C)`: of the `P` patch tokens, each with those of its cells row by row.
        cells: Rows, and columns, of cells that a token answers for.

    Returns:
        `(..., P cells², C)`, as tokens of a grid that is `cells` times as fine.
    """
    rows = isqrt(outputs.shape[-2])
    of_cells = outputs.unflatten(-1, (cells, cells, -1)).unflatten(-4, (rows, rows))
    by_row: Tensor = of_cells.transpose(-4, -3).flatten(-5, -2)
    return by_row


def interpolated(outputs: Tensor, side: int) -> Tensor:
    """Interpolate outputs between tokens, like `F.interpolate(…, mode="bilinear")`.

    Args:
        outputs: `(..., P, C)`, the `P` patch tokens or their cells row by row. They make a square grid.
        side: Rows of the result; a multiple of those of the grid.

    Returns:
        `(..., C, side, side)`.
    """
    rows = isqrt(outputs.shape[-2])
    grid = outputs.mT.unflatten(-1, (rows, rows))
    factor = side // rows
    return _stretched(_stretched(grid, grid.dim() - 2, factor), grid.dim() - 1, factor)


def _stretched(x: Tensor, dim: int, factor: int) -> Tensor:
    """Interpolate along one dimension, to `factor` times its length."""
    length = x.shape[dim]
    before = torch.cat([x.narrow(dim, 0, 1), x.narrow(dim, 0, length - 1)], dim)
    after = torch.cat([x.narrow(dim, 1, length - 1), x.narrow(dim, length - 1, 1)], dim)
    parts = []
    for place in range(factor):
        offset = (place + 0.5) / factor - 0.5
        neighbour = before if offset < 0 else after
        parts.append((1 - abs(offset)) * x + abs(offset) * neighbour)
    return torch.stack(parts, dim + 1).flatten(dim, dim + 1)


def cross_entropy_of_maps(
    outputs: Tensor,
    labels: Tensor,
    label_smoothing: Tensor,
    class_weights: Tensor | None = None,
    learns: Tensor | None = None,
) -> Tensor:
    """Cross-entropy of every pixel that has a label.

    Args:
        outputs: `(N, B, P, C)`.
        labels: `(B, M, M)`.
        label_smoothing: Probability moved from the label to all classes, `(N,)`.
        class_weights: Weights of the classes, `(N, C)`.
        learns: Which images each lane learns from, boolean `(N, B)`; if not given, all.

    Returns:
        `(N, B)`. Its mean over the images that a lane learns from is the mean over their labelled pixels.
    """
    labelled = labels != IGNORED
    classes = labels.masked_fill(~labelled, 0)
    log_p = F.log_softmax(interpolated(outputs, labels.shape[-1]), 2)
    of_label = _of_labels(log_p, classes)
    terms = -(of_label + label_smoothing[:, None, None, None] * (log_p.mean(2) - of_label))
    if class_weights is not None:
        terms = terms * class_weights[:, classes]
    return mean_over_parts((terms * labelled).flatten(2), labelled.flatten(1).sum(1), learns)


def dice(outputs: Tensor, labels: Tensor, class_weights: Tensor | None = None, learns: Tensor | None = None) -> Tensor:
    """Dice loss: one minus the mean over classes of `(2 Σ p y + 1) / (Σ p + Σ y + 1)`, over an image's labelled pixels.

    `p` is the probability of the class, and `y` is 1 where it is the label. A class that is neither predicted nor there
    costs nothing. Arguments and shapes are as in `cross_entropy_of_maps`.
    """
    labelled = (labels != IGNORED).unsqueeze(1)
    p = F.log_softmax(interpolated(outputs, labels.shape[-1]), 2).exp() * labelled
    y = labels.unsqueeze(1) == torch.arange(outputs.shape[-1], device=labels.device)[:, None, None]
    overlap, size = (p * y).sum((-2, -1)), p.sum((-2, -1)) + y.sum((-2, -1))
    of_classes = (2 * overlap + 1) / (size + 1)
    if class_weights is None:
        return 1 - of_classes.mean(-1)
    return 1 - (of_classes * class_weights[:, None]).sum(-1) / class_weights.sum(-1)[:, None]


@dataclass(frozen=True)
class PixelCounts:
    """Numbers of labelled pixels of each image, by class.

    Attributes:
        both: Pixels of the class that are predicted as it, `(N, n, C)`.
        predicted: Pixels that are predicted as the class, `(N, n, C)`.
        labelled: Pixels of the class, `(n, C)`.
        nll: Sum of the negative log-likelihoods of the labels, in nats, `(N, n)`, fp64.
    """

    both: Tensor
    predicted: Tensor
    labelled: Tensor
    nll: Tensor

    def ious(self, images: Tensor | slice = slice(None)) -> Tensor:
        """Intersection over union of each class that has a pixel in some images, `(N, classes)`, fp64.

        Intersections and unions are summed over the images before they are divided.

        Args:
            images: Indices of the images, which may repeat.
        """
        both, predicted = self.both[:, images].sum(1).double(), self.predicted[:, images].sum(1).double()
        labelled = self.labelled[images].sum(0)
        unions = predicted + labelled - both
        return (both / unions)[:, labelled > 0]


def pixel_counts(outputs: Tensor, labels: Tensor) -> PixelCounts:
    """Count the pixels of every lane.

    Args:
        outputs: `(N, n, P, C)`.
        labels: `(n, M, M)`.
    """
    n_lanes, n_images, _, n_classes = outputs.shape
    side = labels.shape[-1]
    both, predicted = (outputs.new_zeros((n_lanes, n_images, n_classes), dtype=torch.int64) for _ in range(2))
    labelled = torch.zeros((n_images, n_classes), dtype=torch.int64, device=outputs.device)
    nll = outputs.new_zeros((n_lanes, n_images), dtype=torch.float64)
    images_at_a_time = max(1, CHUNK_NUMBERS // (n_lanes * side * side * n_classes))
    for images in torch.arange(n_images).split(images_at_a_time):
        place = slice(int(images[0]), int(images[-1]) + 1)
        own = labels[place].long()  # (k, M, M)
        has_label = own != IGNORED
        own = own.masked_fill(~has_label, 0)
        log_p = F.log_softmax(interpolated(outputs[:, place], side), 2)  # (N, k, C, M, M)
        nll[:, place] = -(_of_labels(log_p, own).double() * has_label).flatten(2).sum(-1)
        said = log_p.max(2).indices  # much faster than argmax
        labelled[place] = _by_class(own[None], has_label, n_classes)[0]
        predicted[:, place] = _by_class(said, has_label, n_classes)
        both[:, place] = _by_class(said, has_label & (said == own), n_classes)
    return PixelCounts(both, predicted, labelled, nll)


def _of_labels(scores: Tensor, classes: Tensor) -> Tensor:
    """The score of each pixel's class: scores `(N, B, C, M, M)` and classes `(B, M, M)` to `(N, B, M, M)`."""
    n_lanes = len(scores)
    return scores.gather(2, classes.unsqueeze(1).expand(n_lanes, -1, -1, -1, -1)).squeeze(2)


def _by_class(classes: Tensor, counted: Tensor, n_classes: int) -> Tensor:
    """Number of counted pixels of every class: `(N, k, M, M)` to `(N, k, C)`."""
    n_maps, n_bins = classes.shape[0] * classes.shape[1], n_classes + 1  # the last is of pixels that do not count
    first = torch.arange(n_maps, device=classes.device).unflatten(0, classes.shape[:2])[..., None, None] * n_bins
    places = torch.where(counted, classes, n_classes) + first
    counts = torch.bincount(places.flatten(), minlength=n_maps * n_bins)
    of_maps: Tensor = counts.unflatten(0, (*classes.shape[:2], n_bins))
    return of_maps[..., :n_classes]


def segmentation_metrics(outputs: Tensor, labels: Tensor) -> dict[str, Tensor]:
    """Metrics of every lane on one set of images.

    Args:
        outputs: `(N, n, P, C)`.
        labels: `(n, M, M)`.

    Returns:
        Metrics by name, each `(N,)`, fp64: `miou`, the mean of intersection over union over the classes that occur,
        where intersections and unions are summed over all images first; `worst_iou`, that of the worst class;
        `pixel_accuracy`, the share of labelled pixels that are answered correctly; `nll`, the mean negative
        log-likelihood of the labelled pixels in nats. A lane with an output that is not finite has NaN in all of them.
    """
    counts = pixel_counts(outputs, labels)
    ious, n_labelled = counts.ious(), counts.labelled.sum().double()
    metrics = {
        "miou": ious.mean(-1),
        "worst_iou": ious.min(-1).values if ious.shape[-1] else ious.mean(-1),
        "pixel_accuracy": counts.both.sum((1, 2)).double() / n_labelled,
        "nll": counts.nll.sum(-1) / n_labelled,
    }
    broken = ~outputs.isfinite().flatten(1).all(-1)
    return {name: values.masked_fill(broken, torch.nan) for name, values in metrics.items()}


def accuracy_of_images(outputs: Tensor, labels: Tensor) -> Tensor:
    """Share of each image's labelled pixels that each lane answers correctly, `(N, n)`; 0 without a labelled pixel."""
    counts = pixel_counts(outputs, labels)
    return counts.both.sum(-1).double() / counts.labelled.sum(-1).clamp_min(1)
