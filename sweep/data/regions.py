"""Regions of an image as COCO's annotations give them, by polygons or run lengths, and masks that are made of them."""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from PIL import Image

from sweep.tasks.label_maps import IGNORED

LONGEST_SHOWN = 40
CORNERS = 3
"""Points that a polygon needs."""


class FaultyRegionError(ValueError):
    """A region that cannot be used; the text says why, and follows on the name of an object."""


@dataclass(frozen=True)
class Region:
    """Some pixels of an image.

    Attributes:
        value: what a mask has there: a class, or `IGNORED`.
        run_lengths: numbers of pixels, column by column, that are in turn outside and inside of the region, as the
            package `faster-coco-eval` compresses them.
        n_pixels: number of pixels inside.
    """

    value: int
    run_lengths: bytes
    n_pixels: int

    @classmethod
    def of(cls, value: int, segmentation: object, size: tuple[int, int]) -> "Region":
        """The region of a segmentation.

        Args:
            value: see `Region`.
            segmentation: a list of polygons, each `[x, y, x, y, …]` in pixels; or run lengths, compressed or not:
                `{"size": [height, width], "counts": …}`.
            size: width and height of the image in pixels.

        Raises:
            FaultyRegionError: the segmentation cannot be used.
        """
        from faster_coco_eval.core import mask

        if not segmentation:
            raise FaultyRegionError("has no 'segmentation', which its mask is made of")
        width, height = size
        if isinstance(segmentation, dict):
            _check_run_lengths(segmentation, size)
        elif isinstance(segmentation, list):
            _check_polygons(segmentation, size)
        else:
            raise FaultyRegionError(f"has the 'segmentation' {_shown(segmentation)}, neither polygons nor run lengths")
        try:
            if isinstance(segmentation, dict):
                counts = segmentation["counts"]
                plain = isinstance(counts, list)
                read = mask.frPyObjects(segmentation, height, width)["counts"] if plain else counts.encode("ascii")
            else:
                read = mask.merge(mask.frPyObjects(segmentation, height, width))["counts"]
            pixels = mask.decode({"size": [height, width], "counts": read})  # refuses what does not fit the image
        except (RuntimeError, TypeError, OverflowError, ValueError) as error:
            raise FaultyRegionError(
                f"has a 'segmentation' that cannot be read as {width} x {height} pixels: {error}"
            ) from error
        return cls(value, read, int(np.count_nonzero(pixels)))

    @classmethod
    def of_box(cls, box: object, size: tuple[int, int]) -> "Region | None":
        """The pixels of a COCO box `[left, top, width, height]`, which have no label; None if it cannot be used."""
        if not isinstance(box, list) or len(box) != 4 or not all(map(_is_finite, box)):
            return None
        left, top, right, bottom = box[0], box[1], box[0] + box[2], box[1] + box[3]
        try:
            return cls.of(IGNORED, [[left, top, right, top, right, bottom, left, bottom]], size)
        except FaultyRegionError:
            return None


def mask_of_regions(regions: Sequence[Region], size: tuple[int, int]) -> Image.Image:
    """A mask, as an image of mode L: 0 where there is no region, and the last of several regions where they overlap.

    Args:
        regions: the regions of an image.
        size: its width and height in pixels.
    """
    from faster_coco_eval.core import mask

    width, height = size
    values = np.zeros((height, width), dtype=np.uint8)
    for region in regions:
        inside = mask.decode({"size": [height, width], "counts": region.run_lengths})
        values[inside.astype(np.bool_)] = region.value
    return Image.fromarray(values)


def _check_run_lengths(segmentation: Mapping[str, Any], size: tuple[int, int]) -> None:
    width, height = size
    own, counts = segmentation.get("size"), segmentation.get("counts")
    if own != [height, width]:
        raise FaultyRegionError(
            f"has run lengths of the size {_shown(own)} (height, width), but its image has {width} x {height} pixels"
        )
    if isinstance(counts, str):
        return
    if not isinstance(counts, list) or not all(isinstance(n, int) and not isinstance(n, bool) for n in counts):
        raise FaultyRegionError(f"has the run lengths {_shown(counts)}, neither text nor whole numbers")
    if min(counts, default=0) < 0 or sum(counts) != width * height:
        raise FaultyRegionError(
            f"has run lengths of {sum(counts)} pixels, but its image has {width} x {height}, which are {width * height}"
        )


def _check_polygons(polygons: Sequence[object], size: tuple[int, int]) -> None:
    corners: list[tuple[float, float]] = []
    for polygon in polygons:
        if not isinstance(polygon, list) or not all(map(_is_finite, polygon)):
            raise FaultyRegionError(f"has the polygon {_shown(polygon)}, which is no list of finite numbers")
        if len(polygon) % 2:
            raise FaultyRegionError(f"has a polygon of {len(polygon)} numbers, and a point has two")
        if len(polygon) < 2 * CORNERS:
            raise FaultyRegionError(f"has a polygon of {len(polygon) // 2} points, and it needs {CORNERS}")
        corners += zip(polygon[::2], polygon[1::2], strict=True)
    width, height = size
    columns, rows = zip(*corners, strict=True)
    if max(columns) <= 0 or min(columns) >= width or max(rows) <= 0 or min(rows) >= height:
        raise FaultyRegionError(f"is outside of its image, which has {width} x {height} pixels")
    # what is a little outside is cut off; far outside, the pixels of an edge would fill the memory
    for x, y in corners:
        if not (-width <= x <= 2 * width and -height <= y <= 2 * height):
            raise FaultyRegionError(
                f"has a point at {x:g} {y:g}, far outside of its image, which has {width} x {height} pixels"
            )


def _is_finite(number: object) -> bool:
    if not isinstance(number, int | float) or isinstance(number, bool):
        return False
    return abs(number) <= 1e15 and math.isfinite(number)


def _shown(value: object) -> str:
    return repr(value)[:LONGEST_SHOWN]
