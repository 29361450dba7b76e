"""A folder of images and masks: `images/` and `masks/`, with or without `train`, `val` and `test` folders."""

import logging
from collections.abc import Mapping
from dataclasses import replace
from functools import cache
from hashlib import sha256
from pathlib import Path

import numpy as np

from sweep.data.base import DataSet, Indices, Labels, Split, digest_of
from sweep.data.decoding import UnreadableImageError, unreadable, upright_size
from sweep.data.files import ImageChecker, file_split
from sweep.data.formats import is_image
from sweep.data.labels import NAMES_FILE, named_in
from sweep.data.masks import NO_LABEL, decode_mask, require_classes, warn_of_unseen
from sweep.data.split_names import SPLIT_NAMES, split_named
from sweep.data.splitting import divided
from sweep.data.walk import files_below, subfolders
from sweep.errors import UsageError
from sweep.tasks.kinds import SEGMENTATION
from sweep.tasks.label_maps import IGNORED

logger = logging.getLogger(__name__)

IMAGES, MASKS = "images", "masks"
MASK_SUFFIXES = (".png", ".bmp", ".gif", ".tif", ".tiff")
"""Formats that keep every value as it was saved."""


def is_mask_folder(folder: Path) -> bool:
    """Whether a folder, or every split in it, has the folders `images` and `masks`."""
    splits = [inner for inner in subfolders(folder) if split_named(inner.name) is not None]
    return all(map(_has_both, splits)) if splits else _has_both(folder)


def mask_folder(root: Path, *, seed: int | None, checker: ImageChecker) -> DataSet:
    """Load a folder of images and masks.

    ``root/images/NAME.jpg`` belongs to ``root/masks/NAME.png``; the images are split 64 / 16 / 20 %. Both folders may
    have the same subfolders. If these are ``train``, ``val`` and ``test``, or if ``images`` and ``masks`` lie in such
    folders, the splits are used as given; without ``val``, 20 % of train become val. ``root/classes.txt`` may have the
    names of the classes, one per line.

    Args:
        root: an existing folder.
        seed: seed of the split; None to split nothing, see `sweep.data.splitting.divided`.
        checker: checks the images and masks before they are split.

    Raises:
        UsageError: an image has no mask, there are fewer than two classes, a mask has a value that is no class, or a
            split is missing.
        SweepError: an image or a mask cannot be used, and bad images are errors.
    """
    pairs, given = _pairs(root)
    kept, counts = _usable(pairs, checker)
    if not kept:
        raise UsageError(f"no image of {root} can be used{checker.remark()}")
    names = _class_names(root, counts)

    def where(index: int) -> str:
        return f"the mask {pairs[kept[index]][1]}"

    labels = require_classes(counts, names, where)

    def split_of(name: str, members: Indices) -> Split:
        own = [pairs[kept[index]] for index in members.tolist()]
        if name == "train" and own:
            warn_of_unseen(root, names, labels[members])
        return _split(name, root, own, labels[members])

    return divided(
        labels,
        names,
        None if given is None else [given[index] for index in kept],
        split_of,
        name=root.resolve().name,
        what=f"folder {root}",
        seed=seed,
        checker=checker,
        task=SEGMENTATION.name,
    )


def _has_both(folder: Path) -> bool:
    return (folder / IMAGES).is_dir() and (folder / MASKS).is_dir()


Pair = tuple[Path, Path]
"""An image and its mask."""


def _pairs(root: Path) -> tuple[list[Pair], list[str] | None]:
    """All images with their masks, and their splits if they have any."""
    splits = {split: folder for folder in subfolders(root) if (split := split_named(folder.name)) is not None}
    if splits:
        found = {split: _matched(folder) for split, folder in splits.items()}
        ordered = [(split, pair) for split in SPLIT_NAMES for pair in found.get(split, {}).values()]
        return [pair for _, pair in ordered], [split for split, _ in ordered]
    matched = _matched(root)
    of_images = [split_named(name.parts[0]) if len(name.parts) > 1 else None for name in matched]
    if all(split is not None for split in of_images):
        return list(matched.values()), [str(split) for split in of_images]
    return list(matched.values()), None


def _matched(folder: Path) -> Mapping[Path, Pair]:
    """The images below `folder/images` with their masks, by their paths without extension."""
    images = {_name(path, folder / IMAGES): path for path in files_below(folder / IMAGES) if is_image(path)}
    in_masks = files_below(folder / MASKS)
    masks = {_name(path, folder / MASKS): path for path in in_masks if path.suffix.lower() in MASK_SUFFIXES}
    if not images:
        raise UsageError(f"{folder / IMAGES} has no images")
    if lacking := [name for name in images if name not in masks]:
        raise UsageError(
            f"{len(lacking)} of {len(images)} images in {folder / IMAGES} have no mask, such as {images[lacking[0]]}; "
            f"put it at {folder / MASKS / lacking[0]}.png ({', '.join(MASK_SUFFIXES)} are read)"
        )
    if left_over := len(masks.keys() - images.keys()):
        logger.warning("%d masks in %s have no image of their name and are left out", left_over, folder / MASKS)
    return {name: (path, masks[name]) for name, path in images.items()}


def _name(path: Path, folder: Path) -> Path:
    return path.relative_to(folder).with_suffix("")


def _usable(pairs: list[Pair], checker: ImageChecker) -> tuple[list[int], Labels]:
    """Indices of the pairs that can be used, and the number of pixels of every value in their masks, (n, 256)."""
    readable = np.flatnonzero(checker.readable([image for image, _ in pairs])).tolist()
    counts = np.zeros((len(readable), IGNORED + 1), dtype=np.int64)

    def check(index: int) -> None:
        image, path = pairs[readable[index]]
        mask, size = decode_mask(path), upright_size(image)
        if mask.size != size:
            (width, height), (own_width, own_height) = size, mask.size
            raise UnreadableImageError(
                str(path), f"it has {own_width} x {own_height} pixels, but its image {image} has {width} x {height}"
            )
        counts[index] = np.bincount(np.asarray(mask).ravel(), minlength=IGNORED + 1)

    usable = checker.usable(len(readable), check)
    return [readable[index] for index in np.flatnonzero(usable).tolist()], counts[usable]


def _class_names(root: Path, counts: Labels) -> tuple[str, ...]:
    """The names in `classes.txt`, or the numbers of the classes."""
    if (names := named_in(root / NAMES_FILE, at_least=2)) is not None:
        return names
    there = np.flatnonzero(counts[:, :IGNORED].any(0))
    n_classes = int(there.max(initial=-1)) + 1
    if n_classes < 2:
        binary = " If 255 stands for a class, save it as 1" if counts[:, IGNORED].any() else ""
        raise UsageError(f"the masks of {root} have fewer than two classes: a mask has {NO_LABEL}.{binary}")
    return tuple(map(str, range(n_classes)))


def _split(name: str, root: Path, pairs: list[Pair], labels: Labels) -> Split:
    images = file_split(name, root, [image for image, _ in pairs], labels)

    @cache
    def of_masks() -> list[str]:
        return [sha256(_read(mask)).hexdigest() for _, mask in pairs]

    return replace(
        images,
        fingerprinter=lambda: digest_of(["masks", images.fingerprint, *of_masks()]),
        masks=lambda index: decode_mask(pairs[index][1]),
    )


def _read(path: Path) -> bytes:
    try:
        return path.read_bytes()
    except OSError as error:
        raise unreadable(path, error) from error
