"""Image files on disk: which count as images, how they are checked, decoded and fingerprinted."""

import hashlib
import warnings
from collections.abc import Sequence
from pathlib import Path

from PIL import Image, ImageOps

from sweep.data.base import Labels, Split, digest_of
from sweep.errors import SweepError

IMAGE_SUFFIXES = frozenset({".bmp", ".gif", ".jpeg", ".jpg", ".png", ".tif", ".tiff", ".webp"})


def is_image(path: Path) -> bool:
    """Whether `path` is a file with an image's extension that is not hidden."""
    return path.suffix.lower() in IMAGE_SUFFIXES and not path.name.startswith(".") and path.is_file()


def file_split(name: str, root: Path, files: Sequence[Path], labels: Labels) -> Split:
    """Return a split over image files, whose headers are read at once and whose pixels when they are opened.

    Args:
        name: what the split is called.
        root: folder that the fingerprint's paths are relative to.
        files: image files below `root`, in order.
        labels: (n,) int64.

    Raises:
        SweepError: a file is no image, cannot be read, or is too large to be decoded safely.
    """
    kept = tuple(files)
    for path in kept:
        _check_header(path)

    def fingerprint() -> str:
        rows = []
        for path, label in zip(kept, labels.tolist(), strict=True):
            content = _read(path)
            digest = hashlib.sha256(content).hexdigest()
            rows.append(f"{path.relative_to(root).as_posix()}\n{len(content)}\n{digest}\n{label}")
        return digest_of(["files", *rows])

    return Split(name, labels, lambda index: decode(kept[index]), fingerprint)


def decode(path: Path) -> Image.Image:
    """Decode an image file and apply its EXIF orientation.

    Raises:
        SweepError: the file cannot be read or decoded.
    """
    try:
        with Image.open(path) as image:
            image.load()
            return ImageOps.exif_transpose(image)
    except (OSError, ValueError, SyntaxError, EOFError, Image.DecompressionBombError) as error:
        raise _unreadable(path, error) from error


def _check_header(path: Path) -> None:
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("error", Image.DecompressionBombWarning)
            with Image.open(path) as image:
                mode = image.mode
    except (
        OSError,
        ValueError,
        SyntaxError,
        Image.DecompressionBombError,
        Image.DecompressionBombWarning,
    ) as error:
        raise _unreadable(path, error) from error
    if mode in ("I", "F"):  # the range of their values is anybody's guess
        raise SweepError(f"{path} has 32-bit values ({mode}), not an image's 8 or 16: convert it, or remove it")


def _read(path: Path) -> bytes:
    try:
        return path.read_bytes()
    except OSError as error:
        raise _unreadable(path, error) from error


def _unreadable(path: Path, error: BaseException) -> SweepError:
    return SweepError(f"cannot read the image {path}: {error}. Replace or remove the file")
