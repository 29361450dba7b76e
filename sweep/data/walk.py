"""The files below a folder, as a person who looks into it would count them."""

import logging
import os
from pathlib import Path

from sweep.errors import SweepError

logger = logging.getLogger(__name__)


def files_below(folder: Path) -> list[Path]:
    """All files below a folder in order of path.

    Hidden files and everything in hidden folders, such as `.ipynb_checkpoints`, are left out. Links to folders are
    followed; one that leads back to a folder above it is left aside with a warning. A link to nothing counts as a
    file.

    Raises:
        SweepError: A folder cannot be read.
    """
    found: list[Path] = []
    _collect(folder, (os.path.realpath(folder),), found)
    return sorted(found)


def subfolders(folder: Path) -> list[Path]:
    """The folders in a folder, in order of name, without hidden ones; a link to a folder is one."""
    return sorted(path for path in folder.iterdir() if path.is_dir() and not path.name.startswith("."))


def _collect(folder: Path, above: tuple[str, ...], found: list[Path]) -> None:
    """Add the files below `folder`, whose own real path and those of the folders above it are `above`."""
    try:
        with os.scandir(folder) as entries:
            visible = [(folder / entry.name, entry.is_dir()) for entry in entries if not entry.name.startswith(".")]
    except OSError as error:
        raise SweepError(f"cannot read the folder {folder}: {error.strerror}") from error
    found.extend(path for path, is_folder in visible if not is_folder)
    for inner in sorted(path for path, is_folder in visible if is_folder):
        real = os.path.realpath(inner)
        if real in above:
            logger.warning("left aside: the link %s leads back to %s, which it lies in", inner, real)
        else:
            _collect(inner, (*above, real), found)
