"""The files of a run, written whole or not at all."""

import json
import os
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import pandas as pd
from safetensors import safe_open
from safetensors.torch import save_file
from torch import Tensor

from sweep.errors import SweepError, UsageError


class RunFolder:
    """A folder with everything a run leaves behind.

    Attributes:
        path: The folder.
    """

    def __init__(self, path: Path):
        self.path = path

    @property
    def config_path(self) -> Path:
        """The resolved configuration and the versions it ran with."""
        return self.path / "config.json"

    @property
    def summary_path(self) -> Path:
        """The winner, the reference, and where the time went."""
        return self.path / "summary.json"

    @property
    def trials_path(self) -> Path:
        """One row a trial."""
        return self.path / "trials.parquet"

    @property
    def curves_path(self) -> Path:
        """One row a trial, epoch and metric."""
        return self.path / "curves.parquet"

    @property
    def winner_path(self) -> Path:
        """The winner's weights, as a plain LAST of its own rank."""
        return self.path / "winner.safetensors"

    @property
    def journal_path(self) -> Path:
        """Optuna's storage, unless another was given."""
        return self.path / "optuna.journal"

    @classmethod
    def create(cls, path: Path) -> "RunFolder":
        """Make a new run folder.

        Raises:
            UsageError: Something is already there.
            SweepError: The folder cannot be made.
        """
        try:
            path.mkdir(parents=True, exist_ok=True)
            occupied = any(path.iterdir())
        except OSError as error:
            raise SweepError(
                f"cannot make the run folder {path}: {error.strerror}; choose another with --out"
            ) from error
        if occupied:
            raise UsageError(f"the run folder {path} is not empty; choose another with --out, or remove it")
        return cls(path)

    @classmethod
    def open(cls, path: Path) -> "RunFolder":
        """Open an existing run folder.

        Raises:
            UsageError: The folder is not a run's.
        """
        folder = cls(path)
        if not folder.config_path.is_file():
            raise UsageError(f"{path} is not a run folder: it has no {folder.config_path.name}")
        return folder

    def write_json(self, path: Path, value: Mapping[str, Any]) -> None:
        """Write a mapping as JSON."""
        text = json.dumps(value, indent=2, allow_nan=True)
        self._write(path, lambda partial: partial.write_text(text + "\n", encoding="utf-8"))

    def write_table(self, path: Path, table: pd.DataFrame) -> None:
        """Write a table as parquet."""
        self._write(path, lambda partial: table.to_parquet(partial, index=False))

    def write_weights(self, path: Path, weights: dict[str, Tensor], metadata: dict[str, str]) -> None:
        """Write weights as safetensors."""
        self._write(path, lambda partial: save_file(weights, partial, metadata))

    @staticmethod
    def _write(path: Path, write: Callable[[Path], object]) -> None:
        """Write beside, then rename: a reader finds the old file or the new one."""
        partial = path.with_name(f"{path.name}.partial")
        try:
            write(partial)
            with partial.open("rb+") as file:
                os.fsync(file.fileno())
            partial.replace(path)
        except (OSError, ValueError) as error:
            partial.unlink(missing_ok=True)
            reason = getattr(error, "strerror", None) or error
            raise SweepError(f"cannot write {path}: {reason}; free some space or choose another --out") from error


def read_weights(path: Path) -> dict[str, Tensor]:
    """Read a safetensors file.

    Raises:
        SweepError: The file is missing or damaged.
    """
    try:
        with safe_open(path, framework="pt") as file:
            return {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118 - not a mapping
    except Exception as error:
        raise SweepError(f"cannot read the weights {path}: {error}") from error


def read_json(path: Path) -> dict[str, Any]:
    """Read a JSON object.

    Raises:
        SweepError: The file is missing or damaged.
    """
    try:
        value: dict[str, Any] = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise SweepError(f"cannot read {path}: {error}") from error
    return value
