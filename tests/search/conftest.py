"""A search small enough to run in a second: untrained backbone, three kinds of drawn images."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import optuna
import pytest
from PIL import Image

from sweep import LaneConfig, Results, Study, load_results
from sweep.reporter import Reporter
from sweep.runner import run_study
from sweep.study import LoadedStudy


class RecordingReporter(Reporter):
    """Remembers what it was told."""

    def __init__(self) -> None:
        self.messages: list[str] = []
        self.stacks: list[tuple[int, int, int]] = []
        self.n_steps = 0
        self.on_epoch: Callable[[int], None] = lambda epoch: None

    def message(self, text: str) -> None:
        self.messages.append(text)

    def features(self, split: str, n_done: int, n_images: int) -> None: ...

    def stack_started(self, n_lanes: int, n_epochs: int, n_steps: int) -> None:
        self.stacks.append((n_lanes, n_epochs, n_steps))

    def step(self) -> None:
        self.n_steps += 1

    def epoch(self, epoch: int, best_val_top1: float, n_failed: int) -> None:
        self.on_epoch(epoch)

    def stack_ended(self) -> None: ...


@pytest.fixture(scope="session")
def image_folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Three classes of 20 noisy images: bright above, bright below, bright everywhere."""
    root = tmp_path_factory.mktemp("images")
    rng = np.random.default_rng(0)
    for name, rows in (("above", slice(0, 16)), ("below", slice(16, 32)), ("everywhere", slice(0, 32))):
        (root / name).mkdir()
        for i in range(20):
            pixels = rng.integers(0, 120, (32, 32, 3))
            pixels[rows] += 120
            Image.fromarray(pixels.astype(np.uint8)).save(root / name / f"{i}.png")
    return root


def suggest(trial: optuna.Trial) -> LaneConfig:
    return LaneConfig(
        lr=trial.suggest_float("lr", 1e-3, 1e-1, log=True),
        rank=trial.suggest_categorical("rank", [1, 2, 4]),
        loss=trial.suggest_categorical("loss", ["cross_entropy", "bce"]),
    )


BASELINE = {"lr": 1e-2, "rank": 2, "loss": "cross_entropy"}


@pytest.fixture
def small_study(image_folder: Path) -> Study:
    return Study(
        suggest=suggest,
        baseline=BASELINE,
        max_rank=4,
        backbone="tiny-untrained",
        data=str(image_folder),
        group_size=2,
        trials=5,
        epochs=3,
        batch_size=16,
    )


@pytest.fixture
def search(tmp_path: Path, tmp_path_factory: pytest.TempPathFactory) -> Callable[..., Results]:
    """Runs a study in process and reads its folder: `search(study, n_parallel=…, out=…)`."""

    def run(study: Study, **options: Any) -> Results:
        arguments: dict[str, Any] = {
            "n_parallel": 3,
            "out": tmp_path / "run",
            "storage_url": None,
            "device_name": "cpu",
            "cache_dir": tmp_path / "cache",
            "reporter": RecordingReporter(),
            **options,
        }
        folder = run_study(LoadedStudy("small", Path("small.py"), study), **arguments)
        return load_results(folder.path)

    return run
