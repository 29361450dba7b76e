"""Runs on worker processes: the same tables as without, whoever is killed, and no process is left behind."""

import os
import random
import re
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pandas as pd
import pytest

from sweep import Results, SweepError, load_results
from sweep.records.reporter import Reporter, SearchProgress
from sweep.running.resume import resume_run
from sweep.running.runner import run_study
from sweep.study.finding import LoadedStudy, load_study
from sweep.workers import local_pool
from sweep.workers.local_pool import LocalPool

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


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A study file, another one with a side-network of its own, and a module beside them that both import."""
    folder = tmp_path_factory.mktemp("mine")
    (folder / "helper_of_mine.py").write_text("scale = 3.0\n")
    (folder / "mine.py").write_text(STUDY.replace("SIDE_NETWORK", '"last"'))
    (folder / "own.py").write_text(STUDY.replace("SIDE_NETWORK", "Pooled"))
    return folder


class Watching(Reporter):
    """Remembers messages, and does something at an epoch."""

    def __init__(self) -> None:
        self.messages: list[str] = []
        self.n_epochs = 0

    def message(self, text: str) -> None:
        self.messages.append(text)

    def epoch_started(self, n_lanes: int, trials_a_step: float) -> None:
        self.n_epochs += 1

    def epoch_ended(self, progress: SearchProgress) -> None:
        self.on_epoch(self.n_epochs)

    def on_epoch(self, number: int) -> None:
        """To be replaced."""


def loaded(folder: Path, name: str, images: Path) -> LoadedStudy:
    study = load_study(str(folder / name))
    return LoadedStudy(study.name, study.path, study.study.override(data=str(images)))


def run(folder: Path, name: str, images: Path, n_workers: int, reporter: Reporter) -> Results:
    out = folder / f"{name}-{n_workers}-{random.random()}"
    run_study(
        loaded(folder, name, images),
        n_parallel=5,
        out=out,
        storage_url=None,
        device_name="cpu",
        cache_dir=folder / "cache",
        reporter=reporter,
        n_workers=n_workers,
    )
    return load_results(out)


def assert_same_tables(results: Results, expected: Results) -> None:
    pd.testing.assert_frame_equal(
        results.trials.drop(columns="seconds"), expected.trials.drop(columns="seconds"), check_exact=True
    )
    pd.testing.assert_frame_equal(results.curves, expected.curves, check_exact=True)


@pytest.fixture
def pools(monkeypatch: pytest.MonkeyPatch) -> list[LocalPool]:
    """The pools that runs make."""
    made: list[LocalPool] = []
    init = LocalPool.__init__

    def remembering(self: LocalPool, *args: Any) -> None:
        init(self, *args)
        made.append(self)

    monkeypatch.setattr(LocalPool, "__init__", remembering)
    return made


def goes_on(process_id: int) -> bool:
    """Whether a process is there and no zombie."""
    try:
        return Path(f"/proc/{process_id}/stat").read_text().rpartition(")")[2].split()[0] != "Z"
    except OSError:
        return False


linux_only = pytest.mark.skipif(not Path("/proc/self/stat").exists(), reason="needs /proc to look at processes")


@linux_only
def test_worker_processes_give_the_same_tables_also_when_one_is_killed(
    folder: Path, drawn_images: Path, pools: list[LocalPool]
) -> None:
    expected = run(folder, "mine.py", drawn_images, 0, Reporter())
    watching, seen = Watching(), []

    def kill(number: int) -> None:
        seen.extend(pools[0].process_ids)
        if number == 2:
            victim = pools[0].process_ids[-1]
            threading.Timer(0.02, os.kill, (victim, signal.SIGKILL)).start()  # in the middle of the next epoch

    watching.on_epoch = kill  # type: ignore[method-assign]
    results = run(folder, "mine.py", drawn_images, 2, watching)
    assert_same_tables(results, expected)
    assert any(re.fullmatch(r"worker 1 has died; \d trials in training continue .*", m) for m in watching.messages)
    assert len(set(seen)) >= 2
    assert not any(goes_on(process_id) for process_id in seen)
    assert results.config["workers"] == 2
    assert (expected.trials["val_spread"] > 0).all()


@pytest.mark.slow
def test_a_side_network_of_the_studys_own_on_workers(folder: Path, drawn_images: Path) -> None:
    expected = run(folder, "own.py", drawn_images, 0, Reporter())
    assert_same_tables(run(folder, "own.py", drawn_images, 2, Reporter()), expected)


def children(process_id: int) -> list[int]:
    """Processes that a process has started."""
    found = []
    for stat in Path("/proc").glob("[0-9]*/stat"):
        try:
            fields = stat.read_text().rpartition(")")[2].split()
        except OSError:
            continue
        if int(fields[1]) == process_id and fields[0] != "Z":
            found.append(int(stat.parent.name))
    return found


def command(folder: Path, images: Path, out: Path, *options: str) -> "subprocess.Popen[bytes]":
    environment = {**os.environ, "SWEEP_CACHE_DIR": str(folder / "cache"), "OMP_NUM_THREADS": "1"}
    environment["PYTHONPATH"] = str(Path(__file__).parents[2])
    arguments = ["run", "--study", str(folder / "mine.py"), "--data", str(images), "--out", str(out)]
    arguments += ["--n-parallel", "5", "--device", "cpu", *options]
    return subprocess.Popen([sys.executable, "-m", "sweep", *arguments], env=environment, stderr=subprocess.PIPE)


def until_it_trains(process: "subprocess.Popen[bytes]", out: Path) -> None:
    """Wait until there are results of an epoch."""
    deadline = time.monotonic() + 600
    while not any((out / "snapshots").glob("*.safetensors")):
        assert process.poll() is None, process.stderr.read() if process.stderr else ""
        assert time.monotonic() < deadline
        time.sleep(0.01)


@linux_only
@pytest.mark.parametrize(("number", "n_workers"), [(signal.SIGKILL, 0), (signal.SIGINT, 1)])
def test_a_run_that_is_killed_leaves_no_worker_and_goes_on_with_another_number_of_them(
    folder: Path, drawn_images: Path, tmp_path: Path, number: signal.Signals, n_workers: int
) -> None:
    process = command(folder, drawn_images, tmp_path / "run", "--epochs", "40", "--workers", "2")
    until_it_trains(process, tmp_path / "run")
    workers = children(process.pid)
    assert len(workers) == 2
    process.send_signal(number)
    process.communicate(timeout=300)
    assert process.returncode == (130 if number == signal.SIGINT else -signal.SIGKILL)
    deadline = time.monotonic() + 60
    while any(goes_on(worker) for worker in workers):
        assert time.monotonic() < deadline
        time.sleep(0.05)
    study = load_study(str(folder / "mine.py"))
    where: dict[str, Any] = {"storage_url": None, "cache_dir": folder / "cache", "reporter": Reporter()}
    resume_run(tmp_path / "run", study, **where, n_workers=n_workers)
    quiet = loaded(folder, "mine.py", drawn_images)
    quiet = LoadedStudy(quiet.name, quiet.path, quiet.study.override(epochs=40))
    run_study(quiet, n_parallel=5, out=tmp_path / "quiet", device_name="cpu", **where)
    assert_same_tables(load_results(tmp_path / "run"), load_results(tmp_path / "quiet"))


def test_workers_that_cannot_start_are_one_clear_error(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(local_pool.sys, "executable", "/bin/false")
    pool = LocalPool(["cpu"], 1)
    with pytest.raises(SweepError, match=r"3 workers in a row ended before they were ready, .* exit code"):
        pool.welcome(wait=True)
    pool.close()


@pytest.mark.slow
def test_fifty_kills(folder: Path, drawn_images: Path, pools: list[LocalPool]) -> None:
    """Workers are killed at random moments of several runs, some while they start."""
    expected = run(folder, "mine.py", drawn_images, 0, Reporter())
    rng, n_kills = random.Random(0), 0
    while n_kills < 50:
        stop = threading.Event()

        def kill_now_and_then(stop: threading.Event = stop) -> Iterator[None]:
            nonlocal n_kills
            while not stop.wait(rng.uniform(0.5, 8.0)):
                if pools and (ids := pools[-1].process_ids):
                    os.kill(rng.choice(ids), signal.SIGKILL)
                    n_kills += 1
                yield

        killer = threading.Thread(target=lambda: list(kill_now_and_then()))
        killer.start()
        try:
            results = run(folder, "mine.py", drawn_images, rng.randint(1, 3), Reporter())
        finally:
            stop.set()
            killer.join()
        assert_same_tables(results, expected)
