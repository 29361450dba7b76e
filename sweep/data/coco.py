"""Images whose boxes are in a JSON file of COCO's form, one for each split or one for all."""

import math
import os
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from types import UnionType
from typing import Any

from sweep.data.annotated import AnnotatedBox, AnnotatedImage, annotated_data
from sweep.data.base import DataSet
from sweep.data.files import ImageChecker, inside
from sweep.data.labels import clean_name
from sweep.data.split_names import SPLIT_NAMES, split_named
from sweep.data.walk import subfolders
from sweep.errors import SweepError, UsageError
from sweep.machine.checked_files import read_json

FOLDER, IMAGES = "annotations", "images"
BESIDE_IMAGES, BESIDE_FOLDER = "_annotations.coco.json", "annotations.json"
"""Names of the file beside the images, and beside the folder `images`."""

OF_BOXES = "instances_"
"""How names of files with boxes begin where a folder has other annotations too."""

LONGEST_SHOWN = 40
REMEDY = "; correct the file, or export it again"


def is_coco_folder(folder: Path) -> bool:
    """Whether a folder has annotations in one of the layouts that `coco_folder` reads."""
    return bool(_files(folder))


def coco_folder(root: Path, *, seed: int | None, checker: ImageChecker) -> DataSet:
    """Load a folder of images with boxes in JSON files of COCO's form.

    These are read:

    - ``root/annotations/instances_train2017.json`` and the like for other splits, with the images in ``root/images``,
      in ``root/train2017``, in ``root/images/train2017``, or in ``root`` itself;
    - ``root/train/_annotations.coco.json`` and the images beside it, or ``root/train/annotations.json`` beside the
      folder ``root/train/images``;
    - the same without splits: ``root/_annotations.coco.json``, ``root/annotations.json``, or a single file in
      ``root/annotations``.

    Without splits, the images are split 64 / 16 / 20 %; without ``val``, 20 % of train become val. Classes are the
    categories in the order of their ids. A category that only says what others are kinds of is none.

    Args:
        root: an existing folder.
        seed: seed of the split; None to split nothing, see `sweep.data.splitting.divided`.
        checker: checks the images before they are split.

    Raises:
        UsageError: two files are of one split, a file has wrong or missing entries, an image is there twice or is
            outside the folder, or as `annotated_data`.
        SweepError: a file is not JSON, or as `annotated_data`.
    """
    read = [_read(file) for file in _files(root)]
    found = [image for content in read for image in content.images]
    first: dict[str, AnnotatedImage] = {}
    for image in found:
        earlier = first.setdefault(os.path.normpath(image.image), image)
        if earlier is not image:
            raise UsageError(
                f"{image.where} and {earlier.where} are both the image {image.image}; "
                f"{'drop one of them' if image.split == earlier.split else 'splits must not share images'}"
            )
    names = tuple(dict.fromkeys(name for content in read for name in content.names))
    if not names:
        raise UsageError(f"{read[0].path} has no categories{REMEDY}")
    return annotated_data(root, found, names, seed=seed, checker=checker)


@dataclass(frozen=True)
class _File:
    """A file of annotations.

    Attributes:
        path: The file.
        split: Its split; None if it is the only file, and of none.
        folders: Where its images may be.
    """

    path: Path
    split: str | None
    folders: tuple[Path, ...]


@dataclass(frozen=True)
class _Content:
    """What a file has.

    Attributes:
        path: The file.
        names: Names of the classes, in order of category id.
        images: The images with their boxes.
    """

    path: Path
    names: tuple[str, ...]
    images: Sequence[AnnotatedImage]


def _files(root: Path) -> list[_File]:
    """The files of annotations in a folder, in order of split; empty if it has none."""
    of_splits: dict[str, _File] = {}
    for file in [*_in_split_folders(root), *_in_one_folder(root)]:
        if file.split is None:
            continue
        if file.split in of_splits:
            raise UsageError(f"{of_splits[file.split].path} and {file.path} are the same split; keep one of them")
        of_splits[file.split] = file
    if of_splits:
        return [of_splits[split] for split in SPLIT_NAMES if split in of_splits]
    beside = [_File(path, None, (root / IMAGES, root)) for path in _present(root)]
    alone = beside or _in_one_folder(root)
    return alone if len(alone) == 1 else []


def _present(folder: Path) -> list[Path]:
    names = (BESIDE_IMAGES, BESIDE_FOLDER) if (folder / IMAGES).is_dir() else (BESIDE_IMAGES,)
    return [folder / name for name in names if (folder / name).is_file()]


def _in_split_folders(root: Path) -> list[_File]:
    named = [(folder, split) for folder in subfolders(root) if (split := split_named(folder.name)) is not None]
    return [_File(path, split, (folder, folder / IMAGES, root)) for folder, split in named for path in _present(folder)]


def _in_one_folder(root: Path) -> list[_File]:
    """The files in `root/annotations`, without those that are about something else than boxes."""
    folder = root / FOLDER
    paths = sorted(folder.glob("*.json")) if folder.is_dir() else []
    paths = [path for path in paths if path.name.startswith(OF_BOXES)] or paths
    files = []
    for path in paths:
        name = path.stem.removeprefix(OF_BOXES)
        plain = re.sub(r"[-_ ]?\d+$", "", name)
        places = [root / name, root / IMAGES / name, root / plain, root / IMAGES / plain, root / IMAGES, root]
        files.append(_File(path, split_named(plain), tuple(places)))
    return files


def _read(file: _File) -> _Content:
    path = file.path
    content = read_json(path, REMEDY)
    images = _entries(path, content, "images", {"id": int | str, "file_name": str})
    annotations = _entries(
        path, content, "annotations", {"image_id": int | str, "category_id": int | str, "bbox": list}
    )
    categories = _entries(path, content, "categories", {"id": int | str, "name": str})
    names = _names(path, categories, {note["category_id"] for _, note in annotations})
    name_of = {note["id"]: clean_name(note["name"]) for _, note in categories}
    boxes: dict[int | str, list[AnnotatedBox]] = {}
    for where, note in images:
        if note["id"] in boxes:
            raise UsageError(f"{path}, {where}: its id {note['id']} was there before{REMEDY}")
        boxes[note["id"]] = []
    for where, note in annotations:
        for entry, known, what in (("image_id", boxes, "image"), ("category_id", name_of, "category")):
            if note[entry] not in known:
                raise UsageError(f"{path}, {where}: there is no {what} with the id {note[entry]}{REMEDY}")
        boxes[note["image_id"]].append(_box(path, where, note, name_of[note["category_id"]]))
    folder = _folder_of(file, [note["file_name"] for _, note in images])
    found = [
        AnnotatedImage(
            _image(folder, note["file_name"], f"{path}, {where}"),
            f"{path}, {where}",
            _size(note),
            boxes[note["id"]],
            file.split,
        )
        for where, note in images
    ]
    return _Content(path, names, found)


Entries = list[tuple[str, dict[str, Any]]]
"""Objects of a file, each with its place in the file, such as `images[3]`."""


def _entries(path: Path, content: Mapping[str, Any], name: str, types: Mapping[str, type | UnionType]) -> Entries:
    """The objects in a list of the file, whose entries have the given types."""
    entries = content.get(name)
    if not isinstance(entries, list):
        raise UsageError(f"{path} has no list {name!r}, which a file of COCO's form has{REMEDY}")
    for number, entry in enumerate(entries):
        where = f"{path}, {name}[{number}]"
        if not isinstance(entry, dict):
            raise UsageError(f"{where} is {str(entry)[:LONGEST_SHOWN]!r}, not an object{REMEDY}")
        for key, wanted in types.items():
            if not isinstance(entry.get(key), wanted) or isinstance(entry.get(key), bool):
                found = repr(entry[key])[:LONGEST_SHOWN] if key in entry else "missing"
                raise UsageError(f"{where}: its {key!r} is {found}{REMEDY}")
    return [(f"{name}[{number}]", entry) for number, entry in enumerate(entries)]


def _names(path: Path, categories: Entries, used: set[int | str]) -> tuple[str, ...]:
    """Names of the classes, in order of id."""
    above = [note.get("supercategory") for _, note in categories if note.get("supercategory") != note["name"]]
    kept = [note for _, note in categories if note["id"] in used or note["name"] not in above]
    for entry in ("id", "name"):
        values = [note[entry] for note in kept]
        if len(set(values)) < len(values):
            twice = next(value for value in values if values.count(value) > 1)
            raise UsageError(f"{path} has two categories with the {entry} {twice!r}{REMEDY}")
    numbered = all(isinstance(note["id"], int) for note in kept)
    ordered = sorted(kept, key=lambda note: note["id"]) if numbered else kept
    return tuple(clean_name(note["name"]) for note in ordered)


def _box(path: Path, where: str, note: Mapping[str, Any], name: str) -> AnnotatedBox:
    numbers = note["bbox"]
    if len(numbers) != 4 or any(isinstance(value, bool) or not isinstance(value, int | float) for value in numbers):
        raise UsageError(
            f"{path}, {where}: its 'bbox' is {str(numbers)[:LONGEST_SHOWN]}, not four numbers: left, top, width and "
            f"height{REMEDY}"
        )
    left, top, width, height = map(_as_float, numbers)
    return AnnotatedBox(name, (left, top, left + width, top + height), note.get("iscrowd") in (1, True), where)


def _as_float(number: float) -> float:
    try:
        return float(number)
    except OverflowError:  # a whole number of hundreds of digits
        return math.inf


def _size(note: Mapping[str, Any]) -> tuple[int, int] | None:
    width, height = note.get("width"), note.get("height")
    known = isinstance(width, int) and isinstance(height, int) and width > 0 and height > 0
    return (width, height) if known else None  # type: ignore[return-value]


def _folder_of(file: _File, names: Sequence[str]) -> Path:
    """The first folder that has one of the images."""
    for folder in file.folders:
        if any(os.path.isfile(folder / name) for name in names):
            return folder
    if not names:
        raise UsageError(f"{file.path} has no images{REMEDY}")
    looked = ", ".join(map(str, dict.fromkeys(file.folders)))
    raise SweepError(f"no image of {file.path}, such as {names[0]}, is in {looked}; put the images into one of them")


def _image(folder: Path, name: str, where: str) -> Path:
    """The file of an image, which may be missing."""
    return inside(folder, name, where) if os.path.isfile(folder / name) else folder / name
