"""Drawn images with masks, for tests of segmentation."""

from pathlib import Path

import numpy as np
from PIL import Image

N_IMAGES, WIDTH, HEIGHT = 30, 40, 32


def draw_scenes(root: Path) -> Path:
    """Draw images of a bright and a dark square, and their masks. The borders of the squares have no label."""
    rng = np.random.default_rng(0)
    for folder in ("images", "masks"):
        (root / folder / "deep").mkdir(parents=True)
    (root / "classes.txt").write_text("ground\nbright\n<dark>\n")
    for number in range(N_IMAGES):
        pixels = rng.integers(100, 140, (HEIGHT, WIDTH, 3))
        mask = np.zeros((HEIGHT, WIDTH), dtype=np.uint8)
        for value, change in ((1, 110), (2, -90)):
            top, left = rng.integers(0, HEIGHT - 14), rng.integers(0, WIDTH - 14)
            pixels[top : top + 14, left : left + 14] = rng.integers(-9, 9, (14, 14, 3)) + 120 + change
            mask[top : top + 14, left : left + 14] = 255
            mask[top + 1 : top + 13, left + 1 : left + 13] = value
        name = f"deep/{number}" if number % 2 else str(number)
        Image.fromarray(pixels.clip(0, 255).astype(np.uint8)).save(root / "images" / f"{name}.png")
        drawn = Image.fromarray(mask)
        if number % 3 == 0:
            drawn.putpalette([255 - number for number in range(256) for _ in range(3)])
        drawn.save(root / "masks" / f"{name}.png")
    return root
