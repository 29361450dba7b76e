"""Data sets as Python objects that a study file gives, such as torchvision's."""

import hashlib
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import numpy.typing as npt
from PIL import Image

from sweep.data.base import AnyLabels, DataSet, Indices, Split, digest_of
from sweep.data.decoding import UnreadableImageError, plain_colours
from sweep.data.files import ImageChecker
from sweep.data.labels import labelled_by_array
from sweep.data.split_names import SPLIT_NAMES, split_named
from sweep.data.splitting import divided
from sweep.errors import UsageError
from sweep.machine.seeds import global_state
from sweep.tasks.kinds import CLASSES, MULTI_LABEL, REGRESSION

WHOLE = "all"
WANTED = "not a class index (0, 1, …), a list of 0 and 1, or a list of numbers"

Label = npt.NDArray[Any]


def object_data(
    objects: Mapping[str, Any], *, seed: int | None, checker: ImageChecker, task: str | None = None
) -> DataSet:
    """Make a data set from map-style data sets whose items are a Pillow image and a label.

    A label is a class index; or 0 and 1, or floats, in a tuple, an array or a tensor on the CPU; or one float.

    Every item is fetched once here, for its label and the fingerprint, and again when its features are computed. Items
    are never fetched in parallel, because data sets that share a file handle or random state are not thread-safe.

    Args:
        objects: data sets by split, `"train"`, `"test"` and optionally `"val"`; or one under `"all"`, to be split.
        seed: seed of the split, if there is no val.
        checker: records items that cannot be read.
        task: kind of task; if not given, the labels decide.

    Raises:
        UsageError: splits, items or labels are wrong.
        SweepError: an item cannot be read, and bad images are errors.
    """
    names = {name: WHOLE if name == WHOLE else split_named(str(name)) or str(name) for name in objects}
    splits = set(names.values())
    if not (splits == {WHOLE} or {"train", "test"} <= splits <= set(SPLIT_NAMES)) or len(splits) < len(objects):
        raise UsageError(
            f"Study.data has the parts {', '.join(map(str, objects)) or 'none'}; "
            f"give train, test and, optionally, val, or give all, which sweep then splits at random"
        )
    own_names = _own_class_names(objects)
    items = [
        _Item(names[name], name, part, index) for name, part in objects.items() for index in range(_length(name, part))
    ]
    found: list[tuple[Label, str]] = [(np.zeros(()), "")] * len(items)

    def look(index: int) -> None:
        found[index] = items[index].label_and_digest()

    usable = checker.usable(len(items), look)
    kept = np.flatnonzero(usable).tolist()
    if not kept:
        raise UsageError(f"Study.data has no item that can be used{checker.remark()}")
    _require_repeatable(items[kept[0]], found[kept[0]][1])
    labels, class_names, task = _labelled(own_names, [(items[index], found[index][0]) for index in kept], task)
    given = None if WHOLE in splits else [items[index].split for index in kept]

    def split_of(name: str, members: Indices) -> Split:
        chosen = [kept[index] for index in members.tolist()]
        return Split(
            name,
            labels[members],
            lambda index: items[chosen[index]].image(),
            lambda: digest_of(["objects", labels[members].tobytes(), *(found[index][1] for index in chosen)]),
            lambda index: items[chosen[index]].name,
            digester=lambda: [found[index][1] for index in chosen],
        )

    kinds = ", ".join(f"{split} {type(part).__name__}" for split, part in objects.items())
    what = f"Study.data ({kinds})"
    return divided(
        labels, class_names, given, split_of, name="objects", what=what, seed=seed, checker=checker, task=task
    )


def _length(split: str, part: Any) -> int:
    try:
        return len(part)
    except TypeError as error:
        raise UsageError(
            f"Study.data[{split!r}] is {type(part).__name__}, which has no length; give a map-style data set, "
            f"whose items are (Pillow image, label)"
        ) from error


class _Item:
    """One item of a user's data set."""

    def __init__(self, split: str, part_name: str, part: Any, index: int):
        self.split, self.name = split, f"Study.data[{part_name!r}][{index}]"
        self._part, self._index = part, index

    def _fetched(self) -> tuple[Image.Image, Any]:
        try:
            with global_state:
                item = self._part[self._index]
                if isinstance(item, tuple | list) and item and isinstance(item[0], Image.Image):
                    item[0].load()  # if the file was only opened
        except Exception as error:  # the user's code or a library may raise anything on a damaged file
            raise UnreadableImageError(self.name, str(error) or type(error).__name__) from error
        if not (isinstance(item, tuple | list) and len(item) == 2 and isinstance(item[0], Image.Image)):
            kinds = ", ".join(type(value).__name__ for value in item) if isinstance(item, tuple | list) else ""
            raise UsageError(
                f"{self.name} is {f'({kinds})' if kinds else type(item).__name__}, not a Pillow image and a "
                f"label; leave tensors to sweep, which resizes and normalises by itself"
            )
        return item[0], item[1]

    def image(self) -> Image.Image:
        """The image; raises `UnreadableImageError` if it cannot be read."""
        return plain_colours(self.name, self._fetched()[0])

    def label_and_digest(self) -> tuple[Label, str]:
        """The label, `()` or `(C,)`, and the SHA-256 of the pixels."""
        image, value = self._fetched()
        plain_colours(self.name, image)
        try:
            label = np.asarray(value)
        except (TypeError, ValueError, RuntimeError) as error:  # of ragged lists, and tensors on a GPU
            raise UsageError(f"the label of {self.name} is {value!r:.40}, {WANTED}") from error
        if not (label.dtype.kind in "iuf" and label.ndim == 0) and not (label.dtype.kind in "biuf" and label.ndim == 1):
            raise UsageError(f"the label of {self.name} is {value!r:.40}, {WANTED}")
        palette = bytes(image.getpalette() or [])
        header = f"{image.mode} {image.size} {len(palette)}".encode()
        return label, hashlib.sha256(b"".join([header, palette, image.tobytes()])).hexdigest()


def _require_repeatable(item: _Item, digest: str) -> None:
    """Raise an error if an item is another image each time it is fetched."""
    if item.label_and_digest()[1] != digest:
        raise UsageError(
            f"{item.name} is another image every time; leave random transforms out, and declare them as Study.augment, "
            f"which makes them repeatable"
        )


def _labelled(
    own_names: tuple[str, ...] | None, labels: Sequence[tuple[_Item, Label]], task: str | None
) -> tuple[AnyLabels, tuple[str, ...], str]:
    """Labels, names and kind of task of the usable items."""
    first, like = labels[0]
    for item, label in labels:
        if label.shape != like.shape or (label.dtype.kind == "f") != (like.dtype.kind == "f"):
            raise UsageError(f"the label of {item.name} is {label!r:.40}, of another kind than that of {first.name}")
    values = np.stack([label for _, label in labels])
    if values.ndim > 1 or values.dtype.kind == "f" or task == REGRESSION.name:
        found = labelled_by_array(values, task, "the labels of Study.data")
        return found.labels, found.names, found.task
    if task == MULTI_LABEL.name or values.min() < 0:
        item, label = next((item, label) for item, label in labels if task == MULTI_LABEL.name or label < 0)
        raise UsageError(f"the label of {item.name} is {label.item()!r:.40}, {WANTED}")
    return values.astype(np.int64), _class_names(own_names, np.unique(values).tolist()), CLASSES.name


def _own_class_names(objects: Mapping[str, Any]) -> tuple[str, ...] | None:
    """The data sets' attribute `classes`, if it holds texts as in torchvision's data sets.

    Raises:
        UsageError: Two of them have different ones, so that the same number means two classes.
    """
    found: dict[str, tuple[str, ...]] = {}
    for split, part in objects.items():
        names = getattr(part, "classes", None)
        if isinstance(names, list | tuple) and names and all(isinstance(name, str) for name in names):
            found[split] = tuple(names)
    if not found:
        return None
    first, names = next(iter(found.items()))
    for split, others in found.items():
        if others != names:
            place = next((i for i, pair in enumerate(zip(names, others, strict=False)) if len(set(pair)) > 1), None)
            number = min(len(names), len(others)) if place is None else place
            raise UsageError(
                f"Study.data[{split!r}] has other classes than Study.data[{first!r}]: number {number} is "
                f"{_name_of(others, number)} in the former and {_name_of(names, number)} in the latter; give all parts "
                f"the same classes in the same order"
            )
    return names


def _name_of(names: Sequence[str], number: int) -> str:
    return repr(names[number])[:40] if number < len(names) else "no class"


def _class_names(own_names: tuple[str, ...] | None, present: Sequence[int]) -> tuple[str, ...]:
    """The names from the data sets, or else numbers.

    Args:
        own_names: Names in order of label, if the data sets have them.
        present: The different labels in order; the largest may be any number.
    """
    if own_names is not None and present[-1] < len(own_names):
        return own_names
    gap = next((number for number, label in enumerate(present) if label != number), None)
    if gap is not None:
        raise UsageError(f"no item of Study.data has label {gap}; number the classes from 0 without gaps")
    return tuple(map(str, present))
