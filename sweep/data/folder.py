"""Images in one folder a class, with or without `train`, `val` and `test` folders above the classes."""

from pathlib import Path

import numpy as np

from sweep.data.base import DataSet, Labels, Split, stratified_split
from sweep.data.files import IMAGE_SUFFIXES, file_split, is_image
from sweep.errors import UsageError

SPLIT_NAMES = ("train", "val", "test")
VAL_SHARE, TEST_SHARE = 0.16, 0.20
VAL_SHARE_OF_TRAIN = VAL_SHARE / (1 - TEST_SHARE)


def image_folder(root: Path, *, seed: int) -> DataSet:
    """Load a folder of images.

    ``root/CLASS/*`` is split into 64 / 16 / 20 % train, val and test, class by class.
    ``root/{train,val,test}/CLASS/*`` is used as given; where ``val`` is missing, 20 % of train become val.
    Classes are ordered by name. Files in deeper folders belong to the class above them; hidden files and
    files that are no images are left aside.

    Args:
        root: an existing folder.
        seed: seed of the splitting.

    Raises:
        UsageError: no images, fewer than two classes, an empty or too small class, or classes that differ
            between splits.
        SweepError: a file with an image's extension is no readable image.
    """
    subfolders = {path.name for path in _subfolders(root)}
    if "train" in subfolders and subfolders <= set(SPLIT_NAMES):
        return _given_splits(root, seed, subfolders)
    if {"train", "test"} <= subfolders:
        odd = ", ".join(sorted(subfolders - set(SPLIT_NAMES)))
        raise UsageError(
            f"{root} looks like splits, but beside {', '.join(sorted(subfolders & set(SPLIT_NAMES)))} it has {odd}: "
            f"name the splits train, val and test, and move other folders away"
        )
    files, labels, class_names = _scan(root)
    _require_class_size(root, labels, class_names, smallest=3, splits="train, val and test")
    parts = stratified_split(labels, (VAL_SHARE, TEST_SHARE), seed)
    train, val, test = (_part(name, root, files, labels, part) for name, part in zip(SPLIT_NAMES, parts, strict=True))
    description = f"folder {root}; 64 / 16 / 20 % of each class, split seed {seed}"
    return DataSet(root.resolve().name, description, class_names, train, val, test)


def _given_splits(root: Path, seed: int, subfolders: set[str]) -> DataSet:
    if "test" not in subfolders:
        raise UsageError(
            f"{root} has a train folder but no test folder: add {root / 'test'}, or put the class folders "
            f"straight into {root} to have them split"
        )
    scanned = {name: _scan(root / name) for name in SPLIT_NAMES if name in subfolders}
    class_names = scanned["train"][2]
    for name, (_, _, names) in scanned.items():
        if names != class_names:
            missing, extra = sorted(set(class_names) - set(names)), sorted(set(names) - set(class_names))
            raise UsageError(
                f"{root / name} has other classes than {root / 'train'}: missing {missing or 'none'}, "
                f"only there {extra or 'none'}"
            )
    files, labels, _ = scanned["train"]
    test_files, test_labels, _ = scanned["test"]
    if "val" in scanned:
        val_files, val_labels, _ = scanned["val"]
        train = file_split("train", root, files, labels)
        val = file_split("val", root, val_files, val_labels)
        description = f"folder {root}; splits as given"
    else:
        _require_class_size(root / "train", labels, class_names, smallest=2, splits="train and val")
        kept, held = stratified_split(labels, (VAL_SHARE_OF_TRAIN,), seed)
        train = _part("train", root, files, labels, kept)
        val = _part("val", root, files, labels, held)
        description = f"folder {root}; train and test as given, val is 20 % of train, split seed {seed}"
    test = file_split("test", root, test_files, test_labels)
    return DataSet(root.resolve().name, description, class_names, train, val, test)


def _part(name: str, root: Path, files: list[Path], labels: Labels, members: Labels) -> Split:
    return file_split(name, root, [files[index] for index in members], labels[members])


def _subfolders(folder: Path) -> list[Path]:
    return sorted(path for path in folder.iterdir() if path.is_dir() and not path.name.startswith("."))


def _scan(folder: Path) -> tuple[list[Path], Labels, tuple[str, ...]]:
    """Return the image files below the class folders of `folder`, their labels, and the classes' names."""
    classes = _subfolders(folder)
    if len(classes) < 2:
        raise UsageError(
            f"{folder} has {len(classes)} class folders, at least 2 are needed: one subfolder a class, images in each"
        )
    files: list[Path] = []
    labels: list[int] = []
    empty = []
    for label, class_folder in enumerate(classes):
        found = sorted(path for path in class_folder.rglob("*") if is_image(path))
        files.extend(found)
        labels.extend([label] * len(found))
        if not found:
            empty.append(class_folder)
    suffixes = ", ".join(sorted(IMAGE_SUFFIXES))
    if not files:
        raise UsageError(f"no images below {folder}: files ending in {suffixes} are looked for")
    if empty:
        raise UsageError(f"class folder {empty[0]} has no images ({suffixes}); fill or remove it")
    return files, np.array(labels, dtype=np.int64), tuple(path.name for path in classes)


def _require_class_size(
    root: Path, labels: Labels, class_names: tuple[str, ...], *, smallest: int, splits: str
) -> None:
    sizes = np.bincount(labels, minlength=len(class_names))
    for name, size in zip(class_names, sizes.tolist(), strict=True):
        if size < smallest:
            raise UsageError(
                f"class {name!r} in {root} has {size} images; {smallest} are needed to be in {splits}. "
                f"Add images or remove the class"
            )
