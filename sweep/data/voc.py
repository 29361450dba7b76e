"""Folders in the layout of Pascal VOC: `JPEGImages`, `Annotations` with an XML file per image, and lists of splits."""

from collections.abc import Callable, Collection, Mapping
from itertools import combinations
from pathlib import Path
from typing import NoReturn
from xml.etree import ElementTree

from sweep.data.annotated import AnnotatedBox, AnnotatedImage, annotated_data
from sweep.data.base import DataSet
from sweep.data.decoding import UnreadableImageError, unreadable
from sweep.data.files import ImageChecker
from sweep.data.formats import image_suffixes, is_image
from sweep.data.labels import NAMES_FILE, clean_name, named_in, ordered_names
from sweep.data.split_names import SPLIT_NAMES, split_named
from sweep.data.walk import files_below
from sweep.errors import UsageError

IMAGES, ANNOTATIONS, LISTS = "JPEGImages", "Annotations", Path("ImageSets") / "Main"
SUFFIX, LIST_SUFFIX = ".xml", ".txt"
TRAIN_AND_VAL = "trainval"
SIDES = ("xmin", "ymin", "xmax", "ymax")
LONGEST_SHOWN = 40

BYTES_AT_A_TIME = 1024
"""A document type is refused before more than this is read behind it."""


def is_voc_folder(folder: Path) -> bool:
    """Whether a folder has the folders `JPEGImages` and `Annotations`."""
    return (folder / IMAGES).is_dir() and (folder / ANNOTATIONS).is_dir()


def voc_folder(root: Path, *, seed: int | None, checker: ImageChecker) -> DataSet:
    """Load a folder in the layout of Pascal VOC.

    ``root/JPEGImages/NAME.jpg`` belongs to ``root/Annotations/NAME.xml``; the file name that is written in the XML is
    not used. ``root/ImageSets/Main/train.txt``, ``val.txt`` and ``test.txt`` list the names of each split. Without
    ``val`` in any of them, 20 % of train become val; without lists, the images are split 64 / 16 / 20 %.
    ``root/classes.txt`` may have the names of the classes in order; without it they are ordered by name.

    Args:
        root: an existing folder.
        seed: seed of the split; None to split nothing, see `sweep.data.splitting.divided`.
        checker: checks the images and annotations before they are split.

    Raises:
        UsageError: an image has no annotation, a list names one that is not there or is in another list, or as
            `annotated_data`.
        SweepError: an annotation cannot be read, or as `annotated_data`.
    """
    images, annotations = _by_name(root / IMAGES, is_image), _by_name(root / ANNOTATIONS, _is_annotation)
    if not images:
        raise UsageError(f"{root / IMAGES} has no images")
    lists = _lists(root / LISTS, images.keys() | annotations.keys())
    wanted: list[tuple[str, str | None]] = [(name, split) for split, names in lists.items() for name in names]
    if not lists:
        wanted = [(name, None) for name in sorted(images.keys() | annotations.keys())]
    lacking = [name for name, _ in wanted if name not in annotations]
    if lacking:
        raise UsageError(
            f"{len(lacking)} of {len(wanted)} images in {root / IMAGES} have no annotation, such as "
            f"{images.get(lacking[0], lacking[0])}; put it at {root / ANNOTATIONS / lacking[0]}{SUFFIX}, without any "
            f"<object> if there is nothing to find, or drop the image"
        )
    found: list[AnnotatedImage | None] = [None] * len(wanted)

    def read(index: int) -> None:
        name, split = wanted[index]
        image = images.get(name, root / IMAGES / f"{name}.jpg")
        found[index] = _annotated(annotations[name], image, split)

    checker.usable(len(wanted), read)
    kept = [image for image in found if image is not None]
    names = named_in(root / NAMES_FILE, at_least=1) or ordered_names(
        [box.name for image in kept for box in image.boxes]
    )
    return annotated_data(root, kept, names, seed=seed, checker=checker)


def _is_annotation(path: Path) -> bool:
    return path.suffix.lower() == SUFFIX


def _by_name(folder: Path, wanted: Callable[[Path], bool]) -> dict[str, Path]:
    """Files by their path below the folder, without extension."""
    found: dict[str, Path] = {}
    for path in files_below(folder):
        if wanted(path):
            name = path.relative_to(folder).with_suffix("").as_posix()
            if name in found:
                raise UsageError(f"{found[name]} and {path} have the same name, so annotations cannot tell them apart")
            found[name] = path
    return found


def _lists(folder: Path, known: Collection[str]) -> Mapping[str, list[str]]:
    """Names of images by split, from the lists of splits; empty if there are none."""
    files = files_below(folder) if folder.is_dir() else []
    paths = {path.stem.casefold(): path for path in files if path.suffix.lower() == LIST_SUFFIX}
    of_splits: dict[str, Path] = {}
    for stem, path in paths.items():
        split = split_named(stem)
        if split in of_splits:
            raise UsageError(f"{of_splits[split]} and {path} are the same split; keep one of them")
        if split is not None:
            of_splits[split] = path
    if TRAIN_AND_VAL in paths and not of_splits.keys() & {"train", "val"}:
        of_splits["train"] = paths[TRAIN_AND_VAL]
    lists = {split: _listed(of_splits[split], known) for split in SPLIT_NAMES if split in of_splits}
    for first, second in combinations(lists, 2):
        if shared := set(lists[first]) & set(lists[second]):
            raise UsageError(
                f"{of_splits[first]} and {of_splits[second]} both list {min(shared)}; splits must not share images"
            )
    return lists


def _listed(path: Path, known: Collection[str]) -> list[str]:
    """The names in a list, each of which is among `known`. A name may have the extension of its image."""
    try:
        lines = path.read_text(encoding="utf-8-sig").splitlines()
    except (OSError, UnicodeDecodeError) as error:
        raise UsageError(f"cannot read {path}: {error}; save it as UTF-8, one name per line") from error
    first_line: dict[str, int] = {}
    for number, line in enumerate(lines, start=1):
        written = line.strip()
        if not written:
            continue
        of_image = written not in known and Path(written).suffix.lower() in image_suffixes()
        name = written.rpartition(".")[0] if of_image else written
        if name not in known:
            raise UsageError(
                f"{path}:{number}: {written[:LONGEST_SHOWN]!r} is neither in {IMAGES} nor in {ANNOTATIONS}; correct "
                f"the name, or drop the line"
            )
        if name in first_line:
            raise UsageError(f"{path}:{number}: {name} was listed before, in line {first_line[name]}; drop one of them")
        first_line[name] = number
    return list(first_line)


class _Tree(ElementTree.TreeBuilder):
    """Refuses a document type, because entities that it declares could expand without end or name other files."""

    def doctype(self, name: str, public_id: str | None, system: str | None) -> NoReturn:
        raise ValueError("it has a document type (<!DOCTYPE …>), which annotations do not need; remove it")


def _annotated(path: Path, image: Path, split: str | None) -> AnnotatedImage:
    """Read one annotation file.

    Raises:
        UnreadableImageError: It is not one.
    """
    parser = ElementTree.XMLParser(target=_Tree())
    try:
        with path.open("rb") as file:
            while part := file.read(BYTES_AT_A_TIME):
                parser.feed(part)
        root: ElementTree.Element = parser.close()
    except ElementTree.ParseError as error:
        raise UnreadableImageError(str(path), f"it is not valid XML: {error}") from error
    except (OSError, ValueError, LookupError) as error:  # encodings that Python does not know
        raise unreadable(path, error) from error
    boxes = [_box(path, number, element) for number, element in enumerate(root.findall("object"), start=1)]
    width, height = (_size(root, side) for side in ("width", "height"))
    return AnnotatedImage(image, str(path), (width, height) if width and height else None, boxes, split)


def _size(root: ElementTree.Element, side: str) -> int:
    """A side of the image in pixels; 0 if the file does not say it, as some tools write."""
    text = (root.findtext(f"size/{side}") or "").strip()
    return int(text) if text.isascii() and text.isdigit() and len(text) < 10 else 0


def _box(path: Path, number: int, element: ElementTree.Element) -> AnnotatedBox:
    what, name = f"object {number}", clean_name(element.findtext("name") or "")
    if not name:
        raise UnreadableImageError(str(path), f"{what} has no <name>")
    corners = [_corner(path, f"{what} ({name})", side, element.findtext(f"bndbox/{side}")) for side in SIDES]
    left, top, right, bottom = corners
    ignored = (element.findtext("difficult") or "").strip() == "1"
    return AnnotatedBox(name, (left, top, right, bottom), ignored, what)


def _corner(path: Path, what: str, side: str, text: str | None) -> float:
    if text is None:
        raise UnreadableImageError(str(path), f"{what} has no <{side}> in a <bndbox>")
    try:
        return float(text)
    except ValueError as error:
        shown = text.strip()[:LONGEST_SHOWN]
        raise UnreadableImageError(str(path), f"<{side}> of {what} is {shown!r}, not a number") from error
