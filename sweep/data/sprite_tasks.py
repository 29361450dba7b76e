"""The packaged sets `sprite-set`, of several labels an image, and `sprite-place`, of numbers.

The pictures are those of `sprites.py`. Rendered by sweep itself.
"""

import math
import random
from collections.abc import Callable

import numpy as np
from PIL import Image

from sweep.data.base import AnyLabels, DataSet, Split, digest_of
from sweep.data.sprites import (
    IMAGE_SIZE,
    NOTICE,
    RADII,
    REACH,
    SHAPES,
    SPLIT_SIZES,
    Outline,
    colour_unlike,
    ground_colour,
    mottled,
    paste_shape,
)
from sweep.tasks.kinds import MULTI_LABEL, REGRESSION

RENDERER_VERSION = 1
MOST_SHAPES = 4
SET_RADII = RADII[:3]
"""Radii of shapes in a picture with several shapes."""

SPACING = 1.2
"""Least distance of two centres, in sums of their radii. Outlines may touch, but hide little of each other."""

Place = tuple[float, float, float]
"""The x and y of a centre, and the radius, in pixels."""


def sprite_set() -> DataSet:
    """Return the packaged set `sprite-set`: which of 6 shapes are there, 800 / 200 / 500 images of 96 x 96."""
    names = tuple(SHAPES)

    def labels_of(seed: str, size: int) -> AnyLabels:
        rng = random.Random(seed)
        chosen = [rng.sample(range(len(names)), rng.randint(0, MOST_SHAPES)) for _ in range(size)]
        return np.array([[label in own for label in range(len(names))] for own in chosen], dtype=np.int64)

    def draw(seed: str, label: list[float]) -> Image.Image:
        return render_set(seed, [outline for outline, has in zip(SHAPES.values(), label, strict=True) if has])

    what = f"none to {MOST_SHAPES} flat shapes on a mottled ground; the labels are which"
    return _task("sprite-set", what, MULTI_LABEL.name, names, labels_of, draw)


def sprite_place() -> DataSet:
    """Return the packaged set `sprite-place`: the centre and radius in pixels, 800 / 200 / 500 images of 96 x 96."""

    def labels_of(seed: str, size: int) -> AnyLabels:
        rng = random.Random(seed)
        margin = REACH * RADII[-1]
        ranges = ((margin, IMAGE_SIZE - margin), (margin, IMAGE_SIZE - margin), (RADII[0], RADII[-1]))
        return np.array([[rng.uniform(*ends) for ends in ranges] for _ in range(size)])

    def draw(seed: str, label: list[float]) -> Image.Image:
        rng = random.Random(seed)
        across, down, radius = label
        return _drawn(rng, [_centred(rng.choice(list(SHAPES.values())))], [(across, down, radius)])

    what = "a flat shape on a mottled ground; the targets are its centre of mass and its radius, in pixels"
    return _task("sprite-place", what, REGRESSION.name, ("x", "y", "radius"), labels_of, draw)


def _task(
    name: str,
    what: str,
    task: str,
    class_names: tuple[str, ...],
    labels_of: Callable[[str, int], AnyLabels],
    draw: Callable[[str, list[float]], Image.Image],
) -> DataSet:
    def split(split_name: str, size: int) -> Split:
        seed = f"{name}/{RENDERER_VERSION}/{split_name}"
        labels = labels_of(seed, size)

        def opener(index: int) -> Image.Image:
            return draw(f"{seed}/{index}", labels[index].tolist())

        return Split(split_name, labels, opener, lambda: digest_of([seed, labels.tobytes(), opener(0).tobytes()]))

    splits = {split_name: split(split_name, size) for split_name, size in SPLIT_SIZES.items()}
    return DataSet(
        name=name,
        description=f"rendered: {what}",
        class_names=class_names,
        train=splits["train"],
        val=splits["val"],
        test=splits["test"],
        notice=NOTICE,
        task=task,
    )


def _centred(outline: Outline) -> Outline:
    """The outline about its centre of mass; a heart's is elsewhere."""
    edges = list(zip(outline, outline[1:] + outline[:1], strict=True))
    areas = [(x * v - u * y) / 2 for (x, y), (u, v) in edges]
    a, b = (
        sum(area * (start[axis] + end[axis]) / 3 for area, (start, end) in zip(areas, edges, strict=True)) / sum(areas)
        for axis in (0, 1)
    )
    return [(x - a, y - b) for x, y in outline]


def render_set(seed: str, outlines: list[Outline]) -> Image.Image:
    """Render a picture of these shapes, everything else about it drawn.

    Returns:
        RGB image of 96 x 96 pixels.
    """
    rng = random.Random(seed)
    return _drawn(rng, outlines, _places(rng, len(outlines)))


def _places(rng: random.Random, n_shapes: int) -> list[Place]:
    """Positions for this many shapes, so that they hardly overlap."""
    while True:
        places: list[Place] = []
        for _ in range(n_shapes):
            radius = rng.choice(SET_RADII)
            x, y = (rng.uniform(REACH * radius, IMAGE_SIZE - REACH * radius) for _ in range(2))
            if all(math.hypot(x - a, y - b) > SPACING * (radius + r) for a, b, r in places):
                places.append((x, y, radius))
        if len(places) == n_shapes:
            return places


def _drawn(rng: random.Random, outlines: list[Outline], places: list[Place]) -> Image.Image:
    ground = ground_colour(rng)
    picture = mottled(rng, ground)
    for outline, (x, y, radius) in zip(outlines, places, strict=True):
        turn = rng.uniform(0, 2 * math.pi)
        paste_shape(picture, outline, (x, y), radius, turn, colour_unlike(rng, ground))
    return picture
