"""Boxes: how the outputs of tokens stand for boxes, and how boxes are read from them.

Every patch token answers for `CELLS` x `CELLS` cells of its part of the image, so that objects smaller than a token are
found. A cell has a logit for each of the `C` classes, and four numbers from which the distances from its centre to the
left, upper, right and lower edge of a box follow. A token therefore has `K = CELLS² (C + 4)` outputs.

Boxes are fractions of the square that the backbone sees. A lane's result must not depend on its position in the stack,
so `sigmoid` and `softplus` are written with `logsigmoid` and `exp`; see `sweep.tasks.losses`.
"""

import math
from dataclasses import dataclass
from math import isqrt

import torch
import torch.nn.functional as F
from torch import Tensor

CELLS = 2
"""Rows, and columns, of cells for each token."""

COORDINATES = 4

DISTANCE_UNIT = 4.0
"""Distance to an edge, in sides of a cell, where the softplus of its output is 1."""

PRIOR = 0.01
"""Probability of every class in a newly initialised head: nearly all cells have no box."""

LABEL_COLUMNS = 6
"""Numbers of a box in labels: class, left, upper, right and lower edge, and 1 if it is ignored. A detection has its
score in place of the last. Rows without a box have the class -1."""

SCORE_THRESHOLD = 0.05
"""Score that a detection needs in metrics."""

MOST_DETECTIONS = 100
"""Largest number of detections of an image in metrics, as in those of COCO."""

CANDIDATES_A_DETECTION = 3
"""Boxes of an image that compete, for each that can be kept: the best by score."""

IMAGES_AT_A_TIME = 64

OVERLAP_OF_ONE = 0.6
"""Intersection over union above which the weaker of two boxes of a class is taken for the same object."""


def n_outputs(n_classes: int) -> int:
    """Number of outputs `K` of a token."""
    return CELLS**2 * (n_classes + COORDINATES)


def first_bias(n_classes: int) -> Tensor:
    """Biases `(K,)` of a newly initialised head: every class has the probability `PRIOR`."""
    of_cell = torch.zeros(CELLS**2, n_classes + COORDINATES)
    of_cell[:, :n_classes] = math.log(PRIOR / (1 - PRIOR))
    return of_cell.flatten()


def by_cell(outputs: Tensor) -> tuple[Tensor, Tensor]:
    """Logits `(..., S, C)` and edges `(..., S, 4)` of all `S` cells, from outputs `(..., P, K)`."""
    cells = outputs.unflatten(-1, (CELLS**2, -1)).flatten(-3, -2)
    return cells[..., :-COORDINATES], cells[..., -COORDINATES:]


def cell_centres(n_cells: int, like: Tensor) -> Tensor:
    """The centre of every cell, `(S, 2)`, x before y: cell after cell of a token, token after token of a row."""
    side = isqrt(n_cells)
    middles = (torch.arange(side, dtype=like.dtype, device=like.device) + 0.5) / side
    middles = middles.unflatten(0, (-1, CELLS))  # (tokens of a row, CELLS)
    shape = (len(middles), len(middles), CELLS, CELLS)
    x, y = middles[None, :, None, :].expand(shape), middles[:, None, :, None].expand(shape)
    return torch.stack([x, y], -1).flatten(0, 3)


def corners_of(edges: Tensor, centres: Tensor, n_cells: int) -> Tensor:
    """The boxes of cells, `(..., S, 4)`: left, upper, right and lower edge.

    Args:
        edges: Outputs of the cells, `(..., S, 4)`.
        centres: Centres of these cells, `(..., S, 2)`.
        n_cells: Number of cells of the whole image.
    """
    distances = distances_of(edges, n_cells)
    return torch.cat([centres - distances[..., :2], centres + distances[..., 2:]], -1)


def distances_of(edges: Tensor, n_cells: int) -> Tensor:
    """Distances to the edges of boxes as fractions of the image, from outputs of any shape."""
    return -F.logsigmoid(-edges) * (DISTANCE_UNIT / isqrt(n_cells))  # -logsigmoid(-x) is softplus(x)


@dataclass(frozen=True)
class Detections:
    """What is found in an image, best first.

    Attributes:
        corners: Left, upper, right and lower edge of `k` boxes, as fractions of the backbone's square, `(k, 4)`.
        scores: Probability of the class of each, `(k,)`.
        classes: Class of each, `(k,)`.
    """

    corners: Tensor
    scores: Tensor
    classes: Tensor


def decoded(outputs: Tensor, n_classes: int, *, score_threshold: float, most: int) -> list[Detections]:
    """The boxes that a model finds in images.

    Args:
        outputs: Outputs of the patch tokens, `(B, P, K)`.
        n_classes: Number of classes `C`.
        score_threshold: Score that a box must exceed.
        most: Largest number of boxes of an image.

    Raises:
        ValueError: `K` is not the number of outputs for `C` classes.
    """
    if outputs.shape[-1] != n_outputs(n_classes):
        raise ValueError(f"{outputs.shape[-1]} outputs a token are not those of {n_classes} classes")
    rows = found_boxes(outputs, score_threshold=score_threshold, most=most)
    kept = [of_image[of_image[:, 0] >= 0] for of_image in rows]
    return [Detections(of_image[:, 1:-1], of_image[:, -1], of_image[:, 0].long()) for of_image in kept]


@torch.no_grad()
def found_boxes(outputs: Tensor, *, score_threshold: float = SCORE_THRESHOLD, most: int = MOST_DETECTIONS) -> Tensor:
    """The boxes that are found in images, as a tensor.

    The best boxes of an image compete. Of two boxes of a class that overlap by more than `OVERLAP_OF_ONE`, the one with
    the higher score is kept (torchvision's non-maximum suppression).

    Args:
        outputs: `(..., P, K)`, of one lane or of several.
        score_threshold: As in `decoded`.
        most: As in `decoded`.

    Returns:
        Class, corners and score, best first, `(..., most, 6)`, on the CPU. Rows without a box have the class -1, and
        images with an output that is not finite have NaN everywhere.
    """
    images = outputs.detach().cpu().flatten(0, -3)
    found = outputs.new_zeros((len(images), most, LABEL_COLUMNS), device="cpu")
    found[..., 0] = -1
    for start in range(0, len(images), IMAGES_AT_A_TIME):
        part = slice(start, start + IMAGES_AT_A_TIME)
        _find(images[part], found[part], score_threshold)
    of_images: Tensor = found.unflatten(0, outputs.shape[:-2])
    return of_images


def _find(outputs: Tensor, found: Tensor, score_threshold: float) -> None:
    """Write the boxes of some images, `(I, P, K)`, into `found`, `(I, most, 6)`."""
    from torchvision.ops import batched_nms  # takes a second to import

    logits, edges = by_cell(outputs)
    n_classes, centres = logits.shape[-1], cell_centres(logits.shape[1], logits)
    scores = F.logsigmoid(logits).exp().flatten(1)
    best = scores.topk(min(scores.shape[1], CANDIDATES_A_DETECTION * found.shape[1]), 1)
    cells, classes = best.indices // n_classes, best.indices % n_classes
    of_cells = edges.gather(1, cells.unsqueeze(-1).expand(-1, -1, COORDINATES))
    corners = corners_of(of_cells, centres[cells], len(centres)).clamp(0, 1)
    n_candidates = (best.values > score_threshold).sum(1).tolist()
    for image, n in enumerate(n_candidates):
        if n:
            own = corners[image, :n], best.values[image, :n], classes[image, :n]
            kept = batched_nms(*own, OVERLAP_OF_ONE)[: found.shape[1]]
            rows = torch.cat([own[2][kept, None].to(found), own[0][kept], own[1][kept, None]], 1)
            found[image, : len(rows)] = rows
    found[~outputs.isfinite().flatten(1).all(1)] = torch.nan
