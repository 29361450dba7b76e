"""Warns about labels that may mean something else than what they were read as. The data are used all the same."""

import logging
from collections.abc import Sequence

import numpy as np

from sweep.data.base import AnyLabels, DataSet
from sweep.tasks.kinds import CLASSES, DETECTION, MULTI_LABEL, REGRESSION, SEGMENTATION

logger = logging.getLogger(__name__)

MOST_CLASSES = 20
"""A target with at most this many different whole numbers looks like the number of a class."""
FEW = 0.02
"""If fewer images than this share have several labels, a `|` looks like part of a name."""


def warn_of_doubts(data: DataSet, *, task_is_given: bool) -> None:
    """Warn about labels that may mean something else than what they were read as.

    Args:
        data: The data set as it was read.
        task_is_given: Whether the user gave the kind of task, so that the labels did not decide it.
    """
    for first, second in lookalikes(data.class_names):
        logger.warning(
            "%s has the %s %r and %r, which are learned as different ones; write them alike if they are the same",
            data.name,
            "labels" if data.task in (MULTI_LABEL.name, REGRESSION.name) else "classes",
            first,
            second,
        )
    if not task_is_given and data.task not in (SEGMENTATION.name, DETECTION.name):
        labels = np.concatenate([split.labels for split in (data.train, data.val, data.test)])
        if doubt := _doubtful_kind(data.task, labels):
            logger.warning("%s: %s", data.name, doubt)


def lookalikes(names: Sequence[str]) -> list[tuple[str, str]]:
    """Pairs of names that differ only in case, spaces, or how a number is written, such as `1` and `1.0`."""
    first: dict[str, str] = {}
    pairs = []
    for name in names:
        seen = first.setdefault(_plain(name), name)
        if seen is not name:
            pairs.append((seen, name))
    return pairs


def _plain(name: str) -> str:
    plain = " ".join(name.casefold().split())
    try:
        return repr(float(plain)) if len(plain) < 16 else plain
    except ValueError:
        return plain


def _doubtful_kind(task: str, labels: AnyLabels) -> str:
    """A warning about a kind of task that the labels decided; empty if there is no doubt."""
    if task == CLASSES.name:
        return ""
    several = labels.ndim > 1 and labels.shape[1] > 1
    flags = several and bool(np.isin(labels, (0, 1)).all())
    per_image = labels.sum(1) if flags else np.zeros(0)
    if flags and (per_image == 1).all():
        read_as = "labels that an image may have" if task == MULTI_LABEL.name else "numbers to be predicted"
        return (
            f"every image has a 1 in one column and 0 in all others, read as {read_as}; give --task classes if the "
            f"columns are classes"
        )
    if task == REGRESSION.name and not several and _look_like_classes(labels):
        numbers = ", ".join(f"{number:g}" for number in np.unique(labels))
        return (
            f"the targets are {numbers} and nothing else, read as numbers to be predicted; give --task classes if "
            f"they are classes"
        )
    n_several = int((per_image > 1).sum())
    if task == MULTI_LABEL.name and 0 < n_several <= FEW * len(labels):
        return (
            f"{n_several} of {len(labels)} images have more than one label, so all are read as several labels an "
            f"image; give --task classes if each has one class"
        )
    return ""


def _look_like_classes(targets: AnyLabels) -> bool:
    numbers = np.unique(targets)
    return len(numbers) <= min(MOST_CLASSES, len(targets) / 3) and bool((numbers == np.floor(numbers)).all())
