"""Metrics of detection: average precision as COCO measures it, by the package `faster-coco-eval`."""

import importlib.util
import math
from typing import Any

import torch
from torch import Tensor

from sweep.errors import UsageError
from sweep.tasks.boxes import LABEL_COLUMNS, MOST_DETECTIONS, found_boxes

PIXELS = 1000
"""Side of the square for the package, in pixels. It changes no metric, because sizes of boxes are not told apart."""

RIGHT_OVERLAP = 0.5
"""Intersection over union that a detection needs to be right in the score of a single image."""


def require_coco_eval(what: str = "detection is measured") -> None:
    """Check that the package for these metrics, and for COCO's masks, is installed.

    Args:
        what: What is done by the package, for the message.

    Raises:
        UsageError: It is not.
    """
    if importlib.util.find_spec("faster_coco_eval") is None:
        raise UsageError(
            f'{what} by the package faster-coco-eval, which is not installed; python -m pip install -e ".[detection]"'
        )


def as_found(outputs: Tensor) -> Tensor:
    """The result of `found_boxes` for outputs `(..., P, K)`. What is such a result already is returned as it is.

    The two cannot be confused, because `K` is a multiple of 4, and a detection has 6 numbers.
    """
    return outputs if outputs.shape[-1] == LABEL_COLUMNS else found_boxes(outputs)


def detection_metrics(found: Tensor, labels: Tensor) -> dict[str, Tensor]:
    """Metrics of every lane on one set of images.

    Args:
        found: Detections, `(N, n, D, 6)`; see `found_boxes`.
        labels: Boxes of the images, `(n, M, 6)`.

    Returns:
        Metrics by name, each `(N,)`, fp64, as means over the classes that have a box: `ap`, COCO's average precision,
        a mean over ten thresholds of the intersection over union from 0.50 to 0.95; `ap50`, the one at 0.50; `ar`, the
        largest recall, a mean over these thresholds; `missed`, the share of boxes that no detection overlaps by 0.50.
        A lane with an output that is not finite has NaN in all of them, and so do all lanes if there are no boxes.
    """
    lanes = [_summary(_evaluated(of_lane, labels)) for of_lane in found]
    return {name: torch.tensor([lane[name] for lane in lanes], dtype=torch.float64) for name in lanes[0]}


def precision_of_classes(found: Tensor, labels: Tensor) -> dict[int, dict[str, float]]:
    """`ap`, `ap50` and `recall` at an intersection over union of 0.50, of each class that has a box.

    Args:
        found: Detections of one lane, `(n, D, 6)`.
        labels: Boxes of the images, `(n, M, 6)`.
    """
    evaluated = _evaluated(found, labels)
    if evaluated is None:
        return {}
    precision, recall = evaluated.eval["precision"], evaluated.eval["recall"]  # (thresholds, recalls, classes, 1, 1)
    return {
        int(label): {
            "ap": float(precision[:, :, place].mean()),
            "ap50": float(precision[0, :, place].mean()),
            "recall": float(recall[0, place].item()),
        }
        for place, label in enumerate(evaluated.params.catIds)
    }


def resampled_ap(found: Tensor, labels: Tensor, resamples: list[Tensor]) -> list[float]:
    """The AP of one lane on resamples of the images. Detections are only compared with boxes once.

    Args:
        found: Detections, `(n, D, 6)`.
        labels: Boxes of the images, `(n, M, 6)`.
        resamples: Indices of images, `(n,)`, which may repeat.
    """
    evaluated = _evaluated(found, labels, separately=True)
    if evaluated is None:
        return [math.nan] * len(resamples)
    of_images, n_images = evaluated._evalImgs_cpp, len(labels)  # class after class, and in it image after image
    scores = []
    for drawn in resamples:
        images = drawn.tolist()
        evaluated._evalImgs_cpp = [
            of_images[first + image] for first in range(0, len(of_images), n_images) for image in images
        ]
        evaluated.accumulate()
        scores.append(_summary(evaluated)["ap"])
    return scores


def _evaluated(found: Tensor, labels: Tensor, *, separately: bool = False) -> Any:
    """Detections of one lane compared with the boxes of the images; None if nothing can be measured.

    Args:
        found: Detections, `(n, D, 6)`.
        labels: Boxes of the images, `(n, M, 6)`.
        separately: Whether the results of single images are kept.
    """
    from faster_coco_eval import COCO, COCOeval_faster

    classes = labels[..., 0][(labels[..., 0] >= 0) & (labels[..., 5] == 0)].unique()
    if not len(classes) or found.isnan().any():
        return None

    def data_set(boxes: Tensor, last: str) -> Any:
        images, rows = torch.isin(boxes[..., 0], classes.to(boxes)).nonzero(as_tuple=True)
        own = boxes[images, rows].double()
        corners = own[:, 1:5] * PIXELS
        sides = corners[:, 2:] - corners[:, :2]
        columns = {
            "id": range(1, len(own) + 1),
            "image_id": images.tolist(),
            "category_id": own[:, 0].long().tolist(),
            "bbox": torch.cat([corners[:, :2], sides], 1).tolist(),
            "area": sides.prod(1).tolist(),
            last: own[:, 5].tolist(),
        }
        coco = COCO()
        coco.dataset = {
            "images": [{"id": image} for image in range(len(boxes))],
            "categories": [{"id": int(c), "name": str(int(c))} for c in classes],
            "annotations": [dict(zip(columns, row, strict=True)) for row in zip(*columns.values(), strict=True)],
        }
        coco.createIndex()
        return coco

    evaluated = COCOeval_faster(
        data_set(labels, "iscrowd"), data_set(found, "score"), iouType="bbox", separate_eval=separately
    )
    evaluated.params.areaRng, evaluated.params.areaRngLbl = [[0, math.inf]], ["all"]
    evaluated.params.maxDets = [MOST_DETECTIONS]
    evaluated.evaluate()
    evaluated.accumulate()
    return evaluated


def _summary(evaluated: Any) -> dict[str, float]:
    """Metrics of a result of `_evaluated`; classes without a box, which the package marks by -1, do not count."""
    if evaluated is None:
        return dict.fromkeys(("ap", "ap50", "ar", "missed"), math.nan)
    precision, recall = evaluated.eval["precision"], evaluated.eval["recall"]  # (thresholds, recalls, classes, 1, 1)
    has_box = recall[0, :, 0, 0] > -1
    precision, recall = precision[:, :, has_box], recall[:, has_box]
    return {
        "ap": float(precision.mean()),
        "ap50": float(precision[0].mean()),
        "ar": float(recall.mean()),
        "missed": 1 - float(recall[0].mean()),
    }


def precision_of_images(found: Tensor, labels: Tensor) -> Tensor:
    """The average precision of each lane on each image, `(N, n)`, fp64.

    The detections of an image, best first, are right if they overlap a box of their class by `RIGHT_OVERLAP` that no
    better detection took. The score is the mean over boxes of the share of right detections up to the one that found
    the box, and 0 for a box that was not found. Detections in an ignored box do not count. An image without boxes has 1
    if nothing is detected in it, and 0 otherwise.

    Args:
        found: Detections, `(N, n, D, 6)`.
        labels: Boxes of the images, `(n, M, 6)`.
    """
    said = found.double()
    true = labels.to(said)
    counted, ignored = (true[..., 0] >= 0) & (true[..., 5] == 0), (true[..., 0] >= 0) & (true[..., 5] > 0)
    free = counted.expand(len(said), -1, -1).clone()  # (N, n, M)
    right, wrong = (said.new_zeros(said.shape[:3]) for _ in range(2))
    for place in range(said.shape[2]):
        own = said[:, :, place, None]  # (N, n, 1, 6)
        there = own[..., 0, 0] >= 0
        if not there.any():
            break
        shared = _areas(torch.minimum(own[..., 3:5], true[..., 3:5]) - torch.maximum(own[..., 1:3], true[..., 1:3]))
        of_own = _areas(own[..., 3:5] - own[..., 1:3])
        overlaps = shared / (of_own + _areas(true[..., 3:5] - true[..., 1:3]) - shared)
        of_class = own[..., 0] == true[..., 0]
        overlaps = torch.where(free & of_class, overlaps, 0)
        best = overlaps.max(-1)
        hit = there & (best.values >= RIGHT_OVERLAP)
        free.scatter_(-1, best.indices.unsqueeze(-1), free.gather(-1, best.indices.unsqueeze(-1)) & ~hit.unsqueeze(-1))
        in_ignored = (ignored & of_class & (shared >= RIGHT_OVERLAP * of_own)).any(-1)
        right[..., place], wrong[..., place] = hit.to(said), (there & ~hit & ~in_ignored).to(said)
    precision = right.cumsum(-1) / (right + wrong).cumsum(-1).clamp_min(1)
    n_boxes = counted.sum(-1)
    nothing = 1 - (right + wrong).amax(-1)
    return torch.where(n_boxes > 0, (precision * right).sum(-1) / n_boxes.clamp_min(1), nothing)


def _areas(sides: Tensor) -> Tensor:
    """Areas `(...)` of boxes with these sides, `(..., 2)`; 0 if one is negative."""
    sides = sides.clamp_min(0)
    return sides[..., 0] * sides[..., 1]
