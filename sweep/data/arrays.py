"""NumPy archives (`.npz`): images as an array of bytes beside an array of labels."""

import hashlib
import logging
import re
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any
from zipfile import is_zipfile

import numpy as np
import numpy.typing as npt
from PIL import Image

from sweep.data.base import DataSet, Indices, Split, digest_of
from sweep.data.files import ImageChecker
from sweep.data.labels import labelled_by_array
from sweep.data.split_names import SPLIT_NAMES, split_named
from sweep.data.splitting import divided
from sweep.errors import SweepError, UsageError

logger = logging.getLogger(__name__)

WHOLE = "all"
"""The key of arrays that are not split yet."""
IMAGES, LABELS = "images", "labels"
NAMES = re.compile(r"(?P<before>\w+)_(?P<what>images|labels)|(?P<letter>[xy])_(?P<after>\w+)")
"""Names of the arrays of a split, in upper or lower case: those of MedMNIST's files, or those of Keras."""
NEEDED = (
    "give images and labels, which sweep then splits at random, or train_images, train_labels, test_images and "
    "test_labels (x_train, y_train, … are accepted too) and, if you have them, val_images and val_labels"
)

Array = npt.NDArray[Any]


def array_file(path: Path, *, seed: int | None, checker: ImageChecker, task: str | None = None) -> DataSet:
    """Load an archive of arrays into memory.

    Images are 8-bit grey `(n, H, W)` or RGB `(n, H, W, 3)`. Labels are whole numbers or text, `(n,)` or `(n, 1)`; or
    0 and 1, `(n, C)`; or floats, `(n,)` or `(n, C)`. Nothing in the file is unpickled.

    Args:
        path: `*.npz`.
        seed: seed of the split, if the arrays are not split or have no val.
        checker: not used: single images of an array cannot be unreadable.
        task: kind of task; if not given, the labels decide.

    Raises:
        UsageError: an array is missing, has the wrong shape or type, or is too large for the memory.
        SweepError: the file is damaged.
    """
    parts = _read_parts(path)
    images: list[npt.NDArray[np.uint8]] = []
    values: list[Array] = []
    given: list[str] = []
    for split, (image_name, label_name, of_split, of_labels) in parts.items():
        images.append(_checked_images(path, image_name, of_split))
        values.append(_checked_labels(path, label_name, of_labels, image_name, len(of_split)))
        given += [split] * len(of_split)
    shapes = {of_labels.shape[1:] for of_labels in values}
    if len(shapes) > 1 or len({of_labels.dtype.kind in "fc" for of_labels in values}) > 1:
        raise UsageError(f"the label arrays of {path} are of several kinds; give all splits the same kind")
    found = labelled_by_array(np.concatenate(values), task, f"{next(iter(parts.values()))[1]} of {path}")
    labels, class_names = found.labels, found.names
    starts = np.cumsum([0, *(len(part) for part in images)])

    def image(index: int) -> npt.NDArray[np.uint8]:
        part = int(np.searchsorted(starts, index, side="right")) - 1
        found: npt.NDArray[np.uint8] = images[part][index - starts[part]]
        return found

    def split_of(name: str, members: Indices) -> Split:
        def fingerprint() -> str:
            rows = (part for index in members.tolist() for part in (repr(image(index).shape), image(index).tobytes()))
            return digest_of(["arrays", labels[members].tobytes(), *class_names, *rows])

        def digest(index: int) -> str:
            pixels = image(index)
            return hashlib.sha256(repr(pixels.shape).encode() + pixels.tobytes()).hexdigest()

        return Split(
            name,
            labels[members],
            lambda index: Image.fromarray(image(int(members[index]))),
            fingerprint,
            lambda index: f"image {members[index]} of {path}",
            digester=lambda: [digest(index) for index in members.tolist()],
        )

    return divided(
        labels,
        class_names,
        None if WHOLE in parts else given,
        split_of,
        name=path.stem,
        what=f"arrays of {path}",
        seed=seed,
        checker=checker,
        task=found.task,
    )


def _read_parts(path: Path) -> Mapping[str, tuple[str, str, Array, Array]]:
    """By split (or `"all"` for one that is still to be split) the names and contents of its two arrays."""
    import torch

    from sweep.machine.memory import available_bytes

    try:
        if not is_zipfile(path):  # NumPy would take it for a pickle, and advise to unpickle it
            raise ValueError("it is not an archive of arrays")
        with path.open("rb") as file, np.load(file, allow_pickle=False) as archive:
            present = sorted(archive.files)
            found = _found(path, present)
            if left := sorted(set(present) - {name for pair in found.values() for name in pair}):
                logger.warning("not used in %s: the arrays %s", path, _shown(left))
            n_left = available_bytes(torch.device("cpu"))
            n_bytes = sum(archive.zip.getinfo(f"{name}.npy").file_size for pair in found.values() for name in pair)
            if n_bytes > n_left:
                raise UsageError(
                    f"{path} unpacks to {n_bytes / 2**30:.1f} GiB, more than the memory that is left; save the images "
                    f"as files, one folder per class"
                )
            return {
                split: (images, labels, _array(archive, images), _array(archive, labels))
                for split, (images, labels) in found.items()
            }
    except UsageError:
        raise
    except Exception as error:  # the reader answers damage with errors of a dozen types
        raise SweepError(f"cannot read {path}: {error}; save the arrays again with numpy.savez") from error


def _found(path: Path, present: Sequence[str]) -> Mapping[str, tuple[str, str]]:
    """By split (or `"all"`) the names of its images and labels.

    Raises:
        UsageError: An array is missing, or two arrays are the same part of a split.
    """
    roles: dict[tuple[str, str], str] = {}
    for name in present:
        role = _role(name)
        if role in roles:
            raise UsageError(f"{path} has both {roles[role]} and {name}; keep one of them, or rename the other")
        if role is not None:
            roles[role] = name
    splits = [split for split in SPLIT_NAMES if (split, IMAGES) in roles or (split, LABELS) in roles]
    splits = splits or [WHOLE] * ((WHOLE, IMAGES) in roles)
    if not splits:
        raise UsageError(f"{path} has no images (its arrays: {_shown(present)}); {NEEDED}")
    for split in splits:
        for what in (IMAGES, LABELS):
            if (split, what) not in roles:
                missing = what if split == WHOLE else f"{split}_{what}"
                raise UsageError(f"{path} has no array {missing} (its arrays: {_shown(present)}); {NEEDED}")
    return {split: (roles[split, IMAGES], roles[split, LABELS]) for split in splits}


def _role(name: str) -> tuple[str, str] | None:
    """The split that an array belongs to, and whether it has its images or labels; None of other arrays."""
    folded = name.casefold()
    if folded in (IMAGES, LABELS):
        return WHOLE, folded
    match = NAMES.fullmatch(folded)
    if match is None:
        return None
    split = split_named(match["before"] or match["after"])
    what = match["what"] or (IMAGES if match["letter"] == "x" else LABELS)
    return None if split is None else (split, what)


def _array(archive: Mapping[str, Any], name: str) -> Array:
    array = archive[name]
    if not isinstance(array, np.ndarray):  # numpy gives the bytes of what is no array
        raise ValueError(f"{name} is not an array")
    return array


def _checked_images(path: Path, name: str, images: Array) -> npt.NDArray[np.uint8]:
    """The array itself, colour channels of one squeezed; `UsageError` where it cannot be images."""
    if images.dtype != np.uint8:
        raise UsageError(f"{name} of {path} holds {images.dtype}; images are uint8, 0 to 255: convert and save again")
    if images.ndim == 4 and images.shape[3] == 1:
        images = images[..., 0]
    if not (images.ndim == 3 or (images.ndim == 4 and images.shape[3] == 3)) or not all(images.shape):
        raise UsageError(
            f"{name} of {path} has shape {images.shape}; it should be (n, height, width) for grey or "
            f"(n, height, width, 3) for RGB"
        )
    return images


def _checked_labels(path: Path, name: str, labels: Array, image_name: str, n_images: int) -> Array:
    """The array itself, one column squeezed; `UsageError` where it cannot be labels of so many images."""
    if labels.ndim == 2 and labels.shape[1] == 1:
        labels = labels[:, 0]
    if labels.dtype.kind == "u" and labels.max(initial=0) <= np.iinfo(np.int64).max:
        labels = labels.astype(np.int64)  # beside int64, uint64 would become float64
    if labels.dtype.kind not in "biufU":
        raise UsageError(f"{name} of {path} holds {labels.dtype}; labels are numbers or text")
    if labels.ndim not in (1, 2) or len(labels) != n_images or not all(labels.shape):
        raise UsageError(f"{name} of {path} has shape {labels.shape}, but {image_name} has {n_images} images")
    return labels


def _shown(names: Sequence[str]) -> str:
    return ", ".join(names)[:80] or "none"
