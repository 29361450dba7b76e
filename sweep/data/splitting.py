"""Divides images into train, val and test: as given, or at random with a seed, class by class."""

import logging
from collections.abc import Callable, Mapping, Sequence

import numpy as np
import numpy.typing as npt

from sweep.data.base import AnyLabels, DataSet, Indices, Labels, Split, stratified_split
from sweep.data.files import ImageChecker, some_of
from sweep.data.labels import require_measurable
from sweep.data.split_names import SPLIT_NAMES
from sweep.errors import UsageError
from sweep.tasks.inputs import Kind, one_of
from sweep.tasks.kinds import CLASSES

logger = logging.getLogger(__name__)

VAL_SHARE, TEST_SHARE = 0.16, 0.20
VAL_SHARE_OF_TRAIN = VAL_SHARE / (1 - TEST_SHARE)


def divided(
    labels: AnyLabels,
    class_names: tuple[str, ...],
    given: Sequence[str] | None,
    split_of: Callable[[str, Indices], Split],
    *,
    name: str,
    what: str,
    seed: int | None,
    checker: ImageChecker,
    task: str = CLASSES.name,
    kind: Kind = "images",
) -> DataSet:
    """Make a data set from one list of images.

    Args:
        labels: labels as in `Split`.
        class_names: names of the classes, in order of label.
        given: the split of each image, `"train"`, `"val"` or `"test"`; None to split them 64 / 16 / 20 %. Without any
            `"val"`, 20 % of train become val. Without classes, shares are of all images.
        split_of: makes a split from its name and the indices of its images.
        name: name of the data set.
        what: source of the images, for messages and the description.
        seed: seed of the split. None splits nothing: images without a given split are all in test, and any split may be
            empty. This is for data that are only evaluated.
        checker: the checker of the images.
        task: kind of task.
        kind: images or texts, for messages.

    Raises:
        UsageError: there are fewer than two classes, a split is missing, a class is too small or not in train, or
            nothing can be measured on a split.
    """
    remark = checker.remark()
    if seed is not None and task == CLASSES.name and len(class_names) < 2:
        raise UsageError(f"{what} has {len(class_names)} classes{remark}; a task needs at least 2")
    strata, names = (labels.astype(np.int64), class_names) if task == CLASSES.name else _one_stratum(len(labels))
    if seed is None:
        parts, how = _unsplit(len(labels), given)
    elif given is None:
        parts, how = split_three_ways(strata, names, seed=seed, where=what, remark=remark, kind=kind)
    else:
        parts, how = _as_given(strata, names, np.array(given), seed=seed, where=what, remark=remark, kind=kind)
    if seed is not None:
        require_measurable(task, class_names, {split: labels[members] for split, members in parts.items()}, what, kind)
    train, val, test = (split_of(split, parts[split]) for split in SPLIT_NAMES)
    return DataSet(
        name=name,
        description=f"{what}; {how}",
        class_names=class_names,
        train=train,
        val=val,
        test=test,
        skipped=tuple(checker.skipped),
        task=task,
    )


def _unsplit(n_images: int, given: Sequence[str] | None) -> tuple[Mapping[str, Indices], str]:
    """Splits as given, or everything in test."""
    names = np.array(["test"] * n_images if given is None else given)
    how = "not split" if given is None else "splits as given"
    return {name: np.flatnonzero(names == name) for name in SPLIT_NAMES}, how


def _one_stratum(n_images: int) -> tuple[Labels, tuple[str, ...]]:
    """Labels and names that put all images in one class without a name, for images that have no classes."""
    return np.zeros(n_images, dtype=np.int64), ("",)


def _as_given(
    labels: Labels,
    class_names: Sequence[str],
    given: npt.NDArray[np.str_],
    *,
    seed: int,
    where: str,
    remark: str,
    kind: Kind,
) -> tuple[Mapping[str, Indices], str]:
    parts = {name: np.flatnonzero(given == name) for name in SPLIT_NAMES}
    for name in ("train", "test"):
        if not len(parts[name]):
            raise UsageError(
                f"{where} has no {name} {kind}{remark}; give train and test (val is optional), or no splits at all, "
                f"and sweep splits it at random"
            )
    in_train = set(labels[parts["train"]].tolist())
    for name in ("val", "test"):
        if unknown := set(labels[parts[name]].tolist()) - in_train:
            raise UsageError(
                f"class {class_names[min(unknown)]!r} of {where} is in {name} but not in train{remark}; "
                f"a class needs {kind} to learn from"
            )
    if lacking := [name for label, name in enumerate(class_names) if label not in in_train]:
        what = one_of(kind)
        logger.warning("%s has no %s of class %r%s (%d such classes)", where, what, lacking[0], remark, len(lacking))
    if len(parts["val"]):
        return parts, "splits as given"
    of_train = parts["train"]
    kept, how = split_off_val(
        labels[of_train], class_names, seed=seed, where=f"train of {where}", remark=remark, kind=kind
    )
    return {"train": of_train[kept["train"]], "val": of_train[kept["val"]], "test": parts["test"]}, how


def split_three_ways(
    labels: Labels, class_names: Sequence[str], *, seed: int, where: str, remark: str, kind: Kind = "images"
) -> tuple[Mapping[str, Indices], str]:
    """Split 64 / 16 / 20 % of each class.

    Args:
        labels: (n,) int64.
        class_names: names of the classes, in order of label.
        seed: seed of the split.
        where: source of the images, for messages.
        remark: text to add to a message about too few images.
        kind: images or texts, for messages.

    Returns:
        Indices by split, in the order of `SPLIT_NAMES`, and a description of the split.

    Raises:
        UsageError: a class is too small.
    """
    _require_class_size(labels, class_names, where, remark, kind, smallest=3, splits="train, val and test")
    parts = stratified_split(labels, (VAL_SHARE, TEST_SHARE), seed)
    how = f"64 / 16 / 20 % of {_whole(class_names, kind)}, split seed {seed}"
    return dict(zip(SPLIT_NAMES, parts, strict=True)), how


def split_off_val(
    labels: Labels, class_names: Sequence[str], *, seed: int, where: str, remark: str, kind: Kind = "images"
) -> tuple[Mapping[str, Indices], str]:
    """Make 20 % of each class of train val; arguments and result as `split_three_ways`, without test."""
    _require_class_size(labels, class_names, where, remark, kind, smallest=2, splits="train and val")
    kept, held = stratified_split(labels, (VAL_SHARE_OF_TRAIN,), seed)
    return {"train": kept, "val": held}, f"train and test as given, val is 20 % of train, split seed {seed}"


def _whole(class_names: Sequence[str], kind: Kind) -> str:
    """What the shares of a split are shares of, in words."""
    return "each class" if any(class_names) else f"all {kind}"


def _require_class_size(
    labels: Labels, class_names: Sequence[str], where: str, remark: str, kind: Kind, *, smallest: int, splits: str
) -> None:
    sizes = np.bincount(labels, minlength=len(class_names)).tolist()
    small = [(name, size) for name, size in zip(class_names, sizes, strict=True) if size < smallest]
    if not small:
        return
    name, size = small[0]
    has = f"{size} {one_of(kind) if size == 1 else kind}{remark}"
    needed = f"{smallest} are needed, one for each of {splits}. Add {kind}"
    if not name:
        raise UsageError(f"{where} has {has}; {needed}")
    if len(small) == 1:
        raise UsageError(f"class {name!r} in {where} has {has}; {needed} or remove the class")
    told = some_of([f"{name!r} has {size}" for name, size in small])
    raise UsageError(
        f"{len(small)} classes in {where} have too few {kind}{remark}: {told}; in each, {needed} or remove the classes"
    )
