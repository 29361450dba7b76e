"""File formats of images, and how large an image may be."""

import importlib.util
import os
from functools import cache
from pathlib import Path

from PIL import Image

from sweep.errors import UsageError

SUFFIXES = frozenset({".bmp", ".gif", ".jpeg", ".jpg", ".png", ".tif", ".tiff", ".webp"})
HEIF_SUFFIXES = frozenset({".heic", ".heif"})
FORMATS = ("BMP", "GIF", "JPEG", "PNG", "TIFF", "WEBP")
"""Formats that Pillow may detect in a file, whatever its name. One of Pillow's other readers starts Ghostscript."""
HEIF = "HEIF"

PIXEL_LIMIT = 128_000_000
"""Largest number of pixels of an image: somewhat more than photographs of today's telephones have."""
PIXEL_LIMIT_VARIABLE = "SWEEP_MAX_IMAGE_PIXELS"


@cache
def heif_is_read() -> bool:
    """Whether the package pillow-heif is installed (extra `heic`). If so, it is registered with Pillow."""
    if importlib.util.find_spec("pillow_heif") is None:
        return False
    import pillow_heif

    pillow_heif.register_heif_opener()
    return True


def image_suffixes() -> frozenset[str]:
    """The extensions, in lower case, of files that are images."""
    return SUFFIXES | HEIF_SUFFIXES if heif_is_read() else SUFFIXES


def image_formats() -> tuple[str, ...]:
    """Formats that Pillow may detect in an image file."""
    return (*FORMATS, HEIF) if heif_is_read() else FORMATS


def pixel_limit() -> int:
    """Largest number of pixels that an image may have: `$SWEEP_MAX_IMAGE_PIXELS`, or 128 million.

    Raises:
        UsageError: The variable is not a positive whole number.
    """
    named = os.environ.get(PIXEL_LIMIT_VARIABLE, "").strip()
    if not named:
        return PIXEL_LIMIT
    digits = named.replace("_", "")
    if not (digits.isascii() and digits.isdigit() and int(digits) > 0):
        raise UsageError(f"{PIXEL_LIMIT_VARIABLE} must be a number of pixels, such as 200000000, not {named[:40]!r}")
    return int(digits)


def raise_pillows_limit(limit: int) -> None:
    """Raise Pillow's own limit, which holds for the whole process, so that it is not lower than sweep's."""
    if Image.MAX_IMAGE_PIXELS is not None and limit > Image.MAX_IMAGE_PIXELS:
        Image.MAX_IMAGE_PIXELS = limit


def is_image(path: Path) -> bool:
    """Whether `path` is a file or a broken link, has an image's extension, and is not hidden."""
    if path.suffix.lower() not in image_suffixes() or path.name.startswith("."):
        return False
    return path.is_file() or (path.is_symlink() and not path.exists())
