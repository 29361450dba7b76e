"""Files of COCO's form: where they and their images are in a folder, and what every reader of them checks."""

import os
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from types import UnionType
from typing import Any

from sweep.data.files import inside
from sweep.data.labels import clean_name
from sweep.data.split_names import SPLIT_NAMES, split_named
from sweep.data.walk import subfolders
from sweep.errors import SweepError, UsageError
from sweep.machine.checked_files import read_json

FOLDER, IMAGES = "annotations", "images"
BESIDE_IMAGES, BESIDE_FOLDER = "_annotations.coco.json", "annotations.json"
"""Names of the file beside the images, and beside the folder `images`."""

OF_OBJECTS = "instances_"
"""How names of files with objects begin where a folder has other annotations too."""

LONGEST_SHOWN = 40
REMEDY = "; correct the file, or export it again"


@dataclass(frozen=True)
class Annotation:
    """An object in a file of COCO's form.

    Attributes:
        where: its place in the file, such as `annotations[3]`.
        name: name of its class.
        content: the object as it is in the file.
    """

    where: str
    name: str
    content: Mapping[str, Any]

    @property
    def is_crowd(self) -> bool:
        """Whether it is a region with several objects that were not told apart."""
        return self.content.get("iscrowd") in (1, True)


@dataclass(frozen=True)
class CocoImage:
    """An image in a file of COCO's form.

    Attributes:
        image: the image's file, which may be missing.
        file: the file of annotations.
        where: the file of annotations and the image's place in it, for messages.
        size: width and height of the image in pixels, as the file says; None if it does not.
        split: `"train"`, `"val"` or `"test"`; None if the file is of no split.
        annotations: the objects of the image.
    """

    image: Path
    file: Path
    where: str
    size: tuple[int, int] | None
    split: str | None
    annotations: Sequence[Annotation]


def is_coco_folder(folder: Path) -> bool:
    """Whether a folder has annotations in one of the layouts that `read_coco` reads."""
    return bool(_files(folder))


def read_coco(root: Path, required: Mapping[str, type | UnionType]) -> tuple[tuple[str, ...], list[CocoImage]]:
    """Read the images and annotations of a folder.

    These are read:

    - ``root/annotations/instances_train2017.json`` and the like for other splits, with the images in ``root/images``,
      in ``root/train2017``, in ``root/images/train2017``, or in ``root`` itself;
    - ``root/train/_annotations.coco.json`` and the images beside it, or ``root/train/annotations.json`` beside the
      folder ``root/train/images``;
    - the same without splits: ``root/_annotations.coco.json``, ``root/annotations.json``, or a single file in
      ``root/annotations``.

    Args:
        root: an existing folder for which `is_coco_folder` holds.
        required: types of the entries that every annotation needs, besides its image and its category.

    Returns:
        Names of the classes, and the images. Classes are the categories in the order of their ids. A category that only
        says what others are kinds of is none.

    Raises:
        UsageError: two files are of one split, a file has wrong or missing entries, an image is there twice or is
            outside the folder.
        SweepError: a file is not JSON, or no image of it is there.
    """
    read = [_read(file, required) for file in _files(root)]
    found = [image for _, images in read for image in images]
    first: dict[str, CocoImage] = {}
    for image in found:
        earlier = first.setdefault(os.path.normpath(image.image), image)
        if earlier is not image:
            raise UsageError(
                f"{image.where} and {earlier.where} are both the image {image.image}; "
                f"{'drop one of them' if image.split == earlier.split else 'splits must not share images'}"
            )
    names = tuple(dict.fromkeys(name for own, _ in read for name in own))
    if not names:
        raise UsageError(f"{_files(root)[0].path} has no categories{REMEDY}")
    return names, found


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
    """The files in `root/annotations`, without those that are about something else than objects."""
    folder = root / FOLDER
    paths = sorted(folder.glob("*.json")) if folder.is_dir() else []
    paths = [path for path in paths if path.name.startswith(OF_OBJECTS)] or paths
    files = []
    for path in paths:
        name = path.stem.removeprefix(OF_OBJECTS)
        plain = re.sub(r"[-_ ]?\d+$", "", name)
        places = [root / name, root / IMAGES / name, root / plain, root / IMAGES / plain, root / IMAGES, root]
        files.append(_File(path, split_named(plain), tuple(places)))
    return files


def _read(file: _File, required: Mapping[str, type | UnionType]) -> tuple[tuple[str, ...], list[CocoImage]]:
    """Names of a file's classes, in order of category id, and its images."""
    path = file.path
    content = read_json(path, REMEDY)
    images = _entries(path, content, "images", {"id": int | str, "file_name": str})
    annotations = _entries(path, content, "annotations", {"image_id": int | str, "category_id": int | str, **required})
    categories = _entries(path, content, "categories", {"id": int | str, "name": str})
    names = _names(path, categories, {note["category_id"] for _, note in annotations})
    name_of = {note["id"]: clean_name(note["name"]) for _, note in categories}
    of_images: dict[int | str, list[Annotation]] = {}
    for where, note in images:
        if note["id"] in of_images:
            raise UsageError(f"{path}, {where}: its id {note['id']} was there before{REMEDY}")
        of_images[note["id"]] = []
    for where, note in annotations:
        for entry, known, what in (("image_id", of_images, "image"), ("category_id", name_of, "category")):
            if note[entry] not in known:
                raise UsageError(f"{path}, {where}: there is no {what} with the id {note[entry]}{REMEDY}")
        of_images[note["image_id"]].append(Annotation(where, name_of[note["category_id"]], note))
    folder = _folder_of(file, [note["file_name"] for _, note in images])
    found = [
        CocoImage(
            _image(folder, note["file_name"], f"{path}, {where}"),
            path,
            f"{path}, {where}",
            _size(note),
            file.split,
            of_images[note["id"]],
        )
        for where, note in images
    ]
    return names, found


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
