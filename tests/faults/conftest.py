"""Images for runs that are small enough to be killed by the hundred."""

from pathlib import Path

import numpy as np
import pytest
from PIL import Image


@pytest.fixture(scope="session")
def drawn_images(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Three classes of 20 noisy images."""
    root = tmp_path_factory.mktemp("images")
    rng = np.random.default_rng(0)
    for name, rows in (("above", slice(0, 16)), ("below", slice(16, 32)), ("everywhere", slice(0, 32))):
        (root / name).mkdir()
        for i in range(20):
            pixels = rng.integers(0, 190, (32, 32, 3))
            pixels[rows] += 40
            Image.fromarray(pixels.astype(np.uint8)).save(root / name / f"{i}.png")
    return root
