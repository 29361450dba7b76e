"""Image files on disk: checks them before they are split, computes fingerprints, and keeps paths in their folder."""

import logging
import os
import warnings
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from functools import cache
from hashlib import sha256
from pathlib import Path
from typing import Literal, get_args

import numpy as np
import numpy.typing as npt

from sweep.data.base import AnyLabels, SkippedBox, SkippedImage, SkippedObject, Split, digest_of
from sweep.data.decoding import ImageFile, UnreadableImageError, check_header, decode, unreadable
from sweep.data.formats import image_suffixes
from sweep.errors import SweepError, UsageError

logger = logging.getLogger(__name__)

DECODING_THREADS = 4
MOST_SHOWN = 20
"""Number of images or classes that one message names."""

OnBadImage = Literal["error", "skip"]


class ImageChecker:
    """Checks image files before they are split, so that bad ones are named or left out before anything is computed.

    With `"error"` only headers are read, which is fast. Damage after the header is then found by the feature pass. With
    `"skip"` every file is decoded once, since splits and fingerprints depend on which files are left.

    Attributes:
        skipped: The files left out so far.
    """

    def __init__(self, on_bad_image: OnBadImage) -> None:
        """Set what to do with a bad image.

        Raises:
            UsageError: It is neither `"error"` nor `"skip"`.
        """
        if on_bad_image not in get_args(OnBadImage):
            raise UsageError(f"--on-bad-image must be error or skip, not {on_bad_image!r}")
        self.skipped: list[SkippedImage] = []
        self._skip = on_bad_image == "skip"

    def readable(self, files: Sequence[ImageFile]) -> npt.NDArray[np.bool_]:
        """Return which of `files` can be used, `(n,)`. The others are logged and recorded.

        Raises:
            SweepError: Files cannot be used, and bad images are errors; the message lists them.
        """
        check = decode if self._skip else check_header
        if self._skip:
            logger.info("decoding %d images once, to find those that cannot be read", len(files))
        with warnings.catch_warnings():  # not in the threads, because filters hold for the whole process
            warnings.simplefilter("ignore", UserWarning)  # remarks on damaged metadata
            return self.usable(len(files), lambda index: check(files[index]))

    def usable(self, n_images: int, check: Callable[[int], object]) -> npt.NDArray[np.bool_]:
        """Return which images can be used, `(n,)`, wherever they are stored.

        Args:
            n_images: Number of images.
            check: Raises `UnreadableImageError` if the image with an index cannot be used. It is called once for each
                image, in several threads.

        Raises:
            SweepError: Images cannot be used, and bad images are errors; the message lists them.
        """

        def error_of(index: int) -> UnreadableImageError | None:
            try:
                check(index)
            except UnreadableImageError as error:
                return error
            return None

        with ThreadPoolExecutor(DECODING_THREADS, thread_name_prefix="check") as pool:
            errors = list(pool.map(error_of, range(n_images)))
        self.leave_out([error for error in errors if error is not None])
        return np.array([error is None for error in errors], dtype=np.bool_)

    def leave_out(self, found: Sequence[UnreadableImageError]) -> None:
        """Log and record what cannot be used.

        Args:
            found: Why, for each; all of them are images, all are boxes, or all are objects with masks.

        Raises:
            SweepError: There are any, and bad images are errors; the message lists them.
        """
        if found and not self._skip:
            raise listed(found)
        for error in found:
            logger.warning("skipped: %s: %s", error.name, error.reason)
            kinds = ((UnusableBoxError, SkippedBox), (UnusableObjectError, SkippedObject))
            skipped = next((skipped for kind, skipped in kinds if isinstance(error, kind)), SkippedImage)
            self.skipped.append(skipped(error.name, error.reason))

    def remark(self) -> str:
        """The text to add to a message about too few images."""
        were = "was" if len(self.skipped) == 1 else "were"
        return f" ({what_was_skipped(self.skipped)} {were} skipped)" if self.skipped else ""


class UnusableObjectError(UnreadableImageError):
    """An object that cannot be used, of an image that can.

    Attributes:
        name: The annotation file.
        reason: Which object it is, and why it cannot be used.
    """

    one, many = "object", "objects"

    def __init__(self, name: str, reason: str) -> None:
        SweepError.__init__(
            self, f"{name}: {reason}. Correct or remove the {self.one}, or leave it out with --on-bad-image skip"
        )
        self.name, self.reason = name, reason


class UnusableBoxError(UnusableObjectError):
    """A box that cannot be used, of an image that can."""

    one, many = "box", "boxes"


def what_was_skipped(skipped: Sequence[SkippedImage]) -> str:
    """What was left out, such as `3 unreadable images and 2 boxes`."""
    n_boxes, n_objects = (sum(type(left_out) is kind for left_out in skipped) for kind in (SkippedBox, SkippedObject))
    counts = {
        ("unreadable image", "unreadable images"): len(skipped) - n_boxes - n_objects,
        (UnusableBoxError.one, UnusableBoxError.many): n_boxes,
        (UnusableObjectError.one, UnusableObjectError.many): n_objects,
    }
    return " and ".join(f"{count} {one if count == 1 else many}" for (one, many), count in counts.items() if count)


def some_of(names: Sequence[str]) -> str:
    """Names for a message, as many as it may have: `a, b and 3 more`."""
    more = f" and {len(names) - MOST_SHOWN} more" if len(names) > MOST_SHOWN else ""
    return ", ".join(names[:MOST_SHOWN]) + more


def file_split(name: str, root: Path, files: Sequence[Path], labels: AnyLabels) -> Split:
    """Return a split over image files that were checked; their pixels are read when they are opened.

    Args:
        name: name of the split.
        root: folder that the fingerprint's paths are relative to.
        files: image files below `root`, in order.
        labels: see `Split`.
    """
    kept = tuple(files)

    @cache
    def contents() -> list[tuple[int, str]]:
        return [(len(content), sha256(content).hexdigest()) for content in map(_read, kept)]

    def fingerprint() -> str:
        rows = [
            f"{path.relative_to(root).as_posix()}\n{n_bytes}\n{digest}\n{label}"
            for path, label, (n_bytes, digest) in zip(kept, labels.tolist(), contents(), strict=True)
        ]
        return digest_of(["files", *rows])

    return Split(
        name,
        labels,
        lambda index: decode(kept[index]),
        fingerprint,
        lambda index: str(kept[index]),
        digester=lambda: [digest for _, digest in contents()],
    )


def listed(errors: Sequence[UnreadableImageError]) -> SweepError:
    """One error that names the first few of several images, and says how many there are."""
    if len(errors) == 1:
        return errors[0]
    lines = [f"  {error.name}: {error.reason}" for error in errors[:MOST_SHOWN]]
    if len(errors) > MOST_SHOWN:
        lines.append(f"  and {len(errors) - MOST_SHOWN} more")
    shown = "\n".join(lines)
    if isinstance(errors[0], UnusableObjectError):
        return SweepError(
            f"cannot use {len(errors)} {errors[0].many}:\n{shown}\nCorrect or remove them, or leave them out with "
            f"--on-bad-image skip"
        )
    return SweepError(
        f"cannot read {len(errors)} images:\n{shown}\nReplace or remove them, or leave them out with "
        f"--on-bad-image skip"
    )


def all_unreadable(split: Split, first: UnreadableImageError) -> SweepError:
    """After one image could not be read, decode all images of the split, and name all that cannot be read.

    Args:
        split: The images.
        first: The error of the first one.
    """
    logger.info("an image cannot be read; decoding all %d of split %r, to name all such", split.n_images, split.name)

    def error_of(index: int) -> UnreadableImageError | None:
        try:
            split.open(index)
        except UnreadableImageError as error:
            return error
        return None

    with ThreadPoolExecutor(DECODING_THREADS, thread_name_prefix="check") as pool:
        found = [error for error in pool.map(error_of, range(split.n_images)) if error is not None]
    return listed(found or [first])


def inside(folder: Path, image: str, where: str, remedy: str = "give a path relative to it") -> Path:
    """Return the file that a list names, after checking that it exists and is in `folder` once links are resolved.

    Args:
        folder: Folder that the list's paths are relative to.
        image: A path from the list; absolute paths to files in the folder are allowed.
        where: The list and the line, for messages.
        remedy: What to do about a path that leads elsewhere, for messages.

    Returns:
        The file's path, beginning with `folder`.

    Raises:
        UsageError: The file does not exist, or is outside the folder.
    """
    below = _relative(folder, os.path.normpath(image))
    if below is None:
        raise UsageError(f"{where}: {image} leads out of the folder {folder}; {remedy}")
    target = folder / below
    if not os.path.isfile(target):
        raise UsageError(f"{where}: {target} does not exist; put the image there or drop the line")
    real = Path(os.path.realpath(target))
    if not real.is_relative_to(folder.resolve()):
        raise UsageError(
            f"{where}: {image} is behind a link that leads out of the folder {folder}, to {real}. "
            f"Put the images into the folder; a link to the whole folder is fine"
        )
    return target


def _relative(folder: Path, path: str) -> Path | None:
    """A normalised path relative to `folder`; None if it leads elsewhere."""
    if not os.path.isabs(path) or "\0" in path:  # the system does not allow names with a zero byte
        return None if Path(path).parts[:1] == ("..",) else Path(path)
    for start, whole in ((Path(os.path.abspath(folder)), Path(path)), (folder.resolve(), Path(os.path.realpath(path)))):
        if whole.is_relative_to(start):
            return whole.relative_to(start)
    return None


def suffixes_of_others(paths: Sequence[Path]) -> list[str]:
    """Return the extensions, in lower case, of the files among `paths` that are neither images nor hidden."""
    return [
        path.suffix.lower()
        for path in paths
        if path.suffix.lower() not in image_suffixes() and not path.name.startswith(".") and path.is_file()
    ]


def _read(path: Path) -> bytes:
    try:
        return path.read_bytes()
    except OSError as error:
        raise unreadable(path, error) from error
