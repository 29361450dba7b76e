"""VTAB-1K task folders: list files of `path LABEL` lines beside an `images` folder."""

import logging
from itertools import combinations
from pathlib import Path

import numpy as np

from sweep.data.base import DataSet, Split
from sweep.data.files import ImageChecker, file_split, inside
from sweep.errors import SweepError, UsageError

logger = logging.getLogger(__name__)

LIST_FILES = {"train": "train800.txt", "val": "val200.txt", "test": "test.txt"}

CLASS_COUNTS = {
    "cifar": 100,
    "caltech101": 102,
    "dtd": 47,
    "oxford_flowers102": 102,
    "oxford_iiit_pet": 37,
    "svhn": 10,
    "sun397": 397,
    "patch_camelyon": 2,
    "eurosat": 10,
    "resisc45": 45,
    "diabetic_retinopathy": 5,
    "clevr_count": 8,
    "clevr_dist": 6,
    "dmlab": 6,
    "kitti": 4,
    "dsprites_loc": 16,
    "dsprites_ori": 16,
    "smallnorb_azi": 18,
    "smallnorb_ele": 9,
}
MOST_LABEL_DIGITS = 6
ALIASES = {
    "cifar100": "cifar",
    "cifar_100": "cifar",
    "pets": "oxford_iiit_pet",
    "flowers102": "oxford_flowers102",
}


def is_vtab_task(folder: Path) -> bool:
    """Whether a folder has one of the list files of a VTAB-1K task."""
    return any((folder / name).is_file() for name in LIST_FILES.values())


def vtab_task(folder: Path, checker: ImageChecker) -> DataSet:
    """Load a VTAB-1K task folder with the splits train800, val200 and test.

    The folder's name need not be that of a VTAB-1K task; its classes are then counted from the labels. No path in a
    list may lead out of the folder after links are resolved, because a list may come from a stranger.

    Args:
        folder: has `train800.txt`, `val200.txt` and `test.txt`, and the images they name.
        checker: checks the images.

    Raises:
        UsageError: a list file is missing, empty or wrong in some line (the message says which), or names a
            file that does not exist, is outside the folder, or was named before; or the labels have gaps.
        SweepError: a file is not a readable image, and bad images are errors.
    """
    task = ALIASES.get(folder.resolve().name, folder.resolve().name)
    known = CLASS_COUNTS.get(task)
    lists = {name: _read_list(folder, file, known) for name, file in LIST_FILES.items()}
    for first, second in combinations(LIST_FILES, 2):
        if shared := set(lists[first][0]) & set(lists[second][0]):
            raise UsageError(
                f"{LIST_FILES[first]} and {LIST_FILES[second]} in {folder} both list {min(shared)}; "
                f"splits must not share images"
            )
    splits: dict[str, Split] = {}
    for name, (files, labels) in lists.items():
        readable = checker.readable(files)
        if not readable.any():
            raise UsageError(f"no image in {folder / LIST_FILES[name]} can be read{checker.remark()}")
        kept = [path for path, usable in zip(files, readable.tolist(), strict=True) if usable]
        splits[name] = file_split(name, folder, kept, np.array(labels, dtype=np.int64)[readable])
    n_classes = _count_classes(folder, splits, known, checker)
    return DataSet(
        name=task,
        description=f"VTAB-1K folder {folder}: train800, val200 and test as listed",
        class_names=tuple(str(label) for label in range(n_classes)),
        notice="Made of third-party data; see the licence of the original data set." if known else "",
        skipped=tuple(checker.skipped),
        train=splits["train"],
        val=splits["val"],
        test=splits["test"],
    )


def _count_classes(folder: Path, splits: dict[str, Split], known: int | None, checker: ImageChecker) -> int:
    """Return the number of classes; a task of VTAB-1K may have some without images, any other may not."""
    labels = {name: set(split.labels.tolist()) for name, split in splits.items()}
    largest = max(max(of_split) for of_split in labels.values())
    n_classes = known or 1 + largest
    for name in ("val", "test"):
        if unknown := labels[name] - labels["train"]:
            lacking = (
                f"{LIST_FILES['train']} in {folder} has no image of label {min(unknown)}, "
                f"which {LIST_FILES[name]} has{checker.remark()}"
            )
            if known is None:
                raise UsageError(f"{lacking}; a class needs images to learn from. Add some, or drop its lines")
            logger.warning("%s; %d classes there cannot be learned", lacking, len(unknown))
    if known is None and len(labels["train"]) < n_classes:
        gap = next(label for label in range(n_classes) if label not in labels["train"])
        raise UsageError(
            f"labels in {folder} go up to {largest}, but no line has label {gap}{checker.remark()}; "
            f"number the classes from 0 without gaps"
        )
    if n_classes < 2:
        raise UsageError(f"every label in {folder} is 0: a task needs at least 2 classes")
    return n_classes


def _read_list(folder: Path, file: str, n_classes: int | None) -> tuple[list[Path], list[int]]:
    """Return the image files and labels that a list file names, all checked."""
    path = folder / file
    if not path.is_file():
        raise UsageError(f"{path} is missing; a VTAB-1K task has {', '.join(LIST_FILES.values())}")
    try:
        lines = path.read_text(encoding="utf-8-sig").split("\n")
    except UnicodeDecodeError as error:
        raise UsageError(f"{path} is not UTF-8 text: {error}; save it as UTF-8") from error
    except OSError as error:
        raise SweepError(f"cannot read {path}: {error.strerror}") from error
    files: list[Path] = []
    labels: list[int] = []
    first_line: dict[Path, int] = {}
    for number, line in enumerate(lines, start=1):
        if not line.strip():
            continue
        where = f"{path}:{number}"
        image, label = _parse(line, where, n_classes)
        target = inside(folder, image, where)
        if target in first_line:
            raise UsageError(f"{where}: {image} was listed before, in line {first_line[target]}; drop one of them")
        first_line[target] = number
        files.append(target)
        labels.append(label)
    if not files:
        raise UsageError(f"{path} lists no images; every line should be `images/train800/000000.jpg LABEL`")
    return files, labels


def _parse(line: str, where: str, n_classes: int | None) -> tuple[str, int]:
    """Return the image's path and the label of one line."""
    image, _, text = line.strip().rpartition(" ")
    if not image:
        raise UsageError(f"{where}: {line.strip()!r} should be a path, one space and a label")
    if not (text.isascii() and text.isdigit() and len(text) <= MOST_LABEL_DIGITS):
        shown = text if len(text) <= 2 * MOST_LABEL_DIGITS else f"{text[:MOST_LABEL_DIGITS]}…"
        raise UsageError(
            f"{where}: label {shown!r} should be a whole number from 0 on, of at most {MOST_LABEL_DIGITS} digits"
        )
    label = int(text)
    if n_classes is not None and label >= n_classes:
        raise UsageError(
            f"{where}: label {label} is too large, the task has {n_classes} classes (0 to {n_classes - 1})"
        )
    return image.strip(), label
