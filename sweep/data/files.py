"""Image files on disk: which count as images, how they are checked, decoded and fingerprinted."""

import hashlib
import logging
import warnings
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Literal, get_args

import numpy as np
import numpy.typing as npt
from PIL import Image, ImageOps

from sweep.data.base import Labels, SkippedImage, Split, digest_of
from sweep.errors import SweepError, UsageError

logger = logging.getLogger(__name__)

IMAGE_SUFFIXES = frozenset({".bmp", ".gif", ".jpeg", ".jpg", ".png", ".tif", ".tiff", ".webp"})
FORMATS = ("BMP", "GIF", "JPEG", "PNG", "TIFF", "WEBP")
"""What Pillow may take a file for, whatever its name: of its other readers, one starts Ghostscript."""
MODES = frozenset({"1", "L", "LA", "P", "PA", "RGB", "RGBA", "RGBX", "CMYK", "YCbCr", "I;16", "I;16L", "I;16B"})
DECODING_THREADS = 4

OnBadImage = Literal["error", "skip"]


def is_image(path: Path) -> bool:
    """Whether `path` is a file, or a link to nothing, with an image's extension, and not hidden."""
    if path.suffix.lower() not in IMAGE_SUFFIXES or path.name.startswith("."):
        return False
    return path.is_file() or (path.is_symlink() and not path.exists())


@dataclass(frozen=True)
class _Checked:
    """An image file that was tried; `error` is None where it can be read."""

    path: Path
    error: SweepError | None


class ImageChecker:
    """Tries image files before they are split, so that a bad one is named, or left out, before anything is computed.

    With `"error"` only headers are read, which is fast; damage behind the header is then found, and named, by the
    feature pass. With `"skip"` every file is decoded once, since splits and fingerprints must know what is left.

    Attributes:
        skipped: The files left out so far.
    """

    def __init__(self, on_bad_image: OnBadImage) -> None:
        """Take over what is to be done with a bad image.

        Raises:
            UsageError: It is neither of the two words.
        """
        if on_bad_image not in get_args(OnBadImage):
            raise UsageError(f"--on-bad-image must be error or skip, not {on_bad_image!r}")
        self.skipped: list[SkippedImage] = []
        self._skip = on_bad_image == "skip"

    def readable(self, files: Sequence[Path]) -> npt.NDArray[np.bool_]:
        """Return which of `files` can be used, `(n,)`; each that cannot is said and recorded.

        Raises:
            SweepError: A file cannot be used, and bad images are errors.
        """
        with warnings.catch_warnings():  # here and not in the threads: filters belong to the whole process
            warnings.simplefilter("ignore", UserWarning)  # remarks on damaged metadata
            warnings.simplefilter("error", Image.DecompressionBombWarning)
            if not self._skip:
                for path in files:
                    _check_header(path)
                return np.ones(len(files), dtype=np.bool_)
            logger.info("decoding %d images once, to find those that cannot be read", len(files))
            with ThreadPoolExecutor(DECODING_THREADS, thread_name_prefix="check") as pool:
                checked = list(pool.map(_check_pixels, files))
        for entry in checked:
            if entry.error is not None:
                logger.warning("skipped: %s", entry.error)
                self.skipped.append(SkippedImage(str(entry.path), str(entry.error)))
        return np.array([entry.error is None for entry in checked], dtype=np.bool_)

    def remark(self) -> str:
        """What to add to a message about too few images."""
        return f" ({len(self.skipped)} unreadable images were skipped)" if self.skipped else ""


def file_split(name: str, root: Path, files: Sequence[Path], labels: Labels) -> Split:
    """Return a split over image files that were checked; their pixels are read when they are opened.

    Args:
        name: what the split is called.
        root: folder that the fingerprint's paths are relative to.
        files: image files below `root`, in order.
        labels: (n,) int64.
    """
    kept = tuple(files)

    def fingerprint() -> str:
        rows = []
        for path, label in zip(kept, labels.tolist(), strict=True):
            content = _read(path)
            digest = hashlib.sha256(content).hexdigest()
            rows.append(f"{path.relative_to(root).as_posix()}\n{len(content)}\n{digest}\n{label}")
        return digest_of(["files", *rows])

    return Split(name, labels, lambda index: decode(kept[index]), fingerprint, lambda index: str(kept[index]))


def decode(path: Path) -> Image.Image:
    """Decode the first picture of an image file and apply its EXIF orientation.

    Raises:
        SweepError: the file cannot be read or decoded.
    """
    try:
        with Image.open(path, formats=FORMATS) as image:
            image.load()
            return ImageOps.exif_transpose(image)
    except Exception as error:  # Pillow's readers answer damage with errors of a dozen types
        raise _unreadable(path, error) from error


def suffixes_of_others(paths: Sequence[Path]) -> list[str]:
    """Return the extensions, in lower case, of the files among `paths` that are neither images nor hidden."""
    return [
        path.suffix.lower()
        for path in paths
        if path.suffix.lower() not in IMAGE_SUFFIXES and not path.name.startswith(".") and path.is_file()
    ]


def _check_header(path: Path) -> None:
    try:
        with Image.open(path, formats=FORMATS) as image:
            mode = image.mode
    except Exception as error:
        raise _unreadable(path, error) from error
    if mode in ("I", "F"):  # the range of their values is anybody's guess
        raise SweepError(f"{path} has 32-bit values ({mode}), not an image's 8 or 16: convert it, or remove it")
    if mode not in MODES:
        raise SweepError(f"{path} has colours of mode {mode}, which have no sure way to RGB: convert it, or remove it")


def _check_pixels(path: Path) -> _Checked:
    try:
        _check_header(path)
        decode(path)
    except SweepError as error:
        return _Checked(path, error)
    return _Checked(path, None)


def _read(path: Path) -> bytes:
    try:
        return path.read_bytes()
    except OSError as error:
        raise _unreadable(path, error) from error


def _unreadable(path: Path, error: BaseException) -> SweepError:
    reason = str(error) or type(error).__name__
    return SweepError(
        f"cannot read the image {path}: {reason}. Replace or remove the file, or leave it out with --on-bad-image skip"
    )
