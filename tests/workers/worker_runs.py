"""Small runs of a user's study file, for tests with workers."""

import os
import random
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import pandas as pd
import pytest

from sweep import Results, load_results
from sweep.records.folder import RunFolder
from sweep.records.reporter import Reporter, SearchProgress
from sweep.report.watch import RunView
from sweep.running.runner import run_study
from sweep.study.finding import LoadedStudy, load_study
from sweep.workers.request import WorkersAsked

STUDY = """
import torch
from helper_of_mine import scale
from sweep import Halving, LaneConfig, Study


def suggest(trial):
    return LaneConfig(
        lr=trial.suggest_float("lr", 1e-3, 1e-1, log=True),
        rank=trial.suggest_int("rank", 1, 4),
        loss=trial.suggest_categorical("loss", ["cross_entropy", "scaled"]),
    )


def scaled(outputs, labels):
    return scale * torch.nn.functional.cross_entropy(outputs, labels, reduction="none")


class Pooled(torch.nn.Module):
    def __init__(self, shapes, n_classes, config):
        super().__init__()
        self.linear = torch.nn.Linear(shapes.widths[-1], n_classes)

    def forward(self, stages):
        return self.linear(stages[-1].mean(1))


def spread(logits, labels):
    return scale * float(logits.std())


study = Study(
    suggest=suggest,
    baseline={"lr": 1e-2, "rank": 2, "loss": "scaled"},
    losses={"scaled": scaled},
    backbone="tiny-untrained",
    group_size=2,
    batch_size=16,
    trials=10,
    epochs=6,
    rank_buckets=(2, 4),
    halving=Halving(eta=2),
    metrics={"spread": spread},
    side_network=SIDE_NETWORK,
)
"""


class Watching(Reporter):
    """Remembers all messages, and calls `on_epoch` after each epoch."""

    def __init__(self) -> None:
        self.messages: list[str] = []
        self.views: list[RunView] = []
        self.n_epochs = 0

    def run_opened(self, folder: RunFolder, storage_url: str | None) -> None:
        self.folder = folder

    def message(self, text: str) -> None:
        self.messages.append(text)

    def epoch_started(self, n_lanes: int, trials_a_step: float) -> None:
        self.n_epochs += 1

    def epoch_ended(self, progress: SearchProgress) -> None:
        self.on_epoch(self.n_epochs)

    def on_epoch(self, number: int) -> None:
        """Do nothing; tests replace this method."""


def loaded(folder: Path, name: str, images: Path, **declared: Any) -> LoadedStudy:
    study = load_study(str(folder / name))
    return LoadedStudy(study.name, study.path, study.study.override(data=str(images), **declared))


def run(folder: Path, name: str, images: Path, workers: WorkersAsked, reporter: Reporter) -> Results:
    out = folder / f"{name}-{random.random()}"
    run_study(
        loaded(folder, name, images),
        n_parallel=5,
        out=out,
        storage_url=None,
        device_name="cpu",
        cache_dir=folder / "cache",
        reporter=reporter,
        workers=workers,
    )
    return load_results(out)


def assert_same_tables(results: Results, expected: Results) -> None:
    pd.testing.assert_frame_equal(
        results.trials.drop(columns="seconds"), expected.trials.drop(columns="seconds"), check_exact=True
    )
    pd.testing.assert_frame_equal(results.curves, expected.curves, check_exact=True)


def goes_on(process_id: int) -> bool:
    """Return whether a process still runs. A process in state Z (zombie) has ended."""
    try:
        return Path(f"/proc/{process_id}/stat").read_text().rpartition(")")[2].split()[0] != "Z"
    except OSError:
        return False


linux_only = pytest.mark.skipif(not Path("/proc/self/stat").exists(), reason="needs /proc to look at processes")


def command(folder: Path, images: Path, out: Path, *options: str) -> "subprocess.Popen[bytes]":
    """Start a run in its own process."""
    arguments = ["run", "--study", str(folder / "mine.py"), "--data", str(images), "--out", str(out)]
    return _started(folder, *arguments, "--n-parallel", "5", "--device", "cpu", *options)


def resumed(folder: Path, out: Path, n_workers: int) -> "subprocess.Popen[bytes]":
    """Resume a run in its own process."""
    return _started(folder, "resume", str(out), "--study", str(folder / "mine.py"), "--workers", str(n_workers))


def _started(folder: Path, *arguments: str) -> "subprocess.Popen[bytes]":
    environment = {**os.environ, "SWEEP_CACHE_DIR": str(folder / "cache"), "OMP_NUM_THREADS": "1"}
    environment["PYTHONPATH"] = str(Path(__file__).parents[2])
    inherited = signal.signal(signal.SIGINT, signal.default_int_handler)  # Ctrl-C works also in the background
    try:
        return subprocess.Popen([sys.executable, "-m", "sweep", *arguments], env=environment, stderr=subprocess.PIPE)
    finally:
        signal.signal(signal.SIGINT, inherited)


def until_it_trains(process: "subprocess.Popen[bytes]", out: Path) -> bool:
    """Wait until a process has written the results of an epoch. Return False if it has ended first."""
    started, deadline = time.time(), time.monotonic() + 600
    while not any(path.stat().st_mtime > started for path in (out / "snapshots").glob("*.safetensors")):
        if process.poll() == 0:
            return False
        assert process.poll() is None, process.stderr.read() if process.stderr else ""
        assert time.monotonic() < deadline
        time.sleep(0.01)
    return True


def until_gone(ids: list[int], seconds: float) -> None:
    """Wait until processes have ended."""
    deadline = time.monotonic() + seconds
    while any(goes_on(process_id) for process_id in ids):
        assert time.monotonic() < deadline
        time.sleep(0.05)
