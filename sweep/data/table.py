"""Tables of images or texts: CSV or parquet with columns `path` or `text`, `label`, and `split` if there are splits."""

import csv
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from sweep.data.base import DataSet, Indices, Split
from sweep.data.files import ImageChecker, file_split, inside
from sweep.data.splitting import SPLIT_NAMES, divided, name_classes
from sweep.data.texts import text_data
from sweep.errors import SweepError, UsageError

PATH, TEXT = "path", "text"
NEEDED = (
    "a table of images has the columns path, label and, if you have splits, split; one of texts has text in the place "
    "of path"
)
LONGEST_SHOWN = 60


def load_table(path: Path, *, seed: int, checker: ImageChecker) -> DataSet:
    """Load a table of images or, where it has a column `text` and no `path`, of texts.

    Paths are relative to the table's folder and do not leave it, links resolved: a table may come from a stranger.
    Labels are classes, whole numbers or text. Other columns are not looked at.

    Args:
        path: `*.csv` (UTF-8, commas, a header) or `*.parquet`.
        seed: seed of the splitting, where the table has no `split` or no val in it.
        checker: tries the images, before they are split.

    Raises:
        UsageError: the table lacks a column, or is wrong in some row (the message says which).
        SweepError: the table is damaged, or an image cannot be read and bad images are errors.
    """
    rows = [_Row.of(where, values) for where, values in _cells(path, _wanted)]
    if not rows:
        raise UsageError(f"{path} has no rows; {NEEDED}, and a row an image or a text")
    what = f"table {path}"
    if rows[0].is_text:
        return text_data(
            [row.item for row in rows],
            [row.label for row in rows],
            None if rows[0].split is None else [row.split or "" for row in rows],
            [row.where for row in rows],
            name=path.stem,
            what=what,
            seed=seed,
        )
    folder = path.parent
    files: list[Path] = []
    first_row: dict[Path, str] = {}
    for row in rows:
        target = inside(folder, row.item, row.where)
        if target in first_row:
            raise UsageError(f"{row.where}: {row.item} was listed before, in {first_row[target]}; drop one of them")
        first_row[target] = row.where
        files.append(target)
    usable = checker.readable(files)
    kept = np.flatnonzero(usable).tolist()
    if not kept:
        raise UsageError(f"no image of {path} can be read{checker.remark()}")
    labels, class_names = name_classes([row.label for row in rows])
    labels = labels[kept]
    given = None if rows[0].split is None else [rows[index].split or "" for index in kept]

    def split_of(name: str, members: Indices) -> Split:
        return file_split(name, folder, [files[kept[index]] for index in members], labels[members])

    return divided(labels, class_names, given, split_of, name=path.stem, what=what, seed=seed, checker=checker)


def texts_of(path: Path) -> list[str]:
    """The column `text` of a table, to be labelled; nothing else of it is looked at.

    Raises:
        UsageError: the table has no such column, or is wrong in some row (the message says which).
        SweepError: the table is damaged.
    """

    def wanted(path: Path, names: list[str]) -> list[str]:
        if names.count(TEXT) != 1:
            raise UsageError(f"{path} has {names.count(TEXT)} columns {TEXT}, one is needed ({_shown(names)})")
        return [TEXT]

    return [values[TEXT] for _, values in _cells(path, wanted)]


@dataclass(frozen=True)
class _Row:
    """One row: a path or a text; `split` is None where the table has no such column, `where` says which row it is."""

    item: str
    is_text: bool
    label: str
    split: str | None
    where: str

    @classmethod
    def of(cls, where: str, values: dict[str, str]) -> "_Row":
        """A row of the table; `UsageError` where one of its values cannot be."""
        is_text = PATH not in values
        row = cls(values[TEXT if is_text else PATH], is_text, values["label"], values.get("split"), where)
        if not row.item:
            remedy = "drop the row" if is_text else "give one relative to the table's folder"
            raise UsageError(f"{where}: the {TEXT if is_text else PATH} is empty; {remedy}")
        if not row.label:
            raise UsageError(f"{where}: the label is empty; give the class, or drop the row")
        if row.split is not None and row.split not in SPLIT_NAMES:
            raise UsageError(f"{where}: split {row.split[:LONGEST_SHOWN]!r} should be train, val or test")
        return row


Wanted = Callable[[Path, list[str]], list[str]]
"""Which columns to read, of a table's names; `UsageError` where one is missing."""


def _cells(path: Path, wanted: Wanted) -> Iterator[tuple[str, dict[str, str]]]:
    """The place of every row, for messages, and its values by column, stripped."""
    return (_parquet_cells if path.suffix.lower() == ".parquet" else _csv_cells)(path, wanted)


def _csv_cells(path: Path, wanted: Wanted) -> Iterator[tuple[str, dict[str, str]]]:
    line = 0  # the last one that was read
    try:
        with path.open(encoding="utf-8-sig", newline="") as file:
            reader = csv.reader(file, strict=True)
            header = [name.strip() for name in next(reader, [])]
            places = {name: header.index(name) for name in wanted(path, header)}
            line = reader.line_num
            for cells in reader:
                where, line = f"{path}:{line + 1}", reader.line_num
                if not cells:
                    continue
                if len(cells) != len(header):
                    raise UsageError(
                        f"{where}: {len(cells)} values under {len(header)} column names; quote values with commas"
                    )
                yield where, {name: cells[place].strip() for name, place in places.items()}
    except UnicodeDecodeError as error:
        raise UsageError(f"{path} is not UTF-8 text: {error}; save it as UTF-8") from error
    except csv.Error as error:
        raise UsageError(f"{path}:{line + 1}: {error}; save it as plain CSV") from error
    except OSError as error:
        raise SweepError(f"cannot read {path}: {error.strerror}") from error


def _parquet_cells(path: Path, wanted: Wanted) -> Iterator[tuple[str, dict[str, str]]]:
    try:
        with pq.ParquetFile(path) as file:
            names = wanted(path, list(file.schema_arrow.names))
            table = file.read(columns=names).replace_schema_metadata(None)
        table.validate(full=True)
        columns = [_text_column(path, name, table.column(name)) for name in names]
    except UsageError:
        raise
    except Exception as error:  # the reader answers damage with errors of a dozen types
        raise SweepError(f"cannot read {path}: {error}; save the table again") from error
    for number, values in enumerate(zip(*columns, strict=True), start=1):
        yield f"{path}, row {number}", dict(zip(names, values, strict=True))


def _text_column(path: Path, name: str, column: pa.ChunkedArray) -> list[str]:
    """A column's values as text; whole numbers are taken for `label` only."""
    kind = column.type.value_type if pa.types.is_dictionary(column.type) else column.type
    text = pa.types.is_string(kind) or pa.types.is_large_string(kind)
    if not (text or (name == "label" and pa.types.is_integer(kind))):
        wanted = "text or whole numbers" if name == "label" else "text"
        raise UsageError(f"column {name} of {path} holds {kind}; it should hold {wanted}")
    values = column.cast(kind).to_pylist()
    if None in values:
        raise UsageError(f"{path}, row {values.index(None) + 1}: the {name} is missing; fill it, or drop the row")
    return [str(value).strip() for value in values]


def _wanted(path: Path, names: list[str]) -> list[str]:
    """The columns of a data set; `UsageError` for a table that lacks one, or has one twice."""
    item = TEXT if TEXT in names and PATH not in names else PATH
    for name in (item, "label"):
        if name not in names:
            raise UsageError(f"{path} has no column {name} ({_shown(names)}); {NEEDED}")
    columns = [name for name in (item, "label", "split") if name in names]
    for name in columns:
        if names.count(name) > 1:
            raise UsageError(f"{path} has two columns {name}; {NEEDED}")
    return columns


def _shown(names: list[str]) -> str:
    return f"its columns: {', '.join(names)[:LONGEST_SHOWN] or 'none'}"
