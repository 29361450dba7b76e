"""Images in one folder a class, with or without `train`, `val` and `test` folders above the classes."""

import logging
from collections import Counter
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from sweep.data.base import DataSet, Labels, Split
from sweep.data.files import IMAGE_SUFFIXES, ImageChecker, file_split, is_image, suffixes_of_others
from sweep.data.splitting import SPLIT_NAMES, split_off_val, split_three_ways
from sweep.errors import UsageError

logger = logging.getLogger(__name__)


def image_folder(root: Path, *, seed: int, checker: ImageChecker) -> DataSet:
    """Load a folder of images.

    ``root/CLASS/*`` is split into 64 / 16 / 20 % train, val and test, class by class.
    ``root/{train,val,test}/CLASS/*`` is used as given; where ``val`` is missing, 20 % of train become val.
    Classes are ordered by name. Files in deeper folders belong to the class above them; hidden files and
    files that are no images by their extension are left aside. Files and class folders may be links that lead
    elsewhere: whoever gives the folder decides what is in it.

    Args:
        root: an existing folder.
        seed: seed of the splitting.
        checker: tries the images, before they are split.

    Raises:
        UsageError: no images, fewer than two classes, an empty or too small class, or classes that differ
            between splits.
        SweepError: a file with an image's extension is no readable image, and bad images are errors.
    """
    subfolders = {path.name for path in _subfolders(root)}
    if "train" in subfolders and subfolders <= set(SPLIT_NAMES):
        return _given_splits(root, seed, subfolders, checker)
    if {"train", "test"} <= subfolders:
        odd = ", ".join(sorted(subfolders - set(SPLIT_NAMES)))
        raise UsageError(
            f"{root} looks like splits, but beside {', '.join(sorted(subfolders & set(SPLIT_NAMES)))} it has {odd}: "
            f"name the splits train, val and test, and move other folders away"
        )
    tree = _scan(root, checker)
    parts, how = split_three_ways(tree.labels, tree.class_names, seed=seed, where=str(root), remark=checker.remark())
    train, val, test = (tree.split(name, root, part) for name, part in parts.items())
    description = f"folder {root}; {how}"
    return _data_set(root, description, [tree], train, val, test, checker)


def _given_splits(root: Path, seed: int, subfolders: set[str], checker: ImageChecker) -> DataSet:
    if "test" not in subfolders:
        raise UsageError(
            f"{root} has a train folder but no test folder: add {root / 'test'}, or put the class folders "
            f"straight into {root} to have them split"
        )
    trees = {name: _scan(root / name, checker) for name in SPLIT_NAMES if name in subfolders}
    tree = trees["train"]
    for name, other in trees.items():
        if other.class_names != tree.class_names:
            missing = sorted(set(tree.class_names) - set(other.class_names))
            extra = sorted(set(other.class_names) - set(tree.class_names))
            raise UsageError(
                f"{root / name} has other classes than {root / 'train'}: missing {missing or 'none'}, "
                f"only there {extra or 'none'}"
            )
    if "val" in trees:
        train, val = tree.split("train", root), trees["val"].split("val", root)
        description = f"folder {root}; splits as given"
    else:
        where = str(root / "train")
        parts, how = split_off_val(tree.labels, tree.class_names, seed=seed, where=where, remark=checker.remark())
        train, val = (tree.split(name, root, part) for name, part in parts.items())
        description = f"folder {root}; {how}"
    return _data_set(root, description, list(trees.values()), train, val, trees["test"].split("test", root), checker)


@dataclass(frozen=True)
class _Tree:
    """Images in one folder a class.

    Attributes:
        files: usable images, class by class, in order of path.
        labels: (n,) int64.
        class_names: in order of label.
        left_aside: files that are no images by their extension, counted by extension.
    """

    files: tuple[Path, ...]
    labels: Labels
    class_names: tuple[str, ...]
    left_aside: Counter[str]

    def split(self, name: str, root: Path, members: Labels | None = None) -> Split:
        """Return a split over all images, or over those at the given indices."""
        if members is None:
            return file_split(name, root, self.files, self.labels)
        return file_split(name, root, [self.files[index] for index in members], self.labels[members])


def _data_set(
    root: Path, description: str, trees: list[_Tree], train: Split, val: Split, test: Split, checker: ImageChecker
) -> DataSet:
    left_aside: Counter[str] = sum((tree.left_aside for tree in trees), Counter())
    if left_aside:
        kinds = ", ".join(f"{count} {suffix or 'without extension'}" for suffix, count in sorted(left_aside.items()))
        logger.warning("left aside in %s, no images by their extension: %s", root, kinds)
    return DataSet(
        name=root.resolve().name,
        description=description,
        class_names=trees[0].class_names,
        train=train,
        val=val,
        test=test,
        skipped=tuple(checker.skipped),
        left_aside=dict(left_aside),
    )


def _subfolders(folder: Path) -> list[Path]:
    return sorted(path for path in folder.iterdir() if path.is_dir() and not path.name.startswith("."))


def _scan(folder: Path, checker: ImageChecker) -> _Tree:
    """Find and try the images below the class folders of `folder`."""
    classes = _subfolders(folder)
    if len(classes) < 2:
        raise UsageError(
            f"{folder} has {len(classes)} class folders, at least 2 are needed: one subfolder a class, images in each"
        )
    found: list[Path] = []
    found_labels: list[int] = []
    left_aside: Counter[str] = Counter()
    for label, class_folder in enumerate(classes):
        paths = sorted(class_folder.rglob("*"))
        images = [path for path in paths if is_image(path)]
        found.extend(images)
        found_labels.extend([label] * len(images))
        left_aside.update(suffixes_of_others(paths))
    suffixes = ", ".join(sorted(IMAGE_SUFFIXES))
    if not found:
        raise UsageError(f"no images below {folder}: files ending in {suffixes} are looked for")
    readable = checker.readable(found)
    files = tuple(path for path, usable in zip(found, readable.tolist(), strict=True) if usable)
    labels = np.array(found_labels, dtype=np.int64)[readable]
    for class_folder, size in zip(classes, np.bincount(labels, minlength=len(classes)).tolist(), strict=True):
        if size == 0:
            raise UsageError(
                f"class folder {class_folder} has no images ({suffixes}){checker.remark()}; fill or remove it"
            )
    return _Tree(files, labels, tuple(path.name for path in classes), left_aside)
