"""Reads tables as rows of text: CSV with commas, semicolons or tabs, and parquet."""

import csv
import logging
import math
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TextIO

import pyarrow as pa
import pyarrow.parquet as pq

from sweep.data.split_names import TAKEN, split_named
from sweep.data.table_columns import LONGEST_SHOWN, PATH, Chosen
from sweep.data.texts import TEXT
from sweep.errors import SweepError, UsageError
from sweep.tasks.kinds import REGRESSION

logger = logging.getLogger(__name__)

SEPARATORS = ",;\t"
LARGEST_CELL = 2**31 - 1
"""Largest number of characters in a cell of a CSV file. Python's own default is 131,072."""

Choose = Callable[[Sequence[str]], Chosen]
"""Chooses the columns to read from the names of all columns, or raises `UsageError`."""


@dataclass(frozen=True)
class Row:
    """One row with a path or a text. `split` is None if the table has no such column; `where` describes the row."""

    item: str
    labels: tuple[str, ...]
    split: str | None
    where: str


def read_rows(path: Path, choose: Choose, task: str | None) -> tuple[Chosen, list[Row]]:
    """Read the columns that `choose` chooses.

    Args:
        path: `*.parquet`, or else CSV in UTF-8 with a header.
        choose: Chooses the columns.
        task: Kind of task, if the user gave it. Labels of a regression may be any numbers.

    Raises:
        UsageError: The table is wrong in some row, and the message says which.
        SweepError: The table is damaged.
    """
    return _read_parquet(path, choose, task) if path.suffix.lower() == ".parquet" else _read_csv(path, choose)


def texts_of(path: Path) -> list[str]:
    """The column `text` of a table, to be labelled; other columns are ignored.

    Raises:
        UsageError: The table has no such column, or is wrong in some row, and the message says which.
        SweepError: The table is damaged.
    """

    def only_texts(names: Sequence[str]) -> Chosen:
        found = [name for name in names if name.strip().casefold() == TEXT]
        if len(found) != 1:
            shown = ", ".join(names)[:LONGEST_SHOWN] or "none"
            raise UsageError(f"{path} has {len(found)} columns {TEXT}; it needs one (its columns: {shown})")
        return Chosen(found[0], True, None, (), "text")

    _, rows = read_rows(path, only_texts, None)
    return [row.item for row in rows]


def _row(chosen: Chosen, item: str, labels: tuple[str, ...], split: str | None, where: str) -> Row:
    """Make a row; raises `UsageError` if one of its values is wrong."""
    if not item.strip() and chosen.labels:
        name, remedy = (TEXT, "drop the row") if chosen.is_text else (PATH, "give one relative to the images' folder")
        raise UsageError(f"{where}: the {name} is empty; {remedy}")
    if split is not None:
        known = split_named(split)
        if known is None:
            raise UsageError(f"{where}: {split[:LONGEST_SHOWN]!r} is not a split; give {TAKEN}")
        split = known
    return Row(item, labels, split, where)


def _read_csv(path: Path, choose: Choose) -> tuple[Chosen, list[Row]]:
    rows: list[Row] = []
    line = 0  # the last one that was read
    try:
        with path.open(encoding="utf-8-sig", newline="") as file, _cells_of_any_length():
            chosen, header, separator = _header(file, choose)
            reader = csv.reader(file, delimiter=separator, strict=True)
            next(reader, None)
            places = {name: header.index(name) for name in chosen.names}
            splits = {place for place in range(len(header)) if place not in places.values()}  # as far as is known
            line = reader.line_num
            for cells in reader:
                where, line = f"{path}:{line + 1}", reader.line_num
                if not cells:
                    continue
                if len(cells) != len(header):
                    raise UsageError(
                        f"{where}: {len(cells)} values under {len(header)} column names; quote values that contain the "
                        f"separator"
                    )
                values = {name: cells[place].strip() for name, place in places.items()}
                labels = tuple(values[name] for name in chosen.labels)
                split = None if chosen.split is None else values[chosen.split]
                rows.append(_row(chosen, values[chosen.item], labels, split, where))
                splits = {place for place in splits if split_named(cells[place])}
    except UnicodeDecodeError as error:
        raise UsageError(f"{path} is not UTF-8 text: {error}; save it as UTF-8") from error
    except csv.Error as error:
        raise UsageError(f"{path}:{line + 1}: {error}; save it as plain CSV") from error
    except OSError as error:
        raise SweepError(f"cannot read {path}: {error.strerror}") from error
    if rows and splits and chosen.split is None and chosen.labels:
        _warn_of_other_splits(path, header[min(splits)])
    return chosen, rows


def _warn_of_other_splits(path: Path, column: str) -> None:
    logger.warning(
        "the column %s of %s looks like splits and is not read; call it split if it is to be used", column, path
    )


@contextmanager
def _cells_of_any_length() -> Iterator[None]:
    before = csv.field_size_limit(LARGEST_CELL)
    try:
        yield
    finally:
        csv.field_size_limit(before)


def _header(file: TextIO, choose: Choose) -> tuple[Chosen, list[str], str]:
    """The chosen columns, the names of all columns, and the first separator for which the columns can be chosen.

    Raises:
        UsageError: They cannot be chosen with any separator. The message is for the one that gives the most columns.
    """
    errors: list[tuple[int, UsageError]] = []
    for separator in SEPARATORS:
        header = [name.strip() for name in next(csv.reader(file, delimiter=separator, strict=True), [])]
        file.seek(0)
        try:
            return choose(header), header, separator
        except UsageError as error:
            errors.append((len(header), error))
    raise max(errors, key=lambda found: found[0])[1]


def _read_parquet(path: Path, choose: Choose, task: str | None) -> tuple[Chosen, list[Row]]:
    try:
        with pq.ParquetFile(path) as file:
            chosen = choose(list(file.schema_arrow.names))
            table = file.read(columns=chosen.names).replace_schema_metadata(None)
            other = None if chosen.split or not chosen.labels else _other_splits(file, chosen.names)
        table.validate(full=True)
        columns = {name: _texts(path, name, table.column(name), chosen, task) for name in chosen.names}
    except UsageError:
        raise
    except Exception as error:  # the reader answers damage with errors of a dozen types
        raise SweepError(f"cannot read {path}: {error}; save the table again") from error
    if other is not None:
        _warn_of_other_splits(path, other)
    splits = [None] * table.num_rows if chosen.split is None else columns[chosen.split]
    labels = zip(*(columns[name] for name in chosen.labels), strict=True) if chosen.labels else [()] * table.num_rows
    rows = zip(columns[chosen.item], labels, splits, strict=True)
    return chosen, [
        _row(chosen, item, own, split, f"{path}, row {number}") for number, (item, own, split) in enumerate(rows, 1)
    ]


def _other_splits(file: pq.ParquetFile, read: Sequence[str]) -> str | None:
    """A column that is not read although all its values are names of splits; None if there is none."""
    for field in file.schema_arrow:
        if field.name in read or not _is_text(_value_type(field.type)):
            continue
        start = next(file.iter_batches(batch_size=64, columns=[field.name]), None)
        if start is None or not all(_names_split(value) for value in start.column(0).to_pylist()):
            continue
        if all(_names_split(value) for value in file.read(columns=[field.name]).column(0).unique().to_pylist()):
            return str(field.name)
    return None


def _names_split(value: object) -> bool:
    return isinstance(value, str) and split_named(value) is not None


def _value_type(kind: pa.DataType) -> pa.DataType:
    return kind.value_type if pa.types.is_dictionary(kind) else kind


def _is_text(kind: pa.DataType) -> bool:
    is_view = getattr(pa.types, "is_string_view", None)  # since pyarrow 16
    return bool(pa.types.is_string(kind) or pa.types.is_large_string(kind) or (is_view is not None and is_view(kind)))


def _texts(path: Path, name: str, column: pa.ChunkedArray, chosen: Chosen, task: str | None) -> list[str]:
    """A column's values as text. Only labels may be numbers, and classes must be whole numbers."""
    kind = _value_type(column.type)
    values = column.cast(kind).to_pylist()
    whole, number = pa.types.is_integer(kind), pa.types.is_floating(kind) or pa.types.is_boolean(kind)
    if name not in chosen.labels:
        taken, wanted = _is_text(kind), "text"
    elif chosen.form == "text" and task != REGRESSION.name:
        if pa.types.is_floating(kind):  # pandas stores whole numbers as floats if some are missing
            values = [None if value is None or math.isnan(value) else value for value in values]
            if all(value is None or value.is_integer() for value in values):
                values, whole = [None if value is None else int(value) for value in values], True
        taken, wanted = _is_text(kind) or whole, "text or whole numbers (for a regression, name it target)"
    else:
        taken, wanted = _is_text(kind) or whole or number, "text or numbers"
    if not taken:
        raise UsageError(f"column {name} of {path} holds {kind}; it should hold {wanted}")
    if None in values:
        raise UsageError(f"{path}, row {values.index(None) + 1}: the {name} is missing; fill it, or drop the row")
    return [str(value).strip() for value in values]
