"""Drawn images with boxes in the layout of Pascal VOC, for tests of detection."""

from pathlib import Path

import numpy as np
from PIL import Image

SPLITS = {"train": 20, "val": 8, "test": 8}
WIDTH, HEIGHT, CLASSES = 48, 40, ("bright", "dark")


def draw_squares(root: Path) -> Path:
    """Draw images of bright and dark squares, and annotate them. The first image of each split has none."""
    rng = np.random.default_rng(0)
    for folder in ("JPEGImages", "Annotations", "ImageSets/Main"):
        (root / folder).mkdir(parents=True)
    for split, n_images in SPLITS.items():
        names = [f"{split}_{number}" for number in range(n_images)]
        (root / "ImageSets" / "Main" / f"{split}.txt").write_text("".join(f"{name}\n" for name in names))
        for number, name in enumerate(names):
            _draw(root, name, int(rng.integers(1, 4)) if number else 0, rng)
    return root


def _draw(root: Path, name: str, n_squares: int, rng: np.random.Generator) -> None:
    pixels = rng.integers(100, 140, (HEIGHT, WIDTH, 3))
    objects = ""
    for _ in range(n_squares):
        label, side = int(rng.integers(2)), int(rng.integers(10, 18))
        top, left = int(rng.integers(0, HEIGHT - side)), int(rng.integers(0, WIDTH - side))
        pixels[top : top + side, left : left + side] = rng.integers(-9, 9, (side, side, 3)) + (230, 30)[label]
        corners = {"xmin": left + 1, "ymin": top + 1, "xmax": left + side, "ymax": top + side}  # counted from 1
        box = "".join(f"<{corner}>{value}</{corner}>" for corner, value in corners.items())
        objects += f"<object><name>{CLASSES[label]}</name><difficult>0</difficult><bndbox>{box}</bndbox></object>"
    size = f"<size><width>{WIDTH}</width><height>{HEIGHT}</height><depth>3</depth></size>"
    Image.fromarray(pixels.clip(0, 255).astype(np.uint8)).save(root / "JPEGImages" / f"{name}.jpg", quality=95)
    annotation = f"<annotation><filename>{name}.jpg</filename>{size}{objects}</annotation>"
    (root / "Annotations" / f"{name}.xml").write_text(annotation)
