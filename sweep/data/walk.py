"""Finds the files below a folder that a person would see there."""

import logging
import os
from pathlib import Path

from sweep.errors import SweepError

logger = logging.getLogger(__name__)


def files_below(folder: Path) -> list[Path]:
    """All files below a folder in order of path.

    Hidden files and everything in hidden folders, such as `.ipynb_checkpoints`, are left out. Links to folders are
    followed, but a link that leads back to a folder above it is left out with a warning. A broken link counts as a
    file.

    Raises:
        SweepError: A folder cannot be read.
    """
    found: list[Path] = []
    _collect(folder, (os.path.realpath(folder),), found)
    return sorted(found)


def subfolders(folder: Path) -> list[Path]:
    """The subfolders of a folder, in order of name, without hidden ones. A link to a folder counts."""
    return sorted(path for path in folder.iterdir() if path.is_dir() and not path.name.startswith("."))


def _collect(folder: Path, above: tuple[str, ...], found: list[Path]) -> None:
    """Add the files below `folder`; `above` has the real paths of the folder and of those above it."""
    try:
        with os.scandir(folder) as entries:
            visible = [(folder / entry.name, entry.is_dir()) for entry in entries if not entry.name.startswith(".")]
    except OSError as error:
        raise SweepError(f"cannot read the folder {folder}: {error.strerror}") from error
    found.extend(path for path, is_folder in visible if not is_folder)
    for inner in sorted(path for path, is_folder in visible if is_folder):
        real = os.path.realpath(inner)
        if real in above:
            logger.warning("ignored: the link %s leads back to %s, a folder that contains it", inner, real)
        else:
            _collect(inner, (*above, real), found)
