"""Fixtures for all tests."""

import os
from pathlib import Path
from typing import Any

import numpy as np
import optuna
import pytest
from PIL import Image

from sweep import LaneConfig, Study
from sweep.cli.console import stderr
from sweep.cli.progress import LineReporter
from sweep.runner import run_study
from sweep.study import LoadedStudy


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


def suggest(trial: optuna.Trial) -> LaneConfig:
    return LaneConfig(
        lr=trial.suggest_float("lr", 1e-3, 1e-1, log=True), rank=trial.suggest_categorical("rank", [1, 2])
    )


def run_on(images: Path, name: str, **declared: Any) -> Path:
    """A run on drawn images, in a folder of that name beside them."""
    study = Study(
        suggest=suggest,
        baseline={"lr": 1e-2, "rank": 2},
        max_rank=2,
        backbone="tiny-untrained",
        data=str(images),
        group_size=2,
        epochs=3,
        batch_size=16,
        **declared,
    )
    folder = run_study(
        LoadedStudy("drawn", Path("drawn.py"), study),
        n_parallel=2,
        out=images.parent / name,
        storage_url=None,
        device_name="cpu",
        cache_dir=images.parent / "cache",
        reporter=LineReporter(stderr),
    )
    return folder.path


def draw_images(root: Path, third: str) -> Path:
    """Three classes of 20 noisy images: bright above, bright below, bright everywhere."""
    rng = np.random.default_rng(0)
    for name, rows in (("above", slice(0, 16)), ("below", slice(16, 32)), (third, slice(0, 32))):
        (root / name).mkdir(parents=True)
        for i in range(20):
            pixels = rng.integers(0, 190, (32, 32, 3))
            pixels[rows] += 40
            Image.fromarray(pixels.astype(np.uint8)).save(root / name / f"{i}.png")
    return root


@pytest.fixture(scope="session")
def drawn_images(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """See `draw_images`."""
    return draw_images(tmp_path_factory.mktemp("drawn") / "images", "everywhere")


@pytest.fixture(scope="session")
def finished_run(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run of four trials on three classes of drawn images, one of which has a name to beware of."""
    root = tmp_path_factory.mktemp("finished")
    return run_on(draw_images(root / "images", "<img src=x onerror=console.error(1)>"), "run", trials=4)


@pytest.fixture(scope="session")
def pareto_run(finished_run: Path) -> Path:
    """A run of several objectives on the images and features of `finished_run`."""
    objectives = {"val_nll": "minimize", "trainable_parameters": "minimize", "val_spread": "maximize"}
    metrics = {"spread": lambda logits, labels: float(logits.std())}
    return run_on(finished_run.parent / "images", "pareto", trials=6, objectives=objectives, metrics=metrics)
