"""Boxes around the objects of an image, in its own pixels and as a backbone sees them."""

from collections.abc import Iterable
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from sweep.data.base import Labels
from sweep.study.augmentation import Move

Corners = npt.NDArray[np.float64]

NO_BOX = -1
"""The class in a row of `box_rows` that has no box."""

LEAST_SEEN = 0.25
"""A box of which a smaller share than this lies inside what the backbone sees is ignored."""


@dataclass(frozen=True, eq=False)
class Boxes:
    """The boxes of one image.

    Attributes:
        size: width and height of the image as it is opened, in pixels.
        classes: class of each box, from 0, (k,) int64.
        corners: left, top, right and bottom of each box in pixels of the image as it is opened, (k, 4) float64. They
            lie inside the image, and every box has an area.
        ignored: which boxes count neither as found nor as missed (`difficult` in Pascal VOC, `iscrowd` in COCO), (k,).
    """

    size: tuple[int, int]
    classes: Labels
    corners: Corners
    ignored: npt.NDArray[np.bool_]

    def __len__(self) -> int:
        return len(self.classes)

    def counts(self, n_classes: int) -> Labels:
        """Number of boxes of every class that are not ignored, (C,)."""
        return np.bincount(self.classes[~self.ignored], minlength=n_classes).astype(np.int64)

    def content(self) -> bytes:
        """Everything that a fingerprint depends on."""
        parts = np.array(self.size, dtype="<i8"), self.classes.astype("<i8"), self.corners.astype("<f8"), self.ignored
        return b"".join(part.tobytes() for part in parts)


def box_rows(boxes: Boxes, seen: tuple[float, float, float, float], n_rows: int) -> npt.NDArray[np.float32]:
    """The boxes as training takes them.

    A box is cut off where the backbone sees no more. It is left out if nothing of it is seen, and ignored if less than
    `LEAST_SEEN` of its area is.

    Args:
        boxes: the boxes of an image.
        seen: the part of the image that the backbone sees, see `Transform.seen_box`.
        n_rows: M, rows of the result; at least the number of boxes.

    Returns:
        (M, 6): class, left, top, right, bottom, and 1 if the box is ignored or 0. Corners are fractions of the
        backbone's square input. A row without a box has the class `NO_BOX` and zeros.
    """
    start, stop = np.array(seen[:2] * 2), np.array(seen[2:] * 2)
    fractions = (boxes.corners - start) / (stop - start)
    inside = fractions.clip(0, 1)
    kept = inside.astype(np.float32)
    there = (kept[:, 2:] > kept[:, :2]).all(1)
    share = _areas(inside[there]) / _areas(fractions[there])
    rows = np.zeros((n_rows, 6), dtype=np.float32)
    rows[:, 0] = NO_BOX
    own = rows[: int(there.sum())]
    own[:, 0], own[:, 1:5] = boxes.classes[there], kept[there]
    own[:, 5] = boxes.ignored[there] | (share < LEAST_SEEN)
    return rows


def moved_boxes(boxes: Boxes, moves: Iterable[Move]) -> Boxes:
    """The boxes as they are in a view of their image.

    A box goes around its four moved corners, and is cut off at the edge of the view. It is left out if nothing of it
    is in the view, and ignored if less than `LEAST_SEEN` of its area is.

    Args:
        boxes: the boxes of an image.
        moves: where the image's pixels go, one move after the other. What a move leaves outside stays outside.
    """
    size, classes, ignored, inside = boxes.size, boxes.classes, boxes.ignored, boxes.corners
    share = np.ones(len(boxes))
    for move in moves:
        size = move.size
        corners = inside[:, [[0, 1], [2, 1], [0, 3], [2, 3]]] @ move.matrix[:2, :2].T + move.matrix[:2, 2]
        whole = np.concatenate([corners.min(1), corners.max(1)], 1)
        cut_off = whole.clip(0, np.array(size * 2, dtype=np.float64))
        there = (cut_off[:, 2:] > cut_off[:, :2]).all(1)
        inside, classes, ignored = cut_off[there], classes[there], ignored[there]
        share = share[there] * _areas(inside) / _areas(whole[there])
    return Boxes(size, classes, inside, ignored | (share < LEAST_SEEN))


def in_pixels(fractions: npt.NDArray[np.floating], seen: tuple[float, float, float, float]) -> Corners:
    """Corners (k, 4) in pixels of an image, from fractions of the backbone's square input; `seen` as in `box_rows`."""
    start, stop = np.array(seen[:2] * 2), np.array(seen[2:] * 2)
    corners: Corners = start + np.asarray(fractions, dtype=np.float64) * (stop - start)
    return corners


def _areas(corners: Corners) -> npt.NDArray[np.float64]:
    """Areas (k,) of boxes (k, 4)."""
    areas: npt.NDArray[np.float64] = (corners[:, 2:] - corners[:, :2]).prod(1)
    return areas
