"""Images in one folder per class, with or without `train`, `val` and `test` folders above the classes."""

import logging
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np

from sweep.data.base import DataSet, Labels, Split
from sweep.data.files import ImageChecker, file_split, some_of, suffixes_of_others
from sweep.data.formats import HEIF_SUFFIXES, image_suffixes, is_image
from sweep.data.labels import clean_name
from sweep.data.split_names import SPLIT_NAMES, split_named
from sweep.data.splitting import split_off_val, split_three_ways
from sweep.data.walk import files_below, subfolders
from sweep.errors import UsageError

logger = logging.getLogger(__name__)

LONGEST_SHOWN = 80


def image_folder(root: Path, *, seed: int | None, checker: ImageChecker) -> DataSet:
    """Load a folder of images.

    ``root/CLASS/*`` is split into 64 / 16 / 20 % train, val and test, class by class.
    ``root/{train,val,test}/CLASS/*`` is used as given, and so are other usual names of splits, in upper or lower case.
    If ``val`` is missing, 20 % of train become val. Classes are ordered by name. Files in deeper folders belong to the
    class above them. Hidden files and folders, and files that are not images by their extension, are left out. Files
    and folders may be links that lead elsewhere, because the user chose the folder and its content.

    Args:
        root: an existing folder.
        seed: seed of the split; None to split nothing, see `sweep.data.splitting.divided`.
        checker: checks the images before they are split.

    Raises:
        UsageError: there are no images or fewer than two classes, a class is empty or too small, classes differ between
            splits, or folders may be either splits or classes.
        SweepError: a file with an image's extension is not a readable image, and bad images are errors.
    """
    splits = _split_folders(root, all_needed=seed is not None)
    if seed is None:
        return _unsplit(root, splits or {"test": root}, checker)
    if splits:
        return _given_splits(root, seed, splits, checker)
    tree = _scan(root, checker)
    parts, how = split_three_ways(tree.labels, tree.class_names, seed=seed, where=str(root), remark=checker.remark())
    train, val, test = (tree.split(name, root, part) for name, part in parts.items())
    description = f"folder {root}; {how}"
    return _data_set(root, description, [tree], train, val, test, checker)


def _split_folders(root: Path, *, all_needed: bool) -> Mapping[str, Path]:
    """The folders of splits, by the split's name; empty if the folders are classes.

    Args:
        root: The folder that has them.
        all_needed: Whether train and test have to be there.

    Raises:
        UsageError: The folders may be either.
    """
    folders = subfolders(root)
    named = [(split, folder) for folder in folders if (split := split_named(folder.name)) is not None]
    found = dict(named)
    others = [folder.name for folder in folders if split_named(folder.name) is None]
    if not found or (len(found) == 1 and others and not _has_classes(named[0][1])):
        return {}  # a class may be called train or test
    names = ", ".join(folder.name for _, folder in named)
    if others:
        raise UsageError(
            f"{root} seems to hold splits, but beside {names} it has {', '.join(others)}: name the splits train, val "
            f"and test, and move other folders away"
        )
    if len(found) < len(named):
        raise UsageError(f"{root} has {names}, two of which are the same split; keep one folder per split")
    for split in ("train", "test") if all_needed else ():
        if split not in found:
            raise UsageError(
                f"{root} has {_folders(names)} but no {split} folder: add {root / split}, or put the class folders "
                f"directly into {root}, and sweep splits them"
            )
    return found


def _folders(names: str) -> str:
    return f"the folders {names}" if "," in names else f"a {names} folder"


def _has_classes(folder: Path) -> bool:
    """Whether a folder looks like a split: it contains folders, and no images beside them."""
    return bool(subfolders(folder)) and not any(map(is_image, folder.iterdir()))


def _given_splits(root: Path, seed: int, folders: Mapping[str, Path], checker: ImageChecker) -> DataSet:
    trees = {split: _scan(folders[split], checker) for split in SPLIT_NAMES if split in folders}
    tree = trees["train"]
    for name, other in trees.items():
        if other.class_names != tree.class_names:
            missing = sorted(set(tree.class_names) - set(other.class_names))
            extra = sorted(set(other.class_names) - set(tree.class_names))
            raise UsageError(
                f"{folders[name]} has other classes than {folders['train']}: missing {missing or 'none'}, "
                f"additional {extra or 'none'}"
            )
    if "val" in trees:
        train, val = tree.split("train", root), trees["val"].split("val", root)
        description = f"folder {root}; splits as given"
    else:
        where = str(folders["train"])
        parts, how = split_off_val(tree.labels, tree.class_names, seed=seed, where=where, remark=checker.remark())
        train, val = (tree.split(name, root, part) for name, part in parts.items())
        description = f"folder {root}; {how}"
    return _data_set(root, description, list(trees.values()), train, val, trees["test"].split("test", root), checker)


def _unsplit(root: Path, folders: Mapping[str, Path], checker: ImageChecker) -> DataSet:
    """The images of every split that has a folder; a split may lack classes that another has."""
    trees = {split: _scan(folder, checker, fewest_classes=1) for split, folder in folders.items()}
    names = tuple(sorted({name for tree in trees.values() for name in tree.class_names}))
    alike = {split: tree.with_classes(names) for split, tree in trees.items()}
    nothing = replace(next(iter(alike.values())), files=(), labels=np.zeros(0, dtype=np.int64))
    train, val, test = (alike.get(name, nothing).split(name, root) for name in SPLIT_NAMES)
    return _data_set(root, f"folder {root}", list(alike.values()), train, val, test, checker)


@dataclass(frozen=True)
class _Tree:
    """Images in one folder per class.

    Attributes:
        files: usable images, class by class, in order of path.
        labels: class indices, (n,) int64.
        class_names: names of the classes, in order of label.
        left_aside: number of files, by extension, that are not images by their extension.
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

    def with_classes(self, names: tuple[str, ...]) -> "_Tree":
        """The same images with labels that refer to `names`, which must contain all their classes."""
        numbers = np.array([names.index(name) for name in self.class_names], dtype=np.int64)
        return replace(self, labels=numbers[self.labels], class_names=names)


def _data_set(
    root: Path, description: str, trees: list[_Tree], train: Split, val: Split, test: Split, checker: ImageChecker
) -> DataSet:
    left_aside: Counter[str] = sum((tree.left_aside for tree in trees), Counter())
    if left_aside:
        kinds = ", ".join(f"{count} {suffix or 'without extension'}" for suffix, count in sorted(left_aside.items()))
        hint = "; HEIC is read once the extra heic is installed" if HEIF_SUFFIXES & left_aside.keys() else ""
        logger.warning("left out of %s, because they are not images by their extension: %s%s", root, kinds, hint)
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


def _scan(folder: Path, checker: ImageChecker, fewest_classes: int = 2) -> _Tree:
    """Find and check the images below the class folders of `folder`."""
    classes = _class_folders(folder)
    if len(classes) < fewest_classes:
        raise UsageError(
            f"{folder} has {len(classes)} class folders, at least {fewest_classes} are needed: one folder for each "
            f"class, with its images in it (docs/data.md)"
        )
    found: list[Path] = []
    found_labels: list[int] = []
    left_aside: Counter[str] = Counter()
    for label, class_folders in enumerate(classes.values()):
        paths = [path for class_folder in class_folders for path in files_below(class_folder)]
        images = [path for path in paths if is_image(path)]
        found.extend(images)
        found_labels.extend([label] * len(images))
        left_aside.update(suffixes_of_others(paths))
    suffixes = ", ".join(sorted(image_suffixes()))
    if not found:
        raise UsageError(f"{folder} and its subfolders have no images; sweep looks for files ending in {suffixes}")
    readable = checker.readable(found)
    files = tuple(path for path, usable in zip(found, readable.tolist(), strict=True) if usable)
    labels = np.array(found_labels, dtype=np.int64)[readable]
    sizes = np.bincount(labels, minlength=len(classes)).tolist()
    empty = [str(class_folders[0]) for class_folders, size in zip(classes.values(), sizes, strict=True) if size == 0]
    if empty:
        what, them = ("class folder", "it") if len(empty) == 1 else ("class folders", "them")
        raise UsageError(
            f"{what} {some_of(empty)} {'has' if len(empty) == 1 else 'have'} no images ({suffixes})"
            f"{checker.remark()}; fill or remove {them}"
        )
    _warn_of_splits_below(folder, [path for class_folders in classes.values() for path in class_folders])
    return _Tree(files, labels, tuple(classes), left_aside)


def _class_folders(folder: Path) -> Mapping[str, list[Path]]:
    """The folders of each class, in order of name. A class has two if its name is there in both Unicode forms."""
    classes: dict[str, list[Path]] = {}
    for path in subfolders(folder):
        classes.setdefault(clean_name(path.name), []).append(path)
    for name, paths in classes.items():
        if len(paths) > 1:
            logger.warning(
                "%s has %d folders called %s, in two spellings of Unicode; they are one class", folder, len(paths), name
            )
    return classes


def _warn_of_splits_below(folder: Path, classes: Sequence[Path]) -> None:
    """Warn that folders that are read as classes may be splits, because all contain the same folders."""
    inner = [{path.name for path in subfolders(class_folder)} for class_folder in classes]
    if len(inner[0]) > 1 and all(names == inner[0] for names in inner):
        logger.warning(
            "all of %s in %s have the same folders in them (%s) and are read as classes; if they are splits, name them "
            "train, val and test",
            ", ".join(path.name for path in classes)[:LONGEST_SHOWN],
            folder,
            ", ".join(sorted(inner[0]))[:LONGEST_SHOWN],
        )
