"""The packaged sets `sprite-scale`, `sprite-x` and `sprite-shape`: one flat shape on a mottled ground.

Each task names one property of the very same kind of picture; all others vary at random. Rendered by sweep itself.
"""

import math
import random
from collections.abc import Callable
from functools import partial

import numpy as np
from PIL import Image, ImageDraw

from sweep.data.base import DataSet, Split, digest_of
from sweep.data.rendered import balanced_labels

RENDERER_VERSION = 1
IMAGE_SIZE = 96
SUPERSAMPLING = 4
SPLIT_SIZES = {"train": 800, "val": 200, "test": 500}
RADII = (9.0, 10.5, 12.25, 14.3, 16.7, 19.5)
"""Radii in pixels of circles that have the area of the shapes; each is 1/6 larger than the one before."""
N_PLACES = 16
REACH = 1.6
"""Largest distance of an outline from the centre of its shape, in radii."""
LEAST_CONTRAST = 70  # of 255, in the channel that differs most
NOTICE = "Rendered by sweep itself; synthetic, not dSprites and not VTAB."

Outline = list[tuple[float, float]]


def _polar(radius: Callable[[float], float]) -> Outline:
    """The outline whose distance from the centre is `radius` of the angle, scaled to the area of a unit circle."""
    angles = [2 * math.pi * step / 120 for step in range(120)]
    points = [(radius(angle) * math.cos(angle), radius(angle) * math.sin(angle)) for angle in angles]
    doubled = sum(x * v - u * y for (x, y), (u, v) in zip(points, points[1:] + points[:1], strict=True))
    scale = math.sqrt(math.pi / (abs(doubled) / 2))
    return [(scale * x, scale * y) for x, y in points]


def _ellipse(angle: float) -> float:
    return 1 / math.hypot(math.cos(angle), 1.7 * math.sin(angle))


def _regular(corners: int, angle: float) -> float:
    return 1 / math.cos(angle % (2 * math.pi / corners) - math.pi / corners)


def _star(angle: float) -> float:
    return 0.62 + 0.38 * math.cos(2.5 * angle) ** 2


def _cross(angle: float) -> float:
    smaller, larger = sorted((abs(math.cos(angle)), abs(math.sin(angle))))
    return min(1 / larger, 0.36 / max(smaller, 1e-9))


def _heart(angle: float) -> float:
    return 1.1 - 0.75 * math.sin(angle) + 0.35 * abs(math.cos(angle))


SHAPES: dict[str, Outline] = {
    "ellipse": _polar(_ellipse),
    "square": _polar(partial(_regular, 4)),
    "triangle": _polar(partial(_regular, 3)),
    "star": _polar(_star),
    "cross": _polar(_cross),
    "heart": _polar(_heart),
}


def sprite_scale() -> DataSet:
    """Return the packaged set `sprite-scale`: 6 sizes of the shape, 800 / 200 / 500 images of 96 x 96."""
    names = tuple(f"radius {radius:g}" for radius in RADII)
    return _task("sprite-scale", "the class is how large the shape is", names)


def sprite_x() -> DataSet:
    """Return the packaged set `sprite-x`: 16 columns in which the shape may be, 800 / 200 / 500 images of 96 x 96."""
    names = tuple(f"column {column}" for column in range(N_PLACES))
    return _task("sprite-x", f"the class is in which of {N_PLACES} columns the shape's centre is", names)


def sprite_shape() -> DataSet:
    """Return the packaged set `sprite-shape`: 6 shapes, 800 / 200 / 500 images of 96 x 96."""
    return _task("sprite-shape", "the class is which shape", tuple(SHAPES))


def _task(name: str, question: str, class_names: tuple[str, ...]) -> DataSet:
    splits = {split: _split(name, split, size, len(class_names)) for split, size in SPLIT_SIZES.items()}
    return DataSet(
        name=name,
        description=f"rendered: a flat shape on a mottled ground; {question}",
        class_names=class_names,
        train=splits["train"],
        val=splits["val"],
        test=splits["test"],
        notice=NOTICE,
    )


def _split(task: str, name: str, size: int, n_classes: int) -> Split:
    seed = f"{task}/{RENDERER_VERSION}/{name}"
    labels = balanced_labels(seed, size, n_classes)

    def opener(index: int) -> Image.Image:
        label, of_image = int(labels[index]), f"{seed}/{index}"
        if task == "sprite-scale":
            return render(of_image, scale=label)
        return render(of_image, column=label) if task == "sprite-x" else render(of_image, shape=label)

    return Split(name, labels, opener, lambda: digest_of([seed, labels.tobytes(), opener(0).tobytes()]))


def render(seed: str, *, scale: int | None = None, column: int | None = None, shape: int | None = None) -> Image.Image:
    """Render one picture.

    Args:
        seed: everything about the picture that is not given.
        scale: which of `RADII`.
        column: which of 16 columns the centre is in; they share the width that leaves the largest shape inside.
        shape: which of `SHAPES`.

    Returns:
        RGB image of 96 x 96 pixels.
    """
    rng = random.Random(seed)
    drawn_scale, drawn_shape, place = rng.randrange(len(RADII)), rng.randrange(len(SHAPES)), rng.random()
    turn, y = rng.uniform(0, 2 * math.pi), rng.random()
    radius = RADII[drawn_scale if scale is None else scale]
    outline = list(SHAPES.values())[drawn_shape if shape is None else shape]
    margin = REACH * RADII[-1]
    x = place if column is None else (column + place) / N_PLACES
    across, down = (margin + part * (IMAGE_SIZE - 2 * margin) for part in (x, y))
    ground = ground_colour(rng)
    colour = colour_unlike(rng, ground)
    picture = mottled(rng, ground)
    paste_shape(picture, outline, (across, down), radius, turn, colour)
    return picture


def paste_shape(
    picture: Image.Image,
    outline: Outline,
    centre: tuple[float, float],
    radius: float,
    turn: float,
    colour: tuple[int, ...],
) -> None:
    """Draw a shape into a picture.

    Args:
        picture: RGB, of 96 x 96 pixels.
        outline: one of `SHAPES`.
        centre: across and down, in pixels.
        radius: of the circle that has the shape's area, in pixels.
        turn: in radians.
        colour: red, green and blue.
    """
    side = IMAGE_SIZE * SUPERSAMPLING
    mask = Image.new("L", (side, side))
    cos, sin = math.cos(turn), math.sin(turn)
    corners = [
        (
            SUPERSAMPLING * (centre[0] + radius * (a * cos - b * sin)),
            SUPERSAMPLING * (centre[1] + radius * (a * sin + b * cos)),
        )
        for a, b in outline
    ]
    ImageDraw.Draw(mask).polygon(corners, fill=255)
    mask = mask.resize((IMAGE_SIZE, IMAGE_SIZE), Image.Resampling.BOX)
    picture.paste(colour, (0, 0), mask)


def ground_colour(rng: random.Random) -> list[float]:
    """A colour for the ground."""
    return [rng.uniform(40, 215) for _ in range(3)]


def colour_unlike(rng: random.Random, ground: list[float]) -> tuple[int, ...]:
    """A colour that stands out against the ground."""
    while True:
        colour = [rng.randint(20, 235) for _ in range(3)]
        if max(abs(a - b) for a, b in zip(colour, ground, strict=True)) >= LEAST_CONTRAST:
            return tuple(colour)


def mottled(rng: random.Random, ground: list[float]) -> Image.Image:
    """A ground that is darker here and brighter there, in soft spots."""
    noise = np.random.default_rng(rng.randrange(2**32)).normal(0, 18, (8, 8, 3)) + np.array(ground)
    spots = Image.fromarray(noise.clip(0, 255).astype(np.uint8))
    return spots.resize((IMAGE_SIZE, IMAGE_SIZE), Image.Resampling.BICUBIC)
