"""Tables of images: CSV or parquet with the columns `path` and `label`, and `split` if the user has splits."""

import csv
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from sweep.data.base import DataSet, Indices, Split
from sweep.data.files import ImageChecker, file_split, inside
from sweep.data.splitting import SPLIT_NAMES, divided, name_classes
from sweep.errors import SweepError, UsageError

COLUMNS = ("path", "label", "split")
NEEDED = "a table of images has the columns path, label and, if you have splits, split"
LONGEST_SHOWN = 60


def image_table(path: Path, *, seed: int, checker: ImageChecker) -> DataSet:
    """Load a table of images.

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
    rows = list(_parquet_rows(path) if path.suffix.lower() == ".parquet" else _csv_rows(path))
    if not rows:
        raise UsageError(f"{path} has no rows; {NEEDED}, and a row an image")
    folder = path.parent
    files: list[Path] = []
    first_row: dict[Path, str] = {}
    for row in rows:
        target = inside(folder, row.path, row.where)
        if target in first_row:
            raise UsageError(f"{row.where}: {row.path} was listed before, in {first_row[target]}; drop one of them")
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

    what = f"table {path}"
    return divided(labels, class_names, given, split_of, name=path.stem, what=what, seed=seed, checker=checker)


@dataclass(frozen=True)
class _Row:
    """One image of a table; `split` is None where the table has no such column, `where` says which row it is."""

    path: str
    label: str
    split: str | None
    where: str

    def checked(self) -> "_Row":
        """The row itself; `UsageError` where one of its values cannot be."""
        if not self.path.strip():
            raise UsageError(f"{self.where}: the path is empty; give one relative to the table's folder")
        if not self.label.strip():
            raise UsageError(f"{self.where}: the label is empty; give the image's class, or drop the row")
        if self.split is not None and self.split not in SPLIT_NAMES:
            raise UsageError(f"{self.where}: split {self.split[:LONGEST_SHOWN]!r} should be train, val or test")
        return self


def _csv_rows(path: Path) -> Iterator[_Row]:
    line = 0  # the last one that was read
    try:
        with path.open(encoding="utf-8-sig", newline="") as file:
            reader = csv.reader(file, strict=True)
            header = [name.strip() for name in next(reader, [])]
            places = {name: header.index(name) for name in COLUMNS if name in header}
            _require_columns(path, header)
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
                yield _Row(values["path"], values["label"], values.get("split"), where).checked()
    except UnicodeDecodeError as error:
        raise UsageError(f"{path} is not UTF-8 text: {error}; save it as UTF-8") from error
    except csv.Error as error:
        raise UsageError(f"{path}:{line + 1}: {error}; save it as plain CSV") from error
    except OSError as error:
        raise SweepError(f"cannot read {path}: {error.strerror}") from error


def _parquet_rows(path: Path) -> Iterator[_Row]:
    try:
        with pq.ParquetFile(path) as file:
            names = list(file.schema_arrow.names)
            _require_columns(path, names)
            wanted = [name for name in COLUMNS if name in names]
            table = file.read(columns=wanted).replace_schema_metadata(None)
        table.validate(full=True)
        columns = {name: _text_column(path, name, table.column(name)) for name in wanted}
    except UsageError:
        raise
    except Exception as error:  # the reader answers damage with errors of a dozen types
        raise SweepError(f"cannot read {path}: {error}; save the table again") from error
    splits = columns.get("split", [None] * table.num_rows)
    for number, (image, label, split) in enumerate(
        zip(columns["path"], columns["label"], splits, strict=True), start=1
    ):
        yield _Row(image, label, split, f"{path}, row {number}").checked()


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


def _require_columns(path: Path, names: list[str]) -> None:
    """Refuse a table that lacks a column, or has one twice."""
    shown = ", ".join(names)[:LONGEST_SHOWN] or "none"
    for name in COLUMNS[:2]:
        if name not in names:
            raise UsageError(f"{path} has no column {name} (its columns: {shown}); {NEEDED}")
    for name in COLUMNS:
        if names.count(name) > 1:
            raise UsageError(f"{path} has two columns {name}; {NEEDED}")
