"""Tables of images or texts: CSV or parquet with columns `path` or `text`, `label`, and `split` if there are splits.

Instead of `label` there may be `target`, columns `target_…`, or a column a label.
"""

import csv
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from sweep.data.base import DataSet, Indices, Split
from sweep.data.files import ImageChecker, file_split, inside
from sweep.data.labels import TARGET, TARGET_PREFIX, Labelled, labelled_by_columns, labelled_by_text
from sweep.data.splitting import SPLIT_NAMES, divided
from sweep.data.texts import TEXT, text_data
from sweep.errors import SweepError, UsageError
from sweep.tasks.kinds import MULTI_LABEL, REGRESSION

PATH = "path"
NEEDED = (
    "a table of images has the columns path, label and, if you have splits, split; one of texts has text in the place "
    "of path"
)
LONGEST_SHOWN = 60


def load_table(path: Path, *, seed: int, checker: ImageChecker, task: str | None = None) -> DataSet:
    """Load a table of images or, where it has a column `text` and no `path`, of texts.

    Paths are relative to the table's folder and do not leave it, links resolved: a table may come from a stranger.
    Labels are classes, whole numbers or text; several an image where a label has a `|`. Other columns are not looked
    at. Without a column `label`, columns `target` and `target_…` are numbers of a regression; without these, too, all
    columns but `path` (or `text`) and `split` are labels, 0 or 1.

    Args:
        path: `*.csv` (UTF-8, commas, a header) or `*.parquet`.
        seed: seed of the splitting, where the table has no `split` or no val in it.
        checker: tries the images, before they are split.
        task: kind of task; told by the columns if not given.

    Raises:
        UsageError: the table lacks a column, or is wrong in some row (the message says which).
        SweepError: the table is damaged, or an image cannot be read and bad images are errors.
    """
    read = _read_parquet if path.suffix.lower() == ".parquet" else _read_csv
    columns, rows = read(path, task)
    if not rows:
        raise UsageError(f"{path} has no rows; {NEEDED}, and a row an image or a text")
    found = _labelled(rows, columns, task)
    what = f"table {path}"
    if rows[0].is_text:
        texts, where = [row.item for row in rows], [row.where for row in rows]
        of_rows = None if rows[0].split is None else [row.split or "" for row in rows]
        return text_data(texts, found, of_rows, where, name=path.stem, what=what, seed=seed)
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
    labels = found.labels[kept]
    given = None if rows[0].split is None else [rows[index].split or "" for index in kept]

    def split_of(name: str, members: Indices) -> Split:
        return file_split(name, folder, [files[kept[index]] for index in members], labels[members])

    return divided(
        labels,
        found.names,
        given,
        split_of,
        name=path.stem,
        what=what,
        seed=seed,
        checker=checker,
        task=found.task,
    )


def _label_columns(path: Path, names: Sequence[str], task: str | None) -> list[str]:
    """The columns that hold labels or targets, out of all; one alone named `label` has them as text.

    Raises:
        UsageError: A column is missing, or there twice.
    """
    item = _item_column(names)
    targets = [name for name in names if name == TARGET or name.startswith(TARGET_PREFIX)]
    others = [name for name in names if name not in (item, "split")]
    columns: list[str] = []
    if targets and (task == REGRESSION.name or (task is None and "label" not in names)):
        columns = targets
    elif "label" in names:
        columns = ["label"]
    elif len(others) > 1 and task in (None, MULTI_LABEL.name):
        columns = others
    if item not in names or not columns:
        missing = item if item not in names else "target" if task == REGRESSION.name else "label"
        shown = ", ".join(names)[:LONGEST_SHOWN] or "none"
        raise UsageError(f"{path} has no column {missing} (its columns: {shown}); {NEEDED}")
    for name in (item, "split", *columns):
        if names.count(name) > 1:
            raise UsageError(f"{path} has two columns {name}; {NEEDED}")
    return columns


def _item_column(names: Sequence[str]) -> str:
    """The column that has what is to be learned from, if it is there."""
    return TEXT if TEXT in names and PATH not in names else PATH


def _labelled(rows: Sequence["_Row"], columns: Sequence[str], task: str | None) -> Labelled:
    def where(index: int) -> str:
        return rows[index].where

    if list(columns) == ["label"]:
        return labelled_by_text([row.labels[0] for row in rows], task, where)
    texts = {name: [row.labels[place] for row in rows] for place, name in enumerate(columns)}
    if columns[0] == TARGET or columns[0].startswith(TARGET_PREFIX):
        named = {name.removeprefix(TARGET_PREFIX): of_column for name, of_column in texts.items()}
        return labelled_by_columns(named, REGRESSION.name, where)
    return labelled_by_columns(texts, MULTI_LABEL.name, where)


def texts_of(path: Path) -> list[str]:
    """The column `text` of a table, to be labelled; nothing else of it is looked at.

    Raises:
        UsageError: The table has no such column, or is wrong in some row (the message says which).
        SweepError: The table is damaged.
    """
    try:
        if path.suffix.lower() == ".parquet":
            with pq.ParquetFile(path) as file:
                _require_texts(path, list(file.schema_arrow.names))
                return _text_column(path, TEXT, file.read(columns=[TEXT]).column(TEXT), None)
        with path.open(encoding="utf-8-sig", newline="") as lines:
            reader = csv.reader(lines, strict=True)
            header = [name.strip() for name in next(reader, [])]
            _require_texts(path, header)
            place = header.index(TEXT)
            return [cells[place].strip() for cells in reader if len(cells) > place]
    except UsageError:
        raise
    except Exception as error:  # the readers answer damage with errors of a dozen types
        raise SweepError(f"cannot read {path}: {error}; save the table again") from error


def _require_texts(path: Path, names: list[str]) -> None:
    """Refuse a table without one column `text`."""
    if names.count(TEXT) != 1:
        shown = ", ".join(names)[:LONGEST_SHOWN] or "none"
        raise UsageError(f"{path} has {names.count(TEXT)} columns {TEXT}, one is needed (its columns: {shown})")


@dataclass(frozen=True)
class _Row:
    """One row: a path or a text; `split` is None where the table has no such column, `where` says which row it is."""

    item: str
    is_text: bool
    labels: tuple[str, ...]
    split: str | None
    where: str

    def checked(self) -> "_Row":
        """The row itself; `UsageError` where one of its values cannot be."""
        if not self.item.strip():
            name, remedy = (TEXT, "drop the row") if self.is_text else (PATH, "give one relative to the table's folder")
            raise UsageError(f"{self.where}: the {name} is empty; {remedy}")
        if self.split is not None and self.split not in SPLIT_NAMES:
            raise UsageError(f"{self.where}: split {self.split[:LONGEST_SHOWN]!r} should be train, val or test")
        return self


def _read_csv(path: Path, task: str | None) -> tuple[list[str], list[_Row]]:
    """The columns of labels, and the rows."""
    rows: list[_Row] = []
    line = 0  # the last one that was read
    try:
        with path.open(encoding="utf-8-sig", newline="") as file:
            reader = csv.reader(file, strict=True)
            header = [name.strip() for name in next(reader, [])]
            columns = _label_columns(path, header, task)
            item = _item_column(header)
            places = {name: header.index(name) for name in (item, "split", *columns) if name in header}
            line = reader.line_num
            for cells in reader:
                where, line = f"{path}:{line + 1}", reader.line_num
                if not cells:
                    continue
                if len(cells) != len(header):
                    raise UsageError(
                        f"{where}: {len(cells)} values under {len(header)} column names; quote values with commas"
                    )
                values = {name: cells[place].strip() for name, place in places.items()}
                labels = tuple(values[name] for name in columns)
                rows.append(_Row(values[item], item == TEXT, labels, values.get("split"), where).checked())
    except UnicodeDecodeError as error:
        raise UsageError(f"{path} is not UTF-8 text: {error}; save it as UTF-8") from error
    except csv.Error as error:
        raise UsageError(f"{path}:{line + 1}: {error}; save it as plain CSV") from error
    except OSError as error:
        raise SweepError(f"cannot read {path}: {error.strerror}") from error
    return columns, rows


def _read_parquet(path: Path, task: str | None) -> tuple[list[str], list[_Row]]:
    """As `_read_csv`."""
    try:
        with pq.ParquetFile(path) as file:
            names = list(file.schema_arrow.names)
            of_labels = _label_columns(path, names, task)
            item = _item_column(names)
            wanted = [name for name in (item, "split", *of_labels) if name in names]
            table = file.read(columns=wanted).replace_schema_metadata(None)
        table.validate(full=True)
        columns = {name: _text_column(path, name, table.column(name), task) for name in wanted}
    except UsageError:
        raise
    except Exception as error:  # the reader answers damage with errors of a dozen types
        raise SweepError(f"cannot read {path}: {error}; save the table again") from error
    splits = columns.get("split", [None] * table.num_rows)
    labels = zip(*(columns[name] for name in of_labels), strict=True)
    rows = [
        _Row(one, item == TEXT, own, split, f"{path}, row {number}").checked()
        for number, (one, own, split) in enumerate(zip(columns[item], labels, splits, strict=True), start=1)
    ]
    return of_labels, rows


def _text_column(path: Path, name: str, column: pa.ChunkedArray, task: str | None) -> list[str]:
    """A column's values as text; numbers are taken for labels only, in `label` whole ones unless for a regression."""
    kind = column.type.value_type if pa.types.is_dictionary(column.type) else column.type
    text = pa.types.is_string(kind) or pa.types.is_large_string(kind)
    whole, number = pa.types.is_integer(kind), pa.types.is_floating(kind) or pa.types.is_boolean(kind)
    if name in (PATH, TEXT, "split"):
        taken, wanted = text, "text"
    elif name == "label" and task != REGRESSION.name:
        taken, wanted = text or whole, "text or whole numbers (for a regression, name it target)"
    else:
        taken, wanted = text or whole or number, "text or numbers"
    if not taken:
        raise UsageError(f"column {name} of {path} holds {kind}; it should hold {wanted}")
    values = column.cast(kind).to_pylist()
    if None in values:
        raise UsageError(f"{path}, row {values.index(None) + 1}: the {name} is missing; fill it, or drop the row")
    return [str(value).strip() for value in values]
