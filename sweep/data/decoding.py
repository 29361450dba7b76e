"""Decodes image files to Pillow images, turns them upright, and refuses colours without a sure RGB form."""

import io
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from PIL import ExifTags, Image

from sweep.data.formats import PIXEL_LIMIT_VARIABLE, image_formats, pixel_limit, raise_pillows_limit
from sweep.errors import SweepError

MODES = frozenset({"1", "L", "LA", "P", "PA", "RGB", "RGBA", "RGBX", "CMYK", "YCbCr", "I;16", "I;16L", "I;16B"})
UPRIGHT = {
    2: Image.Transpose.FLIP_LEFT_RIGHT,
    3: Image.Transpose.ROTATE_180,
    4: Image.Transpose.FLIP_TOP_BOTTOM,
    5: Image.Transpose.TRANSPOSE,
    6: Image.Transpose.ROTATE_270,
    7: Image.Transpose.TRANSVERSE,
    8: Image.Transpose.ROTATE_90,
}
"""The transposition that undoes each EXIF orientation."""
SIDEWAYS = tuple(UPRIGHT[orientation] for orientation in (5, 6, 7, 8))
LARGEST_8_BIT, LARGEST_16_BIT = 255, 65535


@dataclass(frozen=True)
class Encoded:
    """An image file that is stored inside another file.

    Attributes:
        name: Its name in messages.
        content: Returns its bytes.
    """

    name: str
    content: Callable[[], bytes]

    def __str__(self) -> str:
        return self.name


ImageFile = Path | Encoded


class UnreadableImageError(SweepError):
    """An image that cannot be used.

    Attributes:
        name: The file.
        reason: Why, without advice.
    """

    def __init__(self, name: str, reason: str) -> None:
        super().__init__(
            f"cannot read the image {name}: {reason}. Replace or remove it, or leave it out with --on-bad-image skip"
        )
        self.name, self.reason = name, reason


def decode(file: ImageFile) -> Image.Image:
    """Decode the first picture of an image file and turn it upright, as its EXIF orientation says.

    If the metadata are damaged, the picture is not turned.

    Raises:
        UnreadableImageError: The file cannot be read or decoded, is too large, or has colours that cannot be converted
            to RGB without a guess.
    """
    try:
        with _opened(file) as image:
            _require_plain_mode(str(file), image.mode)
            image.load()
            upright = _upright(image)
    except SweepError:
        raise
    except Exception as error:  # Pillow's readers answer damage with errors of a dozen types
        raise unreadable(file, error) from error
    return plain_colours(str(file), upright)


def check_header(file: ImageFile) -> None:
    """Read only an image's header, which is quick.

    Raises:
        UnreadableImageError: As `decode`; damage after the header is not found.
    """
    try:
        with _opened(file) as image:
            mode = image.mode
    except SweepError:
        raise
    except Exception as error:
        raise unreadable(file, error) from error
    _require_plain_mode(str(file), mode)
    if mode == "I":  # its pixels show whether it can be used
        decode(file)


def upright_size(file: ImageFile) -> tuple[int, int]:
    """Width and height of an image once it is turned upright, in pixels; only its header is read.

    Raises:
        UnreadableImageError: The file cannot be read.
    """
    try:
        with _opened(file) as image:
            width, height = image.size
            try:
                turn = UPRIGHT.get(image.getexif().get(ExifTags.Base.Orientation, 1))
            except Exception:  # damaged metadata, as in `_upright`
                turn = None
    except SweepError:
        raise
    except Exception as error:
        raise unreadable(file, error) from error
    return (height, width) if turn in SIDEWAYS else (width, height)


def plain_colours(name: str, image: Image.Image) -> Image.Image:
    """The image itself. 32-bit integers that are really 16-bit greys are converted to these.

    Args:
        name: Name of the image, for messages.
        image: An image of any mode.

    Raises:
        UnreadableImageError: Its pixels cannot be converted to RGB without a guess.
    """
    _require_plain_mode(name, image.mode)
    if image.mode != "I":
        return image
    values = np.asarray(image)
    least, largest = int(values.min()), int(values.max())
    if least < 0 or not LARGEST_8_BIT < largest <= LARGEST_16_BIT:
        raise UnreadableImageError(
            name,
            f"it has 32-bit values (I) from {least} to {largest}, which may stand for any brightness; save it with 8 "
            f"bits, 0 to {LARGEST_8_BIT}, or with 16, 0 to {LARGEST_16_BIT}",
        )
    return Image.fromarray(values.astype(np.uint16))


def unreadable(file: ImageFile, error: BaseException) -> UnreadableImageError:
    """The error for an image that replaces an error of Pillow or of the system."""
    return UnreadableImageError(str(file), str(error) or type(error).__name__)


def _opened(file: ImageFile) -> Image.Image:
    """Let Pillow read an image's header."""
    limit = pixel_limit()
    raise_pillows_limit(limit)
    try:
        image = Image.open(file if isinstance(file, Path) else io.BytesIO(file.content()), formats=image_formats())
    except (Image.DecompressionBombError, Image.DecompressionBombWarning) as error:  # Pillow's limit is not lower
        raise _too_large(file, limit) from error
    n_pixels = image.width * image.height
    if n_pixels > limit:
        image.close()
        raise _too_large(file, limit, f" ({n_pixels / 1e6:.4g})")
    return image


def _too_large(file: ImageFile, limit: int, found: str = "") -> UnreadableImageError:
    return UnreadableImageError(
        str(file),
        f"it has more than {limit / 1e6:.4g} megapixels{found}, which is the limit; make it smaller, or raise the "
        f"limit: set the environment variable {PIXEL_LIMIT_VARIABLE} to a number of pixels",
    )


def _require_plain_mode(name: str, mode: str) -> None:
    if mode == "F":
        raise UnreadableImageError(name, "it has 32-bit values (F), not an image's 8 or 16 bits; convert it")
    if mode not in MODES and mode != "I":
        raise UnreadableImageError(name, f"it has colours of mode {mode}, which sweep cannot convert; save it as RGB")


def _upright(image: Image.Image) -> Image.Image:
    try:
        turn = UPRIGHT.get(image.getexif().get(ExifTags.Base.Orientation, 1))
    except Exception:  # damaged metadata, which the picture does not need
        turn = None
    return image.copy() if turn is None else image.transpose(turn)
