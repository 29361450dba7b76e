"""The folders where sweep keeps what it downloads and computes, and how it writes files."""

import os
from collections.abc import Callable
from pathlib import Path

from sweep.errors import SweepError


def default_cache_dir() -> Path:
    """Return the cache folder: ``$SWEEP_CACHE_DIR``, else ``$XDG_CACHE_HOME/sweep``, else ``~/.cache/sweep``.

    The folder is not created here. An empty variable counts as unset.
    """
    if own := os.environ.get("SWEEP_CACHE_DIR"):
        return Path(own).expanduser()
    if xdg := os.environ.get("XDG_CACHE_HOME"):
        return Path(xdg).expanduser() / "sweep"
    return Path.home() / ".cache" / "sweep"


def ensure_folder(folder: Path) -> Path:
    """Create a folder of the cache if it is missing, and return it.

    Raises:
        SweepError: it cannot be created or written to.
    """
    try:
        folder.mkdir(parents=True, exist_ok=True)
        writable = os.access(folder, os.W_OK)
    except OSError as error:
        raise SweepError(
            f"cannot create the cache folder {folder}: {error}. Set SWEEP_CACHE_DIR to a folder of yours"
        ) from error
    if not writable:
        raise SweepError(f"cannot write to the cache folder {folder}. Set SWEEP_CACHE_DIR to a folder of yours")
    return folder


def write_atomically(path: Path, write: Callable[[Path], object]) -> None:
    """Write beside `path`, then rename: a reader sees the old file or the new one, even after a power cut.

    Args:
        path: the file to create or replace.
        write: writes the content to the path it is given.

    Raises:
        OSError: the file cannot be written; nothing is left behind.
    """
    partial = path.with_name(f"{path.name}.partial")
    try:
        write(partial)
        with partial.open("rb+") as file:
            os.fsync(file.fileno())
        partial.replace(path)
    finally:
        partial.unlink(missing_ok=True)
