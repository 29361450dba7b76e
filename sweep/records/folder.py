"""The folder of a run. Each file in it is written completely or not at all."""

import contextlib
import json
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pandas as pd
from filelock import FileLock, Timeout

from sweep.errors import SweepError, UsageError
from sweep.machine.paths import save_weights, write_atomically

if TYPE_CHECKING:  # PyTorch takes a second to import, and tables are read without it
    from torch import Tensor

CONFIG_FILE, LOCK_FILE = "config.json", "run.lock"
EXPORTED_FILE = "model.safetensors"
"""A file that every exported model has, and no run folder."""

LOCK_SECONDS = 0.5
"""How long to wait for a run's lock. `sweep watch` holds it for an instant now and then."""


class RunFolder:
    """The folder with everything that a run writes.

    Attributes:
        path: The folder.
        config_path: The run's full configuration, with versions.
        summary_path: The winner, the linear probe, and where the time went.
        trials_path: The table of trials, one row per trial.
        curves_path: The learning curves, one row per trial, epoch and metric.
        winner_path: The winner's weights, as a plain LAST without padding.
        retrained_path: The weights of the winner trained again on train and val, if it was.
        weights_path: The weights of the best trials, see `sweep.search.lane_weights`.
        journal_path: Optuna's storage, unless the run was given another one.
        snapshots_path: The snapshots from which a killed run continues, see `sweep.running.snapshot_files`.
        requests_path: Requests of `sweep stop` and `sweep clone`, see `sweep.search.requests`.
        workers_path: What the workers do, if there are any, see `sweep.records.worker_log`.
        lock_path: The lock that the process working on the run holds.
    """

    def __init__(self, path: Path):
        self.path = path
        self.config_path = path / CONFIG_FILE
        self.summary_path = path / "summary.json"
        self.trials_path = path / "trials.parquet"
        self.curves_path = path / "curves.parquet"
        self.winner_path = path / "winner.safetensors"
        self.retrained_path = path / "retrained.safetensors"
        self.weights_path = path / "weights.safetensors"
        self.journal_path = path / "optuna.journal"
        self.snapshots_path = path / "snapshots"
        self.requests_path = path / "requests"
        self.workers_path = path / "workers.json"
        self.lock_path = path / LOCK_FILE

    @staticmethod
    def check_free(path: Path) -> None:
        """Refuse a folder that is not empty. Files left by a run that was killed at its first step do not count.

        Raises:
            UsageError: The folder is not empty.
        """
        if (path / CONFIG_FILE).is_file():
            raise UsageError(
                f"the run folder {path} is not empty: it has a run. Continue that run with sweep resume {path}, or "
                f"choose another folder with --out"
            )
        leavings = (LOCK_FILE, f"{CONFIG_FILE}.partial")
        if path.exists() and not (path.is_dir() and all(file.name in leavings for file in path.iterdir())):
            raise UsageError(f"the run folder {path} is not empty; choose another folder with --out, or remove it")

    @classmethod
    def create(cls, path: Path) -> "RunFolder":
        """Create a new run folder.

        Raises:
            UsageError: The folder exists and is not empty.
            SweepError: The folder cannot be created.
        """
        cls.check_free(path)
        try:
            path.mkdir(parents=True, exist_ok=True)
        except OSError as error:
            raise SweepError(
                f"cannot create the run folder {path}: {error.strerror}; choose another with --out"
            ) from error
        return cls(path)

    @classmethod
    def open(cls, path: Path) -> "RunFolder":
        """Open an existing run folder.

        Raises:
            UsageError: It is not a run folder.
        """
        folder = cls(path)
        if not folder.config_path.is_file():
            raise UsageError(f"{path} is not a run folder: {_why_not_a_run(path)}")
        if (path / EXPORTED_FILE).is_file():
            raise UsageError(f"{path} is a model that sweep export wrote, not a run folder; sweep predict uses it")
        return folder

    @contextlib.contextmanager
    def locked(self) -> Iterator[None]:
        """Hold the run's lock, so that no other process works on the run.

        Raises:
            UsageError: Another process holds the lock.
            SweepError: The file system has no locks, or refuses one.
        """
        lock = FileLock(self.lock_path, timeout=LOCK_SECONDS)
        try:
            lock.acquire()
        except Timeout as error:
            raise UsageError(
                f"another process is working on {self.path}; wait for it, or stop it before you resume"
            ) from error
        except OSError as error:
            raise SweepError(f"cannot lock {self.lock_path}: {error.strerror}") from error
        try:
            yield
        finally:
            lock.release()

    def is_worked_on(self) -> bool:
        """Whether a process holds the run's lock. This takes the lock for an instant, so do not ask all the time."""
        if not self.lock_path.is_file():
            return False
        try:
            with self.locked():
                return False
        except UsageError:
            return True

    def write_json(self, path: Path, value: Mapping[str, Any]) -> None:
        """Write a mapping as JSON."""
        text = json.dumps(value, indent=2, allow_nan=True)
        self._write(path, lambda partial: partial.write_text(text + "\n", encoding="utf-8"))

    def write_table(self, path: Path, table: pd.DataFrame) -> None:
        """Write a table as parquet."""
        self._write(path, lambda partial: table.to_parquet(partial, index=False))

    def write_weights(self, path: Path, weights: dict[str, "Tensor"], metadata: dict[str, str]) -> None:
        """Write weights as safetensors."""
        self._write(path, lambda partial: save_weights(weights, partial, metadata))

    @staticmethod
    def _write(path: Path, write: Callable[[Path], object]) -> None:
        try:
            write_atomically(path, write)
        except (OSError, ValueError) as error:
            reason = getattr(error, "strerror", None) or error
            raise SweepError(
                f"cannot write {path}: {reason}. Free some space, then continue with sweep resume"
            ) from error


def _why_not_a_run(path: Path) -> str:
    """Say why a path is not a run folder, and what to give instead."""
    if path.is_file():
        return f"it is a file; give the folder {path.parent}"
    if not path.is_dir():
        return "there is no such folder; sweep run names the folder that it writes, such as runs/lr_rank-…"
    configs = [config for config in path.glob(f"*/{CONFIG_FILE}") if config.is_file()]
    configs.sort(key=lambda config: config.stat().st_mtime)
    return f"it has no {CONFIG_FILE}" + (f"; did you mean {configs[-1].parent}?" if configs else "")
