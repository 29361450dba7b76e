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

from sweep.tasks.boxes import COORDINATES, by_cell, cell_centres, corners_of

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
        corners: Corners of the box, `(B, S, 4)`; for other cells those of the whole image, so that nothing is
            divided by zero.
        ignored: Whether a cell counts nothing, boolean `(B, S)`.
    """

    positive: Tensor
    classes: Tensor
    corners: Tensor
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
        own = labels[..., 1:5].gather(1, which.unsqueeze(-1).expand(-1, -1, COORDINATES))
        whole = labels.new_tensor([0.0, 0.0, 1.0, 1.0])
        return cls(
            positive,
            classes.gather(1, which).long().clamp_min(0) * positive,
            torch.where(positive.unsqueeze(-1), own, whole),
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
    log_p, log_not_p = F.logsigmoid(logits), F.logsigmoid(-logits)
    gamma = gamma[:, None, None, None]
    present = -POSITIVE_SHARE * (gamma * log_not_p).exp() * log_p
    absent = (POSITIVE_SHARE - 1) * (gamma * log_p).exp() * log_not_p
    corners = corners_of(edges, cell_centres(n_cells, edges), n_cells)
    of_boxes = (1 - generalised_overlap(corners, wanted.corners)) * wanted.positive
    if class_weights is not None:
        present = present * class_weights[:, None, None]
        of_boxes = of_boxes * class_weights[:, wanted.classes]
    of_classes = torch.where(own, present, absent).masked_fill(wanted.ignored.unsqueeze(-1), 0)
    terms = torch.cat([of_classes.flatten(2), of_boxes], 2)
    if terms.shape[:2].numel() == 1:  # PyTorch divides a single sum among threads, but not two
        terms = terms.repeat(1, 2, 1)
    if learns is None:
        learns = torch.ones(1, len(labels), dtype=torch.bool, device=labels.device)
    n_positive = wanted.positive.sum(1)
    share = learns.sum(1) / (learns * n_positive).sum(1).clamp_min(1).to(outputs.dtype)
    return terms.sum(-1)[:, : len(labels)] * share.unsqueeze(1)


def generalised_overlap(a: Tensor, b: Tensor) -> Tensor:
    """GIoU (Rezatofighi et al. 2019) of boxes `(..., 4)` that are not both empty: from -1 to 1."""
    low, high = torch.maximum(a[..., :2], b[..., :2]), torch.minimum(a[..., 2:], b[..., 2:])
    both = areas(high - low)
    union = areas(a[..., 2:] - a[..., :2]) + areas(b[..., 2:] - b[..., :2]) - both
    hull = areas(torch.maximum(a[..., 2:], b[..., 2:]) - torch.minimum(a[..., :2], b[..., :2]))
    return both / union - (hull - union) / hull


def areas(sides: Tensor) -> Tensor:
    """Areas `(...)` of boxes with these sides, `(..., 2)`; 0 if one is negative."""
    sides = sides.clamp_min(0)
    return sides[..., 0] * sides[..., 1]
