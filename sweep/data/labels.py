"""Reads labels of three kinds: one class per image, several labels per image, or numbers."""

import logging
import math
import unicodedata
from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import numpy.typing as npt

from sweep.data.base import AnyLabels, Labels
from sweep.errors import UsageError
from sweep.tasks.inputs import Kind, one_of
from sweep.tasks.kinds import CLASSES, DETECTION, LARGEST_TARGET, MULTI_LABEL, REGRESSION

logger = logging.getLogger(__name__)

SEPARATOR = "|"
NAMES_FILE = "classes.txt"
"""A file that may name the classes of masks or boxes."""

TARGET, TARGET_PREFIX = "target", "target_"
"""Names of columns with numbers to predict."""

LONGEST_SHOWN = 40
ROUNDING = 64 * np.finfo(np.float64).eps
"""Largest difference, relative to a target's largest number, that rounding may cause between equal numbers."""

Where = Callable[[int], str]
"""Describes the image with an index, for messages."""


@dataclass(frozen=True)
class Labelled:
    """Labels that were read.

    Attributes:
        task: Kind of task.
        labels: Labels as in `Split`.
        names: Names of classes, labels or targets.
    """

    task: str
    labels: AnyLabels
    names: tuple[str, ...]


def clean_name(text: str) -> str:
    """A name without spaces around it, in Unicode's composed form: `é` may be one character, or `e` and an accent."""
    return unicodedata.normalize("NFC", text).strip()


def named_in(path: Path, *, at_least: int) -> tuple[str, ...] | None:
    """The names of classes in a text file, one per line; None if there is no such file.

    Args:
        path: The file.
        at_least: Number of names that it must have.

    Raises:
        UsageError: The file cannot be read, has too few names, or has one twice.
    """
    if not path.is_file():
        return None
    try:
        lines = [clean_name(line) for line in path.read_text(encoding="utf-8-sig").splitlines()]
    except (OSError, UnicodeDecodeError) as error:
        raise UsageError(f"cannot read {path}: {error}; save it as UTF-8, one name per line") from error
    names = tuple(line for line in lines if line)
    if len(set(names)) < max(at_least, len(names)):
        number = {1: "one name", 2: "two names"}[at_least]
        raise UsageError(f"{path} must have at least {number}, all different, one per line; it has {len(names)}")
    return names


def ordered_names(values: Sequence[str]) -> tuple[str, ...]:
    """The different names among `values`; whole numbers are ordered by value, anything else by text."""
    names = sorted(set(values))
    if all(name.isascii() and name.isdigit() and len(name) < 19 for name in names):
        names.sort(key=int)
    return tuple(names)


def name_classes(values: Sequence[str]) -> tuple[Labels, tuple[str, ...]]:
    """Number classes that are given by name, one per image.

    Args:
        values: Names `(n,)`; they are cleaned here.

    Returns:
        (n,) labels from 0 without gaps, and the names in order of label.
    """
    values = [clean_name(value) for value in values]
    names = ordered_names(values)
    label_of = {name: label for label, name in enumerate(names)}
    return np.array([label_of[value] for value in values], dtype=np.int64), names


def labelled_by_text(texts: Sequence[str], task: str | None, where: Where) -> Labelled:
    """Read one text per image: a class, labels such as `cat|dog` (no labels if it is empty), or a number.

    Args:
        texts: Texts `(n,)`.
        task: Kind of task. If not given, it is multi-label if a text has a `|`, else classes.
        where: Describes an image, for messages.

    Raises:
        UsageError: A text is not a label of this kind.
    """
    if task is None:
        task = MULTI_LABEL.name if any(SEPARATOR in text for text in texts) else CLASSES.name
    if task == REGRESSION.name:
        numbers = [[number_of(text, where(index))] for index, text in enumerate(texts)]
        return Labelled(task, np.array(numbers), ("label",))
    if task == CLASSES.name:
        for index, text in enumerate(texts):
            if not text.strip():
                raise UsageError(f"{where(index)}: the label is empty; give the class, or drop the row")
        return Labelled(task, *name_classes(texts))
    return labelled_by_sets([{part for part in text.split(SEPARATOR) if part.strip()} for text in texts])


def labelled_by_sets(of_images: Sequence[Collection[str]]) -> Labelled:
    """Read several labels per image, given as `(n,)` sets of names; the names are cleaned here."""
    of_images = [{clean_name(name) for name in own} for own in of_images]
    names = ordered_names([name for own in of_images for name in own])
    labels = np.array([[name in own for name in names] for own in of_images], dtype=np.int64)
    return Labelled(MULTI_LABEL.name, labels.reshape(len(of_images), len(names)), names)


def labelled_by_columns(columns: Mapping[str, Sequence[str]], task: str, where: Where) -> Labelled:
    """Read several columns: one per label or class (0 or 1), or one per target (numbers).

    Args:
        columns: Texts `(n,)` by name of the column.
        task: Kind of task. For classes, every image must have exactly one.
        where: Describes an image, for messages.

    Raises:
        UsageError: A text is not a label of this kind, or an image does not have exactly one class.
    """
    read = number_of if task == REGRESSION.name else _zero_or_one
    values = [
        [read(text, f"{where(index)}: {name}") for index, text in enumerate(texts)] for name, texts in columns.items()
    ]
    table = np.array(values, dtype=np.float64).T
    names = tuple(map(clean_name, columns))
    if task == CLASSES.name:
        return Labelled(task, _class_of(table, where), names)
    return Labelled(task, table.copy() if task == REGRESSION.name else table.astype(np.int64), names)


def _class_of(flags: npt.NDArray[np.generic], where: Where) -> Labels:
    """Index of the only column that is 1, `(n,)`, from `(n, C)` zeros and ones."""
    numbers = flags.astype(np.int64).sum(1)
    if wrong := np.flatnonzero(numbers != 1).tolist():
        raise UsageError(
            f"{where(wrong[0])} has {numbers[wrong[0]]} columns of 1; for classes, every image needs exactly one. "
            f"Leave --task out, or give multi-label"
        )
    classes: Labels = flags.argmax(1).astype(np.int64)
    return classes


def labelled_by_array(values: npt.NDArray[np.generic], task: str | None, what: str) -> Labelled:
    """Read an array: classes `(n,)`, whole numbers or text; labels of 0 and 1, `(n, C)`; or targets, `(n,)`, `(n, C)`.

    Args:
        values: One value or one row per image.
        task: Kind of task; if not given, type and shape decide.
        what: The array, for messages.

    Raises:
        UsageError: The array does not have labels of this kind.
    """
    if values.ndim == 2 and values.shape[1] == 1:
        values = values[:, 0]
    kind = values.dtype.kind
    if task is None:
        task = REGRESSION.name if kind == "f" else MULTI_LABEL.name if values.ndim == 2 else CLASSES.name
    if task == CLASSES.name and kind == "f" and values.ndim == 1 and _all_whole(values):
        return Labelled(task, *name_classes([str(int(value)) for value in values.tolist()]))
    if task == CLASSES.name and kind in "iuU" and values.ndim == 1:
        return Labelled(task, *name_classes([str(value) for value in values.tolist()]))
    if task == CLASSES.name and kind in "biuf" and values.ndim == 2 and np.isin(values, (0, 1)).all():
        names = tuple(map(str, range(values.shape[1])))
        return Labelled(task, _class_of(values, lambda index: f"{what}, row {index},"), names)
    if task == MULTI_LABEL.name and kind in "biuf" and values.ndim == 2 and np.isin(values, (0, 1)).all():
        return Labelled(task, values.astype(np.int64), tuple(map(str, range(values.shape[1]))))
    if task == REGRESSION.name and kind in "iuf" and values.ndim in (1, 2):
        numbers = values.astype(np.float64).reshape(len(values), -1)
        if not (np.abs(numbers) <= LARGEST_TARGET).all():
            raise UsageError(f"{what} has targets that are not finite, or beyond {LARGEST_TARGET:g}; leave those out")
        names = ("target",) if values.ndim == 1 else tuple(map(str, range(values.shape[1])))
        return Labelled(task, numbers, names)
    wanted = {
        CLASSES.name: "whole numbers or text, one per image, or one column of 0 and 1 per class",
        MULTI_LABEL.name: "0 or 1, one column per label",
        REGRESSION.name: "numbers, one or one row per image",
    }[task]
    raise UsageError(f"{what} holds {values.dtype} of shape {values.shape}; for {task}, labels must be {wanted}")


def _all_whole(values: npt.NDArray[np.generic]) -> bool:
    numbers = values.astype(np.float64)
    return bool((np.abs(numbers) < 2**53).all() and (numbers == np.floor(numbers)).all())


def number_of(text: str, where: str) -> float:
    """Read a finite number.

    Raises:
        UsageError: The text is not one.
    """
    try:
        number = float(text)
    except ValueError:
        number = math.nan
    if not abs(number) <= LARGEST_TARGET:
        raise UsageError(f"{where}: {text[:LONGEST_SHOWN]!r} is not a finite number; correct it, or drop the row")
    return number


def _zero_or_one(text: str, where: str) -> int:
    found = {"0": 0, "1": 1, "false": 0, "true": 1, "0.0": 0, "1.0": 1}.get(text.lower())
    if found is None:
        raise UsageError(
            f"{where} is {text[:LONGEST_SHOWN]!r}, not 0 or 1. Without a column label or target, every column is a "
            f"label; name the column of classes label, or drop the columns that are not labels"
        )
    return found


def require_measurable(
    task: str, names: Sequence[str], labels: Mapping[str, AnyLabels], where: str, kind: Kind
) -> None:
    """Check that each split can be used for training or measuring, and warn about labels that cannot be learned.

    Args:
        task: Kind of task.
        names: Names of labels or targets.
        labels: Labels by split.
        where: Source of the images, for messages.
        kind: Images or texts, for messages.

    Raises:
        UsageError: No image of a split has a label or a box, or a target has only one value in a split, up to rounding.
    """
    for split, of_split in labels.items():
        if task == MULTI_LABEL.name and not of_split.any():
            raise UsageError(f"no {split} {one_of(kind)} of {where} has a label; mean average precision needs some")
        if task == DETECTION.name and not of_split.any():
            raise UsageError(f"no {split} {one_of(kind)} of {where} has a box; average precision needs some")
        if task == REGRESSION.name and (constant := _constant(of_split)).size:
            raise UsageError(
                f"{names[constant[0]]} has one value in all {len(of_split)} {split} {kind} of {where}; R² needs "
                f"targets that differ. Add {kind}, or leave the target out"
            )
    if task in (MULTI_LABEL.name, DETECTION.name):
        what = "the label" if task == MULTI_LABEL.name else "a box of the class"
        for index in np.flatnonzero(~labels["train"].any(axis=0)).tolist():
            logger.warning(
                "no train %s of %s has %s %r, so it cannot be learned", one_of(kind), where, what, names[index]
            )


def _constant(targets: AnyLabels) -> npt.NDArray[np.intp]:
    """Indices of targets `(n, C)` that have the same value in all images, up to rounding."""
    return np.flatnonzero(np.ptp(targets, axis=0) <= ROUNDING * np.abs(targets).max(0))
