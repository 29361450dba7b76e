"""Read files that may be damaged or come from somebody else. Nothing in them is executed."""

import json
from collections.abc import Mapping
from pathlib import Path
from types import UnionType
from typing import TYPE_CHECKING, Any

import pandas as pd
import pyarrow.parquet as pq
import pyarrow.types as arrow_types
from safetensors import safe_open

from sweep.errors import SweepError

if TYPE_CHECKING:  # PyTorch takes a second to import, and tables are read without it
    from torch import Tensor

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


def read_weights(path: Path) -> dict[str, "Tensor"]:
    """Read a safetensors file.

    Raises:
        SweepError: The file is missing or damaged.
    """
    return read_weights_and_metadata(path)[1]


def read_weights_and_metadata(path: Path, prefix: str = "") -> tuple[dict[str, str], dict[str, "Tensor"]]:
    """Read a safetensors file: its metadata, and the tensors whose names begin with `prefix`, with the prefix removed.

    Raises:
        SweepError: The file is missing or damaged.
    """
    try:
        with safe_open(path, framework="pt") as file:
            names = filter(lambda name: name.startswith(prefix), file.keys())
            return file.metadata() or {}, {name.removeprefix(prefix): file.get_tensor(name) for name in names}
    except Exception as error:
        raise SweepError(
            f"cannot read the weights {path}: {error}. Restore the folder {path.parent} from a copy, or make it again"
        ) from error


def read_json(path: Path, remedy: str = RESTORE) -> dict[str, Any]:
    """Read a JSON object.

    Args:
        path: The file.
        remedy: The end of the error message, which says what to do.

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
    """Check that a JSON object has the entries that the program is going to use.

    Args:
        path: The file it was read from, for the message.
        value: The JSON object.
        entries: The type of each entry by dotted name, such as `{"winner.val.top1": float}`.
        remedy: The end of the error message, which says what to do.

    Raises:
        SweepError: An entry is missing or has another type.
    """
    for name, expected in entries.items():
        found: Any = value
        for part in name.split("."):
            found = found.get(part) if isinstance(found, dict) else None
        wrong = not isinstance(found, expected) or isinstance(found, bool)
        if wrong or (isinstance(found, int) and abs(found) > LARGEST_WHOLE):
            raise SweepError(f"{path} is damaged: its entry {name} is {str(found)[:40]!r}{remedy}")


def read_table(path: Path, columns: Mapping[str, type]) -> pd.DataFrame:
    """Read a table of numbers, booleans and text from parquet; other types, which could carry code, are refused.

    Metadata that pandas wrote into the file is ignored.

    Args:
        path: The file.
        columns: Names of required columns, each with `float` (any number) or `str`. The file may have more columns.

    Raises:
        SweepError: The file is missing or damaged, lacks a column, or has a column of another type.
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
    except Exception as error:  # damaged files raise errors of many types
        raise SweepError(f"cannot read {path}: {error}{RESTORE}") from error
    require_columns(path, loaded, columns)
    return loaded


def require_columns(path: Path, table: pd.DataFrame, columns: Mapping[str, type]) -> None:
    """Check that a table that was read from `path` has the required columns; see `read_table`.

    Raises:
        SweepError: It lacks a column, or has a column of another type.
    """
    for name, expected in columns.items():
        if name not in table:
            raise SweepError(f"{path} is damaged: it has no column {name}{RESTORE}")
        numeric = pd.api.types.is_numeric_dtype(table[name]) and not pd.api.types.is_bool_dtype(table[name])
        text = len(table) == 0 or table[name].map(lambda value: isinstance(value, str)).all()
        if not (numeric if expected is float else text):
            raise SweepError(f"{path} is damaged: its column {name} holds {table[name].dtype}{RESTORE}")
