"""Labels of saved Hugging Face data sets: finds their columns, and reads them."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from sweep.data.labels import (
    LONGEST_SHOWN,
    TARGET,
    TARGET_PREFIX,
    Labelled,
    Where,
    labelled_by_array,
    labelled_by_sets,
    labelled_by_text,
)
from sweep.errors import UsageError
from sweep.tasks.kinds import CLASSES, LARGEST_TARGET, MULTI_LABEL, REGRESSION

Kinds = Mapping[str, Mapping[str, Any]]
"""The description of each column in `dataset_info.json`, by name."""

LISTS = "List", "LargeList", "Sequence"
LABEL_COLUMNS = "label", "labels"


@dataclass(frozen=True)
class LabelColumns:
    """The columns of labels.

    Attributes:
        names: Names of the columns; only targets may have several.
        class_names: Class names of a `ClassLabel`, or of a list of them; None if the column has none.
    """

    names: tuple[str, ...]
    class_names: tuple[str, ...] | None = None


def label_columns(folder: Path, kinds: Kinds, task: str | None) -> LabelColumns:
    """Find the only `ClassLabel`, or list of them; or else the column `label` or `labels`; or else those of targets.

    Args:
        folder: The folder, for messages.
        kinds: Descriptions of the columns.
        task: Kind of task; for a regression, columns of targets are preferred.

    Raises:
        UsageError: There is no such column, or there are several and none is named.
    """
    named = {name: names for name, kind in kinds.items() if (names := _class_names(kind)) is not None}
    targets = tuple(name for name in kinds if name == TARGET or name.startswith(TARGET_PREFIX))
    if targets and task == REGRESSION.name:
        return LabelColumns(targets)
    column = next(iter(named)) if len(named) == 1 else next((name for name in LABEL_COLUMNS if name in kinds), None)
    if column is not None:
        return LabelColumns((column,), named.get(column))
    if targets and not named:
        return LabelColumns(targets)
    raise UsageError(
        f"{folder} has {len(named)} ClassLabel columns and none named label, labels or target (its columns: "
        f"{shown_columns(kinds)}); rename the one to learn to label, and save again"
    )


def shown_columns(kinds: Kinds) -> str:
    """Names of columns for a message."""
    return ", ".join(kinds)[:80] or "none"


def _class_names(kind: Mapping[str, Any]) -> tuple[str, ...] | None:
    """The names of a `ClassLabel` or of a list of them; None for other columns."""
    if kind.get("_type") in LISTS:
        inner = kind.get("feature")
        kind = inner if isinstance(inner, dict) else {}
    names = kind.get("names")
    if kind.get("_type") != "ClassLabel" or not isinstance(names, list):
        return None
    return tuple(map(str, names))


def read_labels(
    rows: Sequence[Sequence[Any]], columns: LabelColumns, task: str | None, where: Where, what: str
) -> Labelled:
    """Read the labels of the rows that can be used.

    Args:
        rows: Values of the columns, `(n, len(columns.names))`, as Python objects.
        columns: The columns of labels.
        task: Kind of task; if not given, the values decide.
        where: Describes a row, for messages.
        what: The data set, for messages.

    Raises:
        UsageError: A value is not a label of this kind, or the columns make another kind of task.
    """
    column, values = columns.names[0], [row[0] for row in rows]

    def of_column(index: int) -> str:
        return f"{where(index)}: {column}"

    if column == TARGET or column.startswith(TARGET_PREFIX):
        found = _targets(rows, columns.names, where)
    elif columns.class_names is not None:
        found = _numbered(values, columns.class_names, of_column)
    else:
        found = _unnamed(values, task, of_column, f"{column} of {what}")
    if task not in (None, found.task):
        raise UsageError(
            f"{column} of {what} makes a task of the kind {found.task}, not {task}; leave --task out, or rename "
            f"another column to label and save again"
        )
    return found


def _targets(rows: Sequence[Sequence[Any]], columns: Sequence[str], where: Where) -> Labelled:
    """Targets: one number per column."""
    for index, row in enumerate(rows):
        for name, value in zip(columns, row, strict=True):
            if not isinstance(value, int | float) or not abs(value) <= LARGEST_TARGET:
                raise UsageError(f"{where(index)}: {name} is {_shown(value)}; targets are finite numbers, one per row")
    names = tuple(name.removeprefix(TARGET_PREFIX) for name in columns)
    return Labelled(REGRESSION.name, np.array(rows, dtype=np.float64), names)


def _numbered(values: Sequence[Any], names: tuple[str, ...], where: Where) -> Labelled:
    """Classes, or lists of labels, given by number."""
    several = isinstance(values[0], list)
    for index, value in enumerate(values):
        numbers = value if several else [value]
        if not isinstance(numbers, list) or not all(_is_number_of(one, names) for one in numbers):
            wanted = "a list of them" if several else "one"
            raise UsageError(f"{where(index)} is {_shown(value)}; labels are 0 to {len(names) - 1}, {wanted} per row")
    if not several:
        return Labelled(CLASSES.name, np.array(values, dtype=np.int64), names)
    labels = np.zeros((len(values), len(names)), dtype=np.int64)
    for row, numbers in zip(labels, values, strict=True):
        row[numbers] = 1
    return Labelled(MULTI_LABEL.name, labels, names)


def _unnamed(values: Sequence[Any], task: str | None, where: Where, what: str) -> Labelled:
    """Labels without class names: text or numbers, or lists of either.

    Lists of 0 and 1 that all have the same length above 1 have one entry per label. Other lists of whole numbers or
    text contain the labels that an image has.
    """
    several = isinstance(values[0], list)
    lists = [value if isinstance(value, list) else [value] for value in values]
    everything = [one for own in lists for one in own]
    of_text = isinstance(everything[0] if everything else "", str)
    of_type = str if of_text else int | float
    for index, (value, own) in enumerate(zip(values, lists, strict=True)):
        if isinstance(value, list) != several or not all(isinstance(one, of_type) for one in own):
            raise UsageError(
                f"{where(index)} is {_shown(value)}; labels are text or numbers, or lists of either, the same in all "
                f"rows"
            )
    if not several:
        return labelled_by_text(values, task, where) if of_text else labelled_by_array(np.array(values), task, what)
    numbers = task == REGRESSION.name or any(isinstance(one, float) for one in everything)
    lengths = {len(own) for own in lists}
    if not of_text and len(lengths) == 1 and (numbers or (min(lengths) > 1 and set(everything) <= {0, 1})):
        return labelled_by_array(np.array(values), task, what)
    if numbers:
        index = next((index for index, own in enumerate(lists) if len(own) != len(lists[0])), 0)
        raise UsageError(
            f"{where(index)} is {_shown(values[index])}; every row needs one number per target, as many as "
            f"the first row ({len(lists[0])})"
        )
    return labelled_by_sets([set(map(str, own)) for own in lists])


def _is_number_of(value: Any, names: Sequence[str]) -> bool:
    return isinstance(value, int) and not isinstance(value, bool) and 0 <= value < len(names)


def _shown(value: Any) -> str:
    return str(value)[:LONGEST_SHOWN]
