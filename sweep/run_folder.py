"""The files of a run, written whole or not at all."""

import contextlib
import json
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from types import UnionType
from typing import TYPE_CHECKING, Any

import pandas as pd
import pyarrow.parquet as pq
import pyarrow.types as arrow_types
from filelock import FileLock, Timeout
from safetensors import safe_open

from sweep.errors import SweepError, UsageError
from sweep.paths import write_atomically

if TYPE_CHECKING:  # PyTorch takes a second to import, and tables are read without it
    from torch import Tensor

CONFIG_FILE, LOCK_FILE = "config.json", "run.lock"
LOCK_SECONDS = 0.5
"""To wait for a run's lock: `sweep watch` tries it now and then, for an instant."""

LARGEST_WHOLE = 2**63
RESTORE = ". Restore the run folder from a copy, or run the study again"
PLAIN_TYPES = (
    arrow_types.is_integer,
    arrow_types.is_floating,
    arrow_types.is_boolean,
    arrow_types.is_string,
    arrow_types.is_large_string,
    arrow_types.is_null,
)


class RunFolder:
    """A folder with everything a run leaves behind.

    Attributes:
        path: The folder.
        config_path: The resolved configuration and the versions it ran with.
        summary_path: The winner, the reference, and where the time went.
        trials_path: One row a trial.
        curves_path: One row a trial, epoch and metric.
        winner_path: The winner's weights, as a plain LAST of its own rank.
        weights_path: The weights of the best few trials, see `sweep.lane_weights`.
        journal_path: Optuna's storage, unless another was given.
        snapshots_path: What a run that was killed goes on from, see `sweep.snapshot_files`.
        requests_path: What a user asks of the run meanwhile, see `sweep.requests`.
        lock_path: Held by the process that works on the run.
    """

    def __init__(self, path: Path):
        self.path = path
        self.config_path = path / CONFIG_FILE
        self.summary_path = path / "summary.json"
        self.trials_path = path / "trials.parquet"
        self.curves_path = path / "curves.parquet"
        self.winner_path = path / "winner.safetensors"
        self.weights_path = path / "weights.safetensors"
        self.journal_path = path / "optuna.journal"
        self.snapshots_path = path / "snapshots"
        self.requests_path = path / "requests"
        self.lock_path = path / LOCK_FILE

    @staticmethod
    def check_free(path: Path) -> None:
        """Refuse a folder that something is already in; what a run killed at its first step leaves is nothing.

        Raises:
            UsageError: Something is already there.
        """
        if (path / CONFIG_FILE).is_file():
            raise UsageError(
                f"the run folder {path} is not empty: a run is in it. Go on with it by sweep resume {path}, or choose "
                f"another with --out"
            )
        leavings = (LOCK_FILE, f"{CONFIG_FILE}.partial")
        if path.exists() and not (path.is_dir() and all(file.name in leavings for file in path.iterdir())):
            raise UsageError(f"the run folder {path} is not empty; choose another with --out, or remove it")

    @classmethod
    def create(cls, path: Path) -> "RunFolder":
        """Make a new run folder.

        Raises:
            UsageError: Something is already there.
            SweepError: The folder cannot be made.
        """
        cls.check_free(path)
        try:
            path.mkdir(parents=True, exist_ok=True)
        except OSError as error:
            raise SweepError(
                f"cannot make the run folder {path}: {error.strerror}; choose another with --out"
            ) from error
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

    @contextlib.contextmanager
    def locked(self) -> Iterator[None]:
        """Keep other processes from working on the run meanwhile.

        Raises:
            UsageError: Another one does.
            SweepError: The file system has no locks, or refuses.
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
        """Whether a process holds the run's lock; it is tried, so ask where nobody is likely to want it just now."""
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
        from safetensors.torch import save_file

        self._write(path, lambda partial: save_file(weights, partial, metadata))

    @staticmethod
    def _write(path: Path, write: Callable[[Path], object]) -> None:
        try:
            write_atomically(path, write)
        except (OSError, ValueError) as error:
            reason = getattr(error, "strerror", None) or error
            raise SweepError(f"cannot write {path}: {reason}; free some space, then go on with sweep resume") from error


def read_weights(path: Path) -> dict[str, "Tensor"]:
    """Read a safetensors file.

    Raises:
        SweepError: The file is missing or damaged.
    """
    return read_weights_and_metadata(path)[1]


def read_weights_and_metadata(path: Path, prefix: str = "") -> tuple[dict[str, str], dict[str, "Tensor"]]:
    """Read a safetensors file: its metadata, and its tensors whose names begin with `prefix`, without it.

    Raises:
        SweepError: The file is missing or damaged.
    """
    try:
        with safe_open(path, framework="pt") as file:
            names = filter(lambda name: name.startswith(prefix), file.keys())
            return file.metadata() or {}, {name.removeprefix(prefix): file.get_tensor(name) for name in names}
    except Exception as error:
        raise SweepError(f"cannot read the weights {path}: {error}") from error


def read_json(path: Path, remedy: str = RESTORE) -> dict[str, Any]:
    """Read a JSON object.

    Args:
        path: The file.
        remedy: How a message ends.

    Raises:
        SweepError: The file is missing or damaged.
    """
    try:
        value = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError, RecursionError) as error:
        raise SweepError(f"cannot read {path}: {error}{remedy}") from error
    if not isinstance(value, dict):
        raise SweepError(f"cannot read {path}: it should hold a JSON object{remedy}")
    return value


def require_entries(
    path: Path, value: Mapping[str, Any], entries: Mapping[str, type | UnionType], remedy: str = RESTORE
) -> None:
    """Check that what was read from `path` has what a program is going to take out of it.

    Args:
        path: For the message.
        value: A JSON object.
        entries: Type by dotted name, such as `{"winner.val.top1": float}`.
        remedy: How a message ends.

    Raises:
        SweepError: An entry is missing or of another type.
    """
    for name, expected in entries.items():
        found: Any = value
        for part in name.split("."):
            found = found.get(part) if isinstance(found, dict) else None
        wrong = not isinstance(found, expected) or isinstance(found, bool)
        if wrong or (isinstance(found, int) and abs(found) > LARGEST_WHOLE):
            raise SweepError(f"{path} is damaged: its entry {name} is {str(found)[:40]!r}{remedy}")


def read_table(path: Path, columns: Mapping[str, type]) -> pd.DataFrame:
    """Read a table from parquet: numbers, truth values and text, nothing that a file could bring code along with.

    Pandas' own notes in the file and Arrow's extension types are not looked at.

    Args:
        path: The file.
        columns: `float` (any number) or `str`, by the name of a column that must be there; others may be, too.

    Raises:
        SweepError: The file is missing or damaged, lacks a column, or has one of another type.
    """
    if not path.is_file():
        raise SweepError(f"{path} is missing: no stack of this run has ended yet")
    try:
        with pq.ParquetFile(path) as file:
            table = file.read().replace_schema_metadata(None)
        table.validate(full=True)
        for field in table.schema:
            if not any(is_plain(field.type) for is_plain in PLAIN_TYPES):
                raise ValueError(f"column {field.name} is of type {field.type}, which no table of sweep has")
        if len(set(table.column_names)) < table.num_columns:
            raise ValueError("two columns have one name")
        loaded: pd.DataFrame = table.to_pandas()
    except Exception as error:  # the reader answers damage with errors of a dozen types
        raise SweepError(f"cannot read {path}: {error}{RESTORE}") from error
    require_columns(path, loaded, columns)
    return loaded


def require_columns(path: Path, table: pd.DataFrame, columns: Mapping[str, type]) -> None:
    """Check that a table that was read from `path` has certain columns, `columns` as of `read_table`.

    Raises:
        SweepError: It lacks a column, or has one of another type.
    """
    for name, expected in columns.items():
        if name not in table:
            raise SweepError(f"{path} is damaged: it has no column {name}{RESTORE}")
        numeric = pd.api.types.is_numeric_dtype(table[name]) and not pd.api.types.is_bool_dtype(table[name])
        text = len(table) == 0 or table[name].map(lambda value: isinstance(value, str)).all()
        if not (numeric if expected is float else text):
            raise SweepError(f"{path} is damaged: its column {name} holds {table[name].dtype}{RESTORE}")
