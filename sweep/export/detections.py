"""Boxes that an exported model finds, in the pixels of the images, and the file that they are written to."""

import json
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from backbones.protocol import Transform
from sweep.data.boxes import in_pixels
from sweep.tasks.boxes import MOST_DETECTIONS, Detections, by_cell, cell_centres, corners_of, decoded

MIN_SCORE = 0.3
"""Score from which on a box is shown, if the user gives no other."""

DECIMALS, SCORE_DECIMALS = 2, 4
"""Decimals of corners in pixels, and of scores, in the file."""


def cells_of(outputs: Tensor) -> Tensor:
    """The answer for every cell, from outputs of the patch tokens, `(B, P, K)`.

    Returns:
        `(B, S, C + 4)`: a logit for each class, then the left, upper, right and lower edge of the cell's box as
        fractions of the backbone's square.
    """
    logits, edges = by_cell(outputs)
    n_cells = logits.shape[-2]
    return torch.cat([logits, corners_of(edges, cell_centres(n_cells, logits), n_cells)], -1)


def found_in_image(
    outputs: Tensor, n_classes: int, transform: Transform, size: tuple[int, int], *, min_score: float
) -> Detections:
    """The boxes that are found in an image, best first, with corners in its pixels.

    Args:
        outputs: Outputs of the patch tokens, `(P, K)`.
        n_classes: Number of classes `C`.
        transform: What the image went through.
        size: Width and height of the image, in pixels.
        min_score: Score that a box must exceed.
    """
    (found,) = decoded(outputs[None], n_classes, score_threshold=min_score, most=MOST_DETECTIONS)
    return replace(found, corners=torch.from_numpy(in_pixels(found.corners.numpy(), transform.seen_box(*size))))


def coco_of(
    images: Sequence[tuple[str, tuple[int, int], Detections]], class_names: Sequence[str]
) -> dict[str, list[dict[str, Any]]]:
    """Detections in COCO's form: images, categories, and annotations, which have a score.

    Args:
        images: For each image its name, its width and height in pixels, and what was found in it, in its pixels.
        class_names: Names of the classes.
    """
    annotations: list[dict[str, Any]] = []
    for number, (_, _, found) in enumerate(images, start=1):
        for corners, score, label in zip(found.corners, found.scores, found.classes, strict=True):
            left, top, right, bottom = corners.tolist()
            box = [round(value, DECIMALS) for value in (left, top, right - left, bottom - top)]
            annotations.append(
                {
                    "id": len(annotations) + 1,
                    "image_id": number,
                    "category_id": int(label) + 1,
                    "bbox": box,
                    "area": round(box[2] * box[3], DECIMALS),
                    "iscrowd": 0,
                    "score": round(float(score), SCORE_DECIMALS),
                }
            )
    return {
        "images": [
            {"id": number, "file_name": name, "width": width, "height": height}
            for number, (name, (width, height), _) in enumerate(images, start=1)
        ],
        "categories": [{"id": number, "name": name} for number, name in enumerate(class_names, start=1)],
        "annotations": annotations,
    }


def write_coco(content: dict[str, list[dict[str, Any]]], path: Path) -> None:
    """Write the result of `coco_of`."""
    path.write_text(json.dumps(content), encoding="utf-8")  # ASCII: names of files may hold what is not UTF-8
