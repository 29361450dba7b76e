"""Finds the columns of a table that hold images or texts, their labels and their split."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

from sweep.data.labels import TARGET, TARGET_PREFIX
from sweep.data.texts import TEXT
from sweep.errors import UsageError
from sweep.tasks.kinds import CLASSES, REGRESSION

PATH, LABEL, SPLIT = "path", "label", "split"
NEEDED = (
    "a table of images needs the columns path and label, and split if it has splits; a table of texts needs text "
    "instead of path. If columns have other names, give --path-column and --label-column"
)
LONGEST_SHOWN = 60

Form = Literal["text", "targets", "flags"]
"""The form of label columns: one text per image; one number per column; or one column per label, 0 or 1."""


@dataclass(frozen=True)
class TableOptions:
    """How a table is read, if its columns do not have the usual names.

    Attributes:
        image_root: Folder that paths are relative to; if not given, the table's folder.
        path_column: Name of the column of paths.
        label_column: Name of the column of labels.
    """

    image_root: str | None = None
    path_column: str | None = None
    label_column: str | None = None

    @classmethod
    def of(cls, declared: Mapping[str, Any]) -> "TableOptions":
        """The options in a study's declarations or in a run's record. Records of older versions have none."""
        values = (declared.get(name) for name in ("image_root", "path_column", "label_column"))
        return cls(*(value if isinstance(value, str) else None for value in values))

    def given(self) -> list[str]:
        """The options that the user gave on the command line."""
        options = (
            ("--image-root", self.image_root),
            ("--path-column", self.path_column),
            ("--label-column", self.label_column),
        )
        return [option for option, value in options if value is not None]


@dataclass(frozen=True)
class Chosen:
    """The names of the columns to read.

    Attributes:
        item: Column of paths or texts.
        is_text: Whether it has texts.
        split: Column of splits; None if there is none.
        labels: One or more columns of labels.
        form: The form of these columns.
    """

    item: str
    is_text: bool
    split: str | None
    labels: tuple[str, ...]
    form: Form

    @property
    def names(self) -> list[str]:
        """The names of all columns to read, each once."""
        return list(dict.fromkeys([self.item, *([] if self.split is None else [self.split]), *self.labels]))


def choose_columns(path: Path, names: Sequence[str], task: str | None, options: TableOptions) -> Chosen:
    """Find the columns to read. The case of `path`, `text`, `label`, `split` and `target` does not matter.

    Args:
        path: The table, for messages.
        names: Names of all its columns.
        task: Kind of task; if not given, the columns decide.
        options: The user's own names of columns.

    Raises:
        UsageError: A column is missing, or there are two of it.
    """
    table = _Header(path, names)
    split = table.find(SPLIT)
    item, is_text = table.require(options.path_column) if options.path_column else table.find(PATH), False
    if item is None and (item := table.find(TEXT)) is not None:
        is_text = True
    if item is None:
        raise table.lacks(PATH)
    labels, form = _label_columns(table, [name for name in names if name not in (item, split)], task, options)
    for name in (item, split, *labels):
        table.require_once(name)
    return Chosen(item, is_text, split, tuple(labels), form)


def _label_columns(
    table: "_Header", others: Sequence[str], task: str | None, options: TableOptions
) -> tuple[Sequence[str], Form]:
    """The columns of labels or targets, among those that are neither paths, texts nor splits."""
    if options.label_column:
        return [table.require(options.label_column)], "text"
    label = table.find(LABEL)
    targets = [name for name in others if is_target(name)]
    if targets and (task == REGRESSION.name or (task is None and label is None)):
        return targets, "targets"
    if label is not None:
        return [label], "text"
    if len(targets) == 1 and task == CLASSES.name:
        return targets, "text"
    if len(others) > 1 and task != REGRESSION.name:
        return others, "flags"
    raise table.lacks(TARGET if task == REGRESSION.name else LABEL)


def is_target(name: str) -> bool:
    """Whether a column is called `target`, or `target_…`."""
    return name.casefold() == TARGET or name.casefold().startswith(TARGET_PREFIX)


def target_name(column: str) -> str:
    """Name of a column's target."""
    return column[len(TARGET_PREFIX) :] if column.casefold().startswith(TARGET_PREFIX) else column


@dataclass(frozen=True)
class _Header:
    """The names of a table's columns."""

    path: Path
    names: Sequence[str]

    def find(self, wanted: str) -> str | None:
        """The column of that name, in any case; None if there is none. Several raise `UsageError`."""
        found = [name for name in self.names if name.strip().casefold() == wanted]
        if len(found) > 1:
            raise UsageError(f"{self.path} has several columns {wanted} ({', '.join(found)}); {NEEDED}")
        return found[0] if found else None

    def require(self, name: str) -> str:
        """The column with exactly the name that the user wrote."""
        if name not in self.names:
            raise self.lacks(name)
        return name

    def require_once(self, name: str | None) -> None:
        if name is not None and self.names.count(name) > 1:
            raise UsageError(f"{self.path} has two columns {name}; {NEEDED}")

    def lacks(self, name: str) -> UsageError:
        shown = ", ".join(self.names)[:LONGEST_SHOWN] or "none"
        return UsageError(f"{self.path} has no column {name} (its columns: {shown}); {NEEDED}")
