"""The loss of detection: which cells answer for which boxes, focal loss for classes, and GIoU for corners.

A cell answers for a box if its centre is inside the box and near the middle of the box, or if the cell has the middle
in it. Of several boxes, it answers for the smallest. All other cells should find no class, except those whose centre is
in an ignored box, which count nothing.
"""

from dataclasses import dataclass
from math import isqrt

import torch
import torch.nn.functional as F
from torch import Tensor

from sweep.tasks.boxes import by_cell, cell_centres, distances_of
from sweep.tasks.dense_sums import mean_over_parts

RADIUS = 1.5
"""How far from the middle of a box a cell may be to answer for it, along x and along y, in sides of a cell."""

POSITIVE_SHARE = 0.25
"""Weight of a class that is there in the focal loss; that of a class that is not there is one minus this."""


@dataclass(frozen=True)
class Assignment:
    """What the cells of a batch should answer.

    Attributes:
        positive: Whether a cell answers for a box, boolean `(B, S)`.
        classes: Class of the box, `(B, S)`; 0 for other cells.
        distances: Distances from the centre of the cell to the left, upper, right and lower edge of the box, first
            dimension, `(4, B, S)`; 1 for other cells. A centre outside of its box has a negative one.
        ignored: Whether a cell counts nothing, boolean `(B, S)`.
    """

    positive: Tensor
    classes: Tensor
    distances: Tensor
    ignored: Tensor

    @classmethod
    def of(cls, labels: Tensor, n_cells: int) -> "Assignment":
        """Assign boxes to cells.

        Args:
            labels: Boxes of every image, `(B, M, 6)`; see `boxes.LABEL_COLUMNS`.
            n_cells: Number of cells of an image, `S`.
        """
        centres, side = cell_centres(n_cells, labels), 1 / isqrt(n_cells)
        classes, low, high = labels[..., 0], labels[..., None, 1:3], labels[..., None, 3:5]
        is_ignored = labels[..., 5] > 0
        inside = ((centres >= low) & (centres <= high)).all(-1)  # (B, M, S)
        away = (centres - (low + high) / 2).abs().amax(-1)
        answers = (inside & (away <= RADIUS * side)) | (away <= side / 2)
        answers &= ((classes >= 0) & ~is_ignored).unsqueeze(-1)
        areas = (high - low)[..., 0, 0] * (high - low)[..., 0, 1]
        smallest = torch.where(answers, areas.unsqueeze(-1), torch.inf).min(1)
        positive, which = smallest.values < torch.inf, smallest.indices
        left, upper, right, lower = (labels[..., column].gather(1, which) for column in range(1, 5))
        x, y = centres.unbind(-1)
        distances = torch.stack([x - left, y - upper, right - x, lower - y])
        return cls(
            positive,
            classes.gather(1, which).long() * positive,
            torch.where(positive, distances, 1),
            (inside & ((classes >= 0) & is_ignored).unsqueeze(-1)).any(1) & ~positive,
        )


def focal_giou(
    outputs: Tensor,
    labels: Tensor,
    gamma: Tensor,
    class_weights: Tensor | None = None,
    learns: Tensor | None = None,
) -> Tensor:
    """Focal loss of the classes of every cell, and `1 - GIoU` of the box of every cell that answers for one.

    Args:
        outputs: `(N, B, P, K)`.
        labels: Boxes of every image, `(B, M, 6)`.
        gamma: Focusing exponent of the focal loss, `(N,)`.
        class_weights: Weights of the classes, `(N, C)`. The weight of a class multiplies both losses of its boxes, and
            not the loss of cells that should not find it.
        learns: Which images each lane learns from, boolean `(N, B)`; if not given, all.

    Returns:
        `(N, B)`. Its mean over the images that a lane learns from is the sum over their cells, divided by the number of
        those that answer for a box.
    """
    logits, edges = by_cell(outputs)
    n_cells, n_classes = logits.shape[2:]
    wanted = Assignment.of(labels, n_cells)
    own = F.one_hot(wanted.classes, n_classes).bool() & wanted.positive.unsqueeze(-1)  # (B, S, C)
    weights = torch.where(own, POSITIVE_SHARE, 1 - POSITIVE_SHARE).to(logits)
    weights = weights.masked_fill(wanted.ignored.unsqueeze(-1), 0)
    distances = distances_of(edges.movedim(-1, 0).contiguous(), n_cells)  # whole tensors are faster than columns
    of_boxes = (1 - generalised_overlap(distances, wanted.distances.unsqueeze(1))) * wanted.positive
    if class_weights is not None:
        weights = torch.where(own, weights * class_weights[:, None, None], weights)
        of_boxes = of_boxes * class_weights[:, wanted.classes]
    right = torch.where(own, logits, -logits)
    of_classes = -weights * (gamma[:, None, None, None] * F.logsigmoid(-right)).exp() * F.logsigmoid(right)
    terms = torch.cat([of_classes.flatten(2), of_boxes], 2)
    return mean_over_parts(terms, wanted.positive.sum(1), learns)


def generalised_overlap(a: Tensor, b: Tensor) -> Tensor:
    """GIoU (Rezatofighi et al. 2019) of boxes that are not both empty: from -1 to 1.

    Args:
        a: Distances from a point to the left, upper, right and lower edge, `(4, ...)`.
        b: The same for other boxes, from the same point.
    """
    near, far = torch.minimum(a, b), torch.maximum(a, b)
    both = _area(near, least=0.0)
    union = _area(a) + _area(b) - both
    hull = _area(far)
    return both / union - (hull - union) / hull


def _area(distances: Tensor, least: float | None = None) -> Tensor:
    """Area of boxes; sides below `least` have that length."""
    sides = distances[:2] + distances[2:]
    sides = sides if least is None else sides.clamp_min(least)
    return sides[0] * sides[1]
