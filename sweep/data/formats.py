"""Which files are images, and how large one may be."""

import importlib.util
import os
from functools import cache
from pathlib import Path

from PIL import Image

from sweep.errors import UsageError

SUFFIXES = frozenset({".bmp", ".gif", ".jpeg", ".jpg", ".png", ".tif", ".tiff", ".webp"})
HEIF_SUFFIXES = frozenset({".heic", ".heif"})
FORMATS = ("BMP", "GIF", "JPEG", "PNG", "TIFF", "WEBP")
"""What Pillow may take a file for, whatever its name: of its other readers, one starts Ghostscript."""
HEIF = "HEIF"

PIXEL_LIMIT = 128_000_000
"""Pixels that an image may have: the largest sensors of today's telephones in their usual mode, and some more."""
PIXEL_LIMIT_VARIABLE = "SWEEP_MAX_IMAGE_PIXELS"


@cache
def heif_is_read() -> bool:
    """Whether the package pillow-heif is here (extra `heic`); Pillow is then told of it."""
    if importlib.util.find_spec("pillow_heif") is None:
        return False
    import pillow_heif

    pillow_heif.register_heif_opener()
    return True


def image_suffixes() -> frozenset[str]:
    """The extensions, in lower case, of files that are images."""
    return SUFFIXES | HEIF_SUFFIXES if heif_is_read() else SUFFIXES


def image_formats() -> tuple[str, ...]:
    """What Pillow may take an image for."""
    return (*FORMATS, HEIF) if heif_is_read() else FORMATS


def pixel_limit() -> int:
    """Pixels that an image may have: `$SWEEP_MAX_IMAGE_PIXELS`, or 128 million.

    Raises:
        UsageError: The variable is no positive whole number.
    """
    named = os.environ.get(PIXEL_LIMIT_VARIABLE, "").strip()
    if not named:
        return PIXEL_LIMIT
    digits = named.replace("_", "")
    if not (digits.isascii() and digits.isdigit() and int(digits) > 0):
        raise UsageError(f"{PIXEL_LIMIT_VARIABLE} must be a number of pixels, such as 200000000, not {named[:40]!r}")
    return int(digits)


def raise_pillows_limit(limit: int) -> None:
    """Let Pillow, which has one limit for the whole process, read what sweep reads."""
    if Image.MAX_IMAGE_PIXELS is not None and limit > Image.MAX_IMAGE_PIXELS:
        Image.MAX_IMAGE_PIXELS = limit


def is_image(path: Path) -> bool:
    """Whether `path` is a file, or a link to nothing, with an image's extension, and not hidden."""
    if path.suffix.lower() not in image_suffixes() or path.name.startswith("."):
        return False
    return path.is_file() or (path.is_symlink() and not path.exists())
