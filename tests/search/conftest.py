"""Fixtures for a search that takes a second: an untrained backbone and three classes of drawn images."""

from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import optuna
import pytest
from PIL import Image

from sweep import LaneConfig, Results, Study, load_results
from sweep.records.folder import RunFolder
from sweep.records.reporter import Reporter, SearchProgress
from sweep.running.runner import run_study
from sweep.search.optuna_storage import open_storage
from sweep.study.finding import LoadedStudy

Search = Callable[..., Results]


def optuna_study(run: Path) -> optuna.Study:
    """Load the Optuna study of a run from the run's own storage."""
    return optuna.load_study(study_name=run.name, storage=open_storage(None, RunFolder(run)))


class RecordingReporter(Reporter):
    """Remembers everything that it is told."""

    def __init__(self) -> None:
        self.messages: list[str] = []
        self.epochs: list[int] = []  # number of lanes in each epoch
        self.progress: list[SearchProgress] = []
        self.n_steps = 0
        self.on_epoch: Callable[[int], None] = lambda epoch: None

    def message(self, text: str) -> None:
        self.messages.append(text)

    def features(self, split: str, n_done: int, n_images: int) -> None: ...

    def search_started(self, n_trials: int, n_epochs: int) -> None: ...

    def epoch_started(self, n_lanes: int, trials_a_step: float) -> None:
        self.epochs.append(n_lanes)

    def step(self) -> None:
        self.n_steps += 1

    def epoch_ended(self, progress: SearchProgress) -> None:
        self.progress.append(progress)
        self.on_epoch(len(self.epochs))

    def search_ended(self) -> None: ...


@pytest.fixture(scope="session")
def image_folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Three classes of 20 noisy images: bright in the upper half, in the lower half, and everywhere."""
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


@pytest.fixture(scope="session")
def small_study(image_folder: Path) -> Study:
    return Study(
        suggest=suggest,
        baseline=BASELINE,
        max_rank=4,
        rank_buckets=(4,),
        backbone="tiny-untrained",
        data=str(image_folder),
        group_size=2,
        trials=5,
        epochs=3,
        batch_size=16,
    )


def search_in(root: Path, study: Study, **options: Any) -> Results:
    """Run a study into the folder `run` of `root`, with the cache beside it. Return what the run recorded."""
    arguments: dict[str, Any] = {
        "n_parallel": 3,
        "out": root / "run",
        "storage_url": None,
        "device_name": "cpu",
        "cache_dir": root / "cache",
        "reporter": RecordingReporter(),
        **options,
    }
    folder = run_study(LoadedStudy("small", Path("small.py"), study), **arguments)
    return load_results(folder.path)


@pytest.fixture
def search(tmp_path: Path) -> Search:
    """Return a function that runs a study and reads its folder: `search(study, n_parallel=…, out=…)`."""
    return partial(search_in, tmp_path)
