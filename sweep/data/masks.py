"""Masks: images whose values are the classes of another image's pixels."""

import logging
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
from PIL import Image

from sweep.data.base import Labels
from sweep.data.decoding import UnreadableImageError, unreadable
from sweep.errors import UsageError
from sweep.tasks.label_maps import IGNORED, MOST_CLASSES

logger = logging.getLogger(__name__)

DECODING_THREADS = 4
GREY_MODES = ("L", "P", "1")
WIDE_MODES = ("I", "I;16", "I;16L", "I;16B")
NO_LABEL = f"a value from 0 to {MOST_CLASSES - 1} for each class, {IGNORED} where a pixel has no label"


def decode_mask(path: Path) -> Image.Image:
    """Read a mask: grey values, or the indices of a palette.

    Returns:
        An image of mode L.

    Raises:
        UnreadableImageError: The file cannot be read, or has colours instead of labels.
    """
    try:
        with Image.open(path) as image:
            image.load()
            mode, values = image.mode, np.array(image)
    except Exception as error:  # Pillow's readers answer damage with errors of a dozen types
        raise unreadable(path, error) from error
    if mode not in GREY_MODES + WIDE_MODES:
        raise UnreadableImageError(
            str(path), f"it has colours (mode {mode}), and a mask has {NO_LABEL}; save it as a grey or palette PNG"
        )
    if mode in WIDE_MODES and not (int(values.min()) >= 0 and int(values.max()) <= IGNORED):
        raise UnreadableImageError(
            str(path), f"it has values from {values.min()} to {values.max()}, and a mask has {NO_LABEL}"
        )
    return Image.fromarray(values.astype(np.uint8))


def counted_pixels(n_images: int, mask_of: Callable[[int], Image.Image]) -> Labels:
    """Number of pixels of every value in each mask, (n, 256), read in several threads."""

    def count(index: int) -> Labels:
        return np.bincount(np.asarray(mask_of(index)).ravel(), minlength=IGNORED + 1)

    with ThreadPoolExecutor(DECODING_THREADS, thread_name_prefix="masks") as pool:
        counts = list(pool.map(count, range(n_images)))
    return np.stack(counts) if counts else np.zeros((0, IGNORED + 1), dtype=np.int64)


def require_classes(counts: Labels, class_names: Sequence[str], where: Callable[[int], str]) -> Labels:
    """The columns of `counted_pixels` that are of classes, (n, C).

    Args:
        counts: The result of `counted_pixels`.
        class_names: The `C` names of the classes.
        where: Describes the mask with an index, for messages.

    Raises:
        UsageError: A mask has a value that is no class, or no pixel with a label.
    """
    n_classes = len(class_names)
    for index in np.flatnonzero(counts[:, n_classes:IGNORED].any(1)).tolist():
        value = n_classes + int(np.flatnonzero(counts[index, n_classes:IGNORED])[0])
        raise UsageError(
            f"{where(index)} has the value {value}, but there are {n_classes} classes, 0 to {n_classes - 1}; "
            f"a mask has {NO_LABEL}"
        )
    for index in np.flatnonzero(~counts[:, :n_classes].any(1)).tolist():
        raise UsageError(f"no pixel of {where(index)} has a label: all are {IGNORED}; leave the image and its mask out")
    return counts[:, :n_classes]


def warn_of_unseen(root: Path, names: Sequence[str], labels: Labels) -> None:
    """Warn of classes without a pixel in the training masks of a folder, which have `labels` pixels of each, (n, C)."""
    unseen = [names[number] for number in np.flatnonzero(labels.sum(0) == 0).tolist()]
    if unseen:
        logger.warning("no train mask of %s has a pixel of %s, so it cannot be learned", root, ", ".join(unseen[:12]))
