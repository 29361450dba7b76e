"""The data set `count`: how many shaded objects stand on a floor, 3 to 10. Rendered by sweep itself."""

import math
import random
from collections.abc import Callable

import numpy as np
import numpy.typing as npt
from PIL import Image, ImageDraw

from sweep.data.base import DataSet, Labels, Split, digest_of

RENDERER_VERSION = 1
IMAGE_SIZE = 128
SUPERSAMPLING = 2
HORIZON = 0.30
FEWEST, MOST = 3, 10
SPLIT_SIZES = {"train": 800, "val": 200, "test": 500}

Colour = tuple[int, int, int]
PALETTE: tuple[Colour, ...] = (
    (214, 62, 56),
    (58, 110, 216),
    (46, 160, 82),
    (236, 190, 50),
    (150, 80, 190),
    (240, 130, 40),
    (60, 190, 200),
    (235, 235, 235),
)


def count() -> DataSet:
    """Return the data set `count`: 8 classes, 800 / 200 / 500 images of 128 x 128, rendered when opened."""
    splits = {name: _split(name, size) for name, size in SPLIT_SIZES.items()}
    return DataSet(
        name="count",
        description=f"rendered: {FEWEST} to {MOST} shaded objects on a floor; the class is how many",
        class_names=tuple(str(number) for number in range(FEWEST, MOST + 1)),
        notice="Rendered by sweep itself; synthetic, not CLEVR and not VTAB.",
        train=splits["train"],
        val=splits["val"],
        test=splits["test"],
    )


def _split(name: str, size: int) -> Split:
    labels = balanced_labels(f"count/{RENDERER_VERSION}/{name}", size, MOST - FEWEST + 1)

    def opener(index: int) -> Image.Image:
        return render(int(labels[index]) + FEWEST, f"count/{RENDERER_VERSION}/{name}/{index}")

    def fingerprint() -> str:
        return digest_of(["count", str(RENDERER_VERSION), name, labels.tobytes(), opener(0).tobytes()])

    return Split(name, labels, opener, fingerprint)


def balanced_labels(seed: str, size: int, n_classes: int) -> Labels:
    """Return (size,) labels with as many of each class as possible, in a seeded order."""
    labels = [index % n_classes for index in range(size)]
    random.Random(seed).shuffle(labels)
    return np.array(labels, dtype=np.int64)


def render(n_objects: int, seed: str) -> Image.Image:
    """Render one scene.

    Args:
        n_objects: how many objects; their outlines do not overlap.
        seed: everything else about the scene.

    Returns:
        RGB image of 128 x 128 pixels.
    """
    rng = random.Random(seed)
    side = IMAGE_SIZE * SUPERSAMPLING
    canvas = _background(rng, side)
    drawers: tuple[Callable[..., Image.Image], ...] = (_sphere, _box, _cylinder)
    for x, y, radius in _places(rng, n_objects, side):
        colour = tuple(round(value * rng.uniform(0.85, 1.05)) for value in rng.choice(PALETTE))
        drawn = rng.choice(drawers)(round(2 * radius), colour)
        shadow = _shadow(round(2.4 * radius), round(0.8 * radius))
        canvas.paste((18, 16, 14), (round(x - 0.9 * radius), round(y + 0.55 * radius)), shadow)
        canvas.paste(drawn, (round(x - radius), round(y - radius)), drawn)
    return canvas.resize((IMAGE_SIZE, IMAGE_SIZE), Image.Resampling.BOX)


def _places(rng: random.Random, n_objects: int, side: int) -> list[tuple[float, float, float]]:
    """Return (x, y, radius) of each object in pixels, far ones first; their outlines do not touch."""
    while True:
        places: list[tuple[float, float, float]] = []
        for _ in range(400):
            depth = rng.random()  # 0 at the horizon, 1 in front
            radius = side * (0.048 + 0.040 * depth) * rng.uniform(0.85, 1.1)
            x = rng.uniform(radius, side - radius)
            y = side * (HORIZON + 0.02) + (side * (0.98 - HORIZON) - radius) * depth
            if y + radius > side:
                continue
            if all(math.hypot(x - a, y - b) > 1.2 * (radius + r) + 2 for a, b, r in places):
                places.append((x, y, radius))
            if len(places) == n_objects:
                return sorted(places, key=lambda place: place[1])


def _background(rng: random.Random, side: int) -> Image.Image:
    floor = np.array([rng.uniform(95, 135) + rng.uniform(-12, 12) for _ in range(3)])
    wall = np.array([rng.uniform(150, 190) + rng.uniform(-12, 12) for _ in range(3)])
    row = np.arange(side)[:, None] / side
    shade = np.where(row < HORIZON, wall * (0.8 + 0.5 * row), floor * (0.75 + 0.45 * (row - HORIZON) / (1 - HORIZON)))
    light = 1.06 - 0.12 * (np.arange(side) / side)
    picture = shade[:, None, :] * light[None, :, None]
    return Image.fromarray(picture.clip(0, 255).astype(np.uint8))


def _grid(width: int, height: int) -> tuple[npt.NDArray[np.float64], npt.NDArray[np.float64]]:
    """Return x and y in −1…1 at the pixel centres, broadcastable to (height, width)."""
    x = (np.arange(width) + 0.5) / width * 2 - 1
    y = (np.arange(height) + 0.5) / height * 2 - 1
    return x[None, :], y[:, None]


def _shadow(width: int, height: int) -> Image.Image:
    x, y = _grid(width, height)
    alpha = 150 * np.clip(1 - (x * x + y * y), 0, 1) ** 0.5
    return Image.fromarray(alpha.astype(np.uint8))


def _shaded(colour: Colour, brightness: npt.NDArray[np.float64], inside: npt.NDArray[np.bool_]) -> Image.Image:
    """Return an RGBA image: `colour` times `brightness`, whiter above 1, opaque where `inside`."""
    base = np.array(colour, dtype=np.float64)
    gloss = np.clip(brightness - 1, 0, 1)[..., None]
    rgb = base * np.clip(brightness, 0, 1)[..., None] * (1 - gloss) + 255 * gloss
    alpha = np.where(inside, 255, 0)[..., None]
    return Image.fromarray(np.concatenate([rgb, alpha], axis=-1).clip(0, 255).astype(np.uint8), "RGBA")


def _sphere(size: int, colour: Colour) -> Image.Image:
    x, y = _grid(size, size)
    height = 1 - x * x - y * y
    lit = np.clip(-0.5 * x - 0.6 * y + 0.62 * np.sqrt(np.clip(height, 0, 1)), 0, 1)
    return _shaded(colour, 0.3 + 0.65 * lit + 0.6 * np.clip(lit - 0.85, 0, 1) / 0.15, height > 0)


def _cylinder(size: int, colour: Colour) -> Image.Image:
    x, y = _grid(size, size)
    x = x / 0.72
    top = x**2 + ((y + 0.72) / 0.24) ** 2 < 1
    body = (np.abs(x) < 1) & (y > -0.72) & (y < 0.72 + 0.24 * np.sqrt(np.clip(1 - x * x, 0, 1)))
    round_shade = 0.35 + 0.6 * np.clip(-0.6 * x + 0.7 * np.sqrt(np.clip(1 - x * x, 0, 1)), 0, 1) + 0 * y
    return _shaded(colour, np.where(top, 1.05, round_shade), top | body)


def _box(size: int, colour: Colour) -> Image.Image:
    picture = Image.new("RGBA", (size, size))
    draw = ImageDraw.Draw(picture)
    faces = (
        (1.05, ((0, 0.24), (0.5, 0.02), (1, 0.24), (0.5, 0.46))),
        (0.8, ((0, 0.24), (0.5, 0.46), (0.5, 0.98), (0, 0.76))),
        (0.48, ((0.5, 0.46), (1, 0.24), (1, 0.76), (0.5, 0.98))),
    )
    for brightness, corners in faces:
        fill = tuple(min(255, round(value * brightness)) for value in colour)
        draw.polygon([(a * (size - 1), b * (size - 1)) for a, b in corners], fill=fill)
    return picture
