"""Fixtures for all tests."""

import os
from pathlib import Path

import numpy as np
import pytest
from PIL import Image


@pytest.fixture(scope="session")
def cache_dir(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """sweep's cache: the user's own where `SWEEP_CACHE_DIR` names one, so that downloads are made once."""
    named = os.environ.get("SWEEP_CACHE_DIR")
    return Path(named) if named else tmp_path_factory.mktemp("sweep_cache")


@pytest.fixture
def photos(tmp_path: Path) -> Path:
    """Two classes of 8 noisy images."""
    root = tmp_path / "photos"
    rng = np.random.default_rng(0)
    for name in ("cats", "dogs"):
        (root / name).mkdir(parents=True)
        for i in range(8):
            Image.fromarray(rng.integers(0, 255, (20, 20, 3), dtype=np.uint8)).save(root / name / f"{i}.png")
    return root
