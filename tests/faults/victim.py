"""A run in its own process, which tests kill at any instant, and its results for comparison.

The processes come from a fork server that has made once what every run needs, see `prepared.py`, so that hundreds of
kills take only minutes. The server itself never computes. If it had run a parallel region, its forks would hang in
their first one.
"""

import contextlib
import errno
import itertools
import math
import multiprocessing
import os
import random
import signal
import threading
import time
from collections.abc import Callable
from dataclasses import dataclass, replace
from functools import cache, partial
from multiprocessing.connection import Connection
from multiprocessing.forkserver import ensure_running
from multiprocessing.process import BaseProcess
from pathlib import Path
from typing import Any

import optuna
import pandas as pd
import pytest
import torch
from optuna.storages import JournalStorage, RDBStorage
from safetensors.torch import load_file

import sweep.search.search
from sweep import Halving, LaneConfig, Study, SweepError, load_results
from sweep.records.folder import RunFolder
from sweep.records.reporter import Reporter
from sweep.running.resume import resume_run
from sweep.running.runner import run_study
from sweep.search.optuna_storage import open_storage
from sweep.study.finding import LoadedStudy

PROCESSES = multiprocessing.get_context("forkserver")
PROCESSES.set_forkserver_preload(["prepared"])

FAILED_HONESTLY, INTERRUPTED = 3, 130
"""Exit codes of a process that ended with one of sweep's errors, or by Ctrl-C."""


def suggest(trial: optuna.Trial) -> LaneConfig:
    """A conditional search space with a constraint and a user attribute. Some of its lanes diverge."""
    lr = trial.suggest_float("lr", 1e-3, 1.0, log=True)
    loss = trial.suggest_categorical("loss", ["cross_entropy", "focal"])
    gamma = trial.suggest_float("focal_gamma", 0.5, 3.0) if loss == "focal" else 2.0
    rank = trial.suggest_int("rank", 1, 4)
    trial.set_user_attr("rank_squared", rank**2)
    trial.set_constraint("small", rank - 3.5)
    optimizer = "sgd" if lr > 0.5 else "adamw"
    return LaneConfig(
        lr=1e30 if lr > 0.5 else lr,
        optimizer=optimizer,
        rank=rank,
        loss=loss,
        focal_gamma=gamma,
        dropout=0.2 if loss == "focal" else 0.0,
    )


def repetitive(trial: optuna.Trial) -> LaneConfig:
    """A search space of only six configurations, so that the sampler often repeats itself."""
    return LaneConfig(
        lr=trial.suggest_categorical("lr", [1e-3, 1e-2, 1e-1]), rank=trial.suggest_categorical("rank", [1, 2])
    )


def of_many_shapes(trial: optuna.Trial) -> LaneConfig:
    """A search space of two image sizes, one or two stages, and ranks of several buckets."""
    return LaneConfig(
        lr=trial.suggest_float("lr", 1e-3, 1e-1, log=True),
        rank=trial.suggest_int("rank", 1, 4),
        image_size=trial.suggest_categorical("image_size", [16, 32]),
        stages=trial.suggest_int("stages", 1, 2),
    )


COMMON: dict[str, Any] = {"backbone": "tiny-untrained", "group_size": 2, "batch_size": 16, "max_rank": 4}
BASELINE = {"lr": 1e-2, "loss": "cross_entropy", "rank": 2}
STUDIES: dict[str, Callable[[str], Study]] = {
    "rungs and refill": lambda data: Study(
        suggest=suggest, baseline=BASELINE, data=data, trials=9, epochs=4, halving=Halving(eta=2), **COMMON
    ),
    "several objectives and replicates": lambda data: Study(
        suggest=suggest,
        baseline=BASELINE,
        data=data,
        trials=6,
        epochs=3,
        seeds=2,
        sampler="nsga2",
        objectives={"val_nll": "minimize", "trainable_parameters": "minimize"},
        **COMMON,
    ),
    "exhausted": lambda data: Study(
        suggest=repetitive, baseline={"lr": 1e-2, "rank": 2}, data=data, trials=9, epochs=2, sampler="random", **COMMON
    ),
    "many shapes": lambda data: Study(
        suggest=of_many_shapes,
        baseline={"lr": 1e-2, "rank": 2, "image_size": 32, "stages": 2},
        data=data,
        trials=12,
        epochs=4,
        halving=Halving(eta=2),
        rank_buckets=(2, 4),
        **COMMON,
    ),
    "grid": lambda data: replace(
        STUDIES["exhausted"](data), sampler="grid", grid={"lr": [1e-3, 1e-2, 1e-1], "rank": [1, 2]}
    ),
}


@cache
def start_server() -> None:
    """Start the fork server in an environment in which it finds `prepared.py`."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("PYTHONPATH", str(Path(__file__).parent), prepend=os.pathsep)
        ensure_running()


@dataclass(frozen=True)
class Fault:
    """A fault that happens to a process.

    Attributes:
        after_seconds: The process gets `signal` after this time.
        signal: The signal; `SIGINT` stands for Ctrl-C.
        at_write: The process is killed at its flush or rename of a file with this number. At these instants a file is
            written, but not yet durable or not yet in its place.
        full_at_write: The disk is full from the flush or new file with this number on.
        at_tell: The storage fails when the trial with this number (in order of ending) is reported.
        hangs: Instead of raising an error, the storage never answers.
        snapshots_often: Write a snapshot after every epoch, whatever it costs.
        clock_jumps: The wall clock jumps back and forth.
    """

    after_seconds: float | None = None
    signal: int = signal.SIGKILL
    at_write: int | None = None
    full_at_write: int | None = None
    at_tell: int | None = None
    hangs: bool = False
    snapshots_often: bool = False
    clock_jumps: bool = False


def _arm(fault: Fault) -> None:
    if fault.after_seconds is not None:
        threading.Thread(target=_strike, args=(fault.after_seconds, fault.signal), daemon=True).start()
    if fault.snapshots_often:
        sweep.search.search.SAVING_SHARE = math.inf
    if fault.clock_jumps:
        rng = random.Random(0)
        time.time = lambda: rng.uniform(0, 4e9)

    def at_write(number: int, needs_space: bool) -> None:
        if number == fault.at_write:
            os.kill(os.getpid(), signal.SIGKILL)
        if needs_space and fault.full_at_write is not None and number >= fault.full_at_write:
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    def at_tell(number: int) -> None:
        if number == fault.at_tell:
            if fault.hangs:
                time.sleep(3600)
            raise optuna.exceptions.StorageInternalError("the data base is gone")

    count = itertools.count(1)
    for name, needs_space in (("fsync", True), ("symlink", True), ("replace", False), ("rename", False)):
        setattr(os, name, _before(getattr(os, name), partial(lambda space: at_write(next(count), space), needs_space)))
    tells = itertools.count(1)
    for storage in (JournalStorage, RDBStorage):
        told = _before(storage.set_trial_state_values, lambda: at_tell(next(tells)))
        storage.set_trial_state_values = told  # type: ignore[method-assign]


def _strike(after_seconds: float, number: int) -> None:
    time.sleep(after_seconds)
    os.kill(os.getpid(), number)


def _before(function: Callable[..., Any], do: Callable[[], None]) -> Callable[..., Any]:
    def call(*args: Any, **options: Any) -> Any:
        do()
        return function(*args, **options)

    return call


class _Tell(Reporter):
    """Sends the run's messages to the parent process."""

    def __init__(self, pipe: Any):
        self.pipe = pipe

    def message(self, text: str) -> None:
        self.pipe.send(text)


def work(out: Path, images: Path, name: str, storage: str | None, fault: Fault, pipe: Any) -> None:
    """Start a run, or resume it if it has been started. The exit code is 0 when it has ended."""
    torch.set_num_threads(1)
    _arm(fault)
    study = LoadedStudy(name, Path("victim.py"), STUDIES[name](str(images)))
    where: dict[str, Any] = {"storage_url": storage, "cache_dir": out.parent / "cache", "reporter": _Tell(pipe)}
    try:
        if RunFolder(out).config_path.is_file():
            resume_run(out, study, **where)
        else:
            run_study(study, n_parallel=4, out=out, device_name="cpu", **where)
    except (SweepError, OSError) as error:
        pipe.send(f"error: {error}")
        os._exit(FAILED_HONESTLY)
    except KeyboardInterrupt:
        os._exit(INTERRUPTED)


class Victim:
    """A run that one process after another works on.

    Args:
        folder: Folder of the run, its storage and its cache.
        images: Folder of the images.
        name: A key of `STUDIES`.
        sqlite: Whether trials are in a data base beside the run instead of its journal.
    """

    def __init__(self, folder: Path, images: Path, name: str, *, sqlite: bool = False):
        folder.mkdir()
        self.out, self.images, self.name = folder / "run", images, name
        self.storage = f"sqlite:///{folder / 'trials.db'}" if sqlite else None
        self.messages: list[str] = []

    def start(self, fault: Fault) -> tuple[BaseProcess, Connection]:
        """Work on the run in a new process. Return the process and the pipe with its messages."""
        start_server()
        receiver, sender = PROCESSES.Pipe(duplex=False)
        arguments = (self.out, self.images, self.name, self.storage, fault, sender)
        process = PROCESSES.Process(target=work, args=arguments)
        process.start()
        sender.close()
        return process, receiver

    def go_on(self, fault: Fault) -> int | None:
        """Work on the run in a new process until that ends. Return its exit code, which is negative for a signal."""
        process, receiver = self.start(fault)
        self.messages = []
        with contextlib.suppress(EOFError, ConnectionError):
            while True:
                self.messages.append(receiver.recv())
        process.join()
        return process.exitcode

    def finish(self) -> None:
        """Work on the run without a fault until it ends."""
        code = self.go_on(Fault())
        assert code == 0, self.messages

    def result(self) -> dict[str, Any]:
        """Return all that two runs of one study must have in common, however often they were killed."""
        results = load_results(self.out)
        by = ["trial", "replicate", "epoch", "metric"]
        optuna_study = optuna.load_study(study_name="run", storage=open_storage(self.storage, RunFolder(self.out)))
        return {
            "trials": results.trials.drop(columns="seconds").reset_index(drop=True),
            "curves": results.curves.sort_values(by).reset_index(drop=True),
            "summary": {key: results.summary[key] for key in ("winner", "ended", "n_trials", "n_repeats_dropped")},
            "weights": load_file(self.out / "winner.safetensors"),
            "kept": load_file(self.out / "weights.safetensors"),
            "optuna": [
                (t.number, t.state, t.values, t.params, {**t.user_attrs, "sweep:seconds": None}, t.intermediate_values)
                for t in optuna_study.get_trials()
            ],
        }


def assert_same(result: dict[str, Any], expected: dict[str, Any]) -> None:
    """Assert that two results are equal bit for bit."""
    pd.testing.assert_frame_equal(result["trials"], expected["trials"], check_exact=True)
    pd.testing.assert_frame_equal(result["curves"], expected["curves"], check_exact=True)
    assert result["summary"] == expected["summary"]
    assert result["optuna"] == expected["optuna"]
    for what in ("weights", "kept"):
        assert result[what].keys() == expected[what].keys()
        assert all(torch.equal(tensor, expected[what][name]) for name, tensor in result[what].items())


def random_fault(rng: random.Random, wall_seconds: float, n_writes: int) -> Fault:
    """Return a kill at a random instant of a run or at a random write, or in some cases Ctrl-C."""
    often = rng.random() < 0.5
    if rng.random() < 0.5:
        return Fault(at_write=rng.randint(1, n_writes), snapshots_often=often)
    number = signal.SIGINT if rng.random() < 0.2 else signal.SIGKILL
    return Fault(after_seconds=rng.uniform(0, wall_seconds), signal=number, snapshots_often=often)
