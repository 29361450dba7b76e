"""Image files on disk: which count as images, how they are checked, decoded and fingerprinted."""

import hashlib
import io
import logging
import os
import warnings
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Literal, get_args

import numpy as np
import numpy.typing as npt
from PIL import Image, ImageOps

from sweep.data.base import AnyLabels, SkippedImage, Split, digest_of
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
class Encoded:
    """An image file that lies inside of another file.

    Attributes:
        name: What to call it in messages.
        content: Returns its bytes.
    """

    name: str
    content: Callable[[], bytes]

    def __str__(self) -> str:
        return self.name


ImageFile = Path | Encoded


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

    def readable(self, files: Sequence[ImageFile]) -> npt.NDArray[np.bool_]:
        """Return which of `files` can be used, `(n,)`; each that cannot is said and recorded.

        Raises:
            SweepError: A file cannot be used, and bad images are errors.
        """
        with warnings.catch_warnings():  # here and not in the threads: filters belong to the whole process
            warnings.simplefilter("ignore", UserWarning)  # remarks on damaged metadata
            warnings.simplefilter("error", Image.DecompressionBombWarning)
            if not self._skip:
                for file in files:
                    _check_header(file)
                return np.ones(len(files), dtype=np.bool_)
            logger.info("decoding %d images once, to find those that cannot be read", len(files))
            return self.usable([str(file) for file in files], lambda index: _check_pixels(files[index]))

    def usable(self, names: Sequence[str], check: Callable[[int], object]) -> npt.NDArray[np.bool_]:
        """Return which images can be used, `(n,)`, of any kind.

        Args:
            names: What each is called.
            check: Raises `SweepError` where the image of that index cannot be used; called once each, in threads.

        Raises:
            SweepError: An image cannot be used, and bad images are errors.
        """

        def error_of(index: int) -> SweepError | None:
            try:
                check(index)
            except SweepError as error:
                return error
            return None

        usable = np.ones(len(names), dtype=np.bool_)
        with ThreadPoolExecutor(DECODING_THREADS, thread_name_prefix="check") as pool:
            for index, error in enumerate(pool.map(error_of, range(len(names)))):
                if error is None:
                    continue
                if not self._skip:
                    pool.shutdown(cancel_futures=True)
                    raise error
                logger.warning("skipped: %s", error)
                self.skipped.append(SkippedImage(names[index], str(error)))
                usable[index] = False
        return usable

    def remark(self) -> str:
        """What to add to a message about too few images."""
        return f" ({len(self.skipped)} unreadable images were skipped)" if self.skipped else ""


def file_split(name: str, root: Path, files: Sequence[Path], labels: AnyLabels) -> Split:
    """Return a split over image files that were checked; their pixels are read when they are opened.

    Args:
        name: what the split is called.
        root: folder that the fingerprint's paths are relative to.
        files: image files below `root`, in order.
        labels: as of `Split`.
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


def decode(file: ImageFile) -> Image.Image:
    """Decode the first picture of an image file and apply its EXIF orientation.

    Raises:
        SweepError: the file cannot be read or decoded.
    """
    try:
        with _opened(file) as image:
            image.load()
            return ImageOps.exif_transpose(image)
    except Exception as error:  # Pillow's readers answer damage with errors of a dozen types
        raise _unreadable(file, error) from error


def inside(folder: Path, image: str, where: str) -> Path:
    """Return the file that a list names, once it is known to exist and, links resolved, to lie below `folder`.

    Args:
        folder: What the list's paths are relative to.
        image: A path as the list has it.
        where: The list and the line, for messages.

    Raises:
        UsageError: It does not exist, or leads out of the folder.
    """
    normal = os.path.normpath(image)
    if os.path.isabs(image) or Path(normal).parts[:1] == ("..",):
        raise UsageError(f"{where}: {image} leads out of the folder {folder}; give a path relative to it")
    target = folder / normal
    if not os.path.isfile(target):
        raise UsageError(f"{where}: {target} does not exist; put the image there or drop the line")
    real = Path(os.path.realpath(target))
    if not real.is_relative_to(folder.resolve()):
        raise UsageError(
            f"{where}: {image} is behind a link that leads out of the folder {folder}, to {real}. "
            f"Put the images into the folder; a link to the whole folder is fine"
        )
    return target


def suffixes_of_others(paths: Sequence[Path]) -> list[str]:
    """Return the extensions, in lower case, of the files among `paths` that are neither images nor hidden."""
    return [
        path.suffix.lower()
        for path in paths
        if path.suffix.lower() not in IMAGE_SUFFIXES and not path.name.startswith(".") and path.is_file()
    ]


def _opened(file: ImageFile) -> Image.Image:
    """Let Pillow read an image's header."""
    return Image.open(file if isinstance(file, Path) else io.BytesIO(file.content()), formats=FORMATS)


def _check_header(file: ImageFile) -> None:
    try:
        with _opened(file) as image:
            mode = image.mode
    except Exception as error:
        raise _unreadable(file, error) from error
    require_plain_colours(str(file), mode)


def require_plain_colours(name: str, mode: str) -> None:
    """Refuse an image whose pixels have no sure way to RGB.

    Raises:
        SweepError: Its mode is of that kind.
    """
    if mode in ("I", "F"):  # the range of their values is anybody's guess
        raise SweepError(f"{name} has 32-bit values ({mode}), not an image's 8 or 16: convert it, or remove it")
    if mode not in MODES:
        raise SweepError(f"{name} has colours of mode {mode}, which have no sure way to RGB: convert it, or remove it")


def _check_pixels(file: ImageFile) -> None:
    _check_header(file)
    decode(file)


def _read(path: Path) -> bytes:
    try:
        return path.read_bytes()
    except OSError as error:
        raise _unreadable(path, error) from error


def _unreadable(file: ImageFile, error: BaseException) -> SweepError:
    reason = str(error) or type(error).__name__
    return SweepError(
        f"cannot read the image {file}: {reason}. Replace or remove the file, or leave it out with --on-bad-image skip"
    )
