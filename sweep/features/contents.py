"""Lists the entries of the feature cache with sizes and ages, and removes them."""

import json
import shutil
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from filelock import FileLock, Timeout

from sweep.errors import SweepError
from sweep.features.entry import ABOUT_FILE, HEADER_FILE

FEATURES = "features"
PARTIAL, LOCK = ".partial", ".lock"
UNKNOWN = "?"


@dataclass(frozen=True)
class CacheEntry:
    """One entry.

    Attributes:
        key: Its name in the cache.
        folder: Where it is.
        complete: Whether all its images are there; an incomplete entry is continued where it stopped.
        backbone: The backbone that computed it. This and the next three are `?` if an earlier version wrote the entry
            and it was not used since.
        weights: The fingerprint of the backbone's weights.
        split: Name of the split, `train`, `val` or `test`, or of a view of it.
        split_fingerprint: The fingerprint of the split's images.
        n_images: Number of images or texts.
        size_bytes: Size on disk.
        age_seconds: Time since it was last used.
    """

    key: str
    folder: Path
    complete: bool
    backbone: str
    weights: str
    split: str
    split_fingerprint: str
    n_images: int
    size_bytes: int
    age_seconds: float


def cache_entries(cache_dir: Path) -> list[CacheEntry]:
    """All entries of the feature cache, the most recently used first.

    Args:
        cache_dir: Root of sweep's cache.
    """
    root = cache_dir / FEATURES
    folders = [folder for folder in root.iterdir() if folder.is_dir()] if root.is_dir() else []
    return sorted(map(_entry, folders), key=lambda entry: entry.age_seconds)


def other_folders(cache_dir: Path) -> dict[str, int]:
    """Sizes in bytes of the other folders of the cache: weights, data sets, packages."""
    folders = [path for path in sorted(cache_dir.iterdir()) if path.is_dir()] if cache_dir.is_dir() else []
    return {folder.name: _size(folder) for folder in folders if folder.name != FEATURES}


def entries_of_run(entries: list[CacheEntry], config: Mapping[str, Any]) -> list[CacheEntry]:
    """The entries with features of a run's images from the run's backbone.

    Augmented views have separate entries, which are not among these because the record of a run does not name them.

    Args:
        entries: Entries of the cache.
        config: The run's record.
    """
    fingerprints = {split["fingerprint"] for split in config["splits"].values()}
    weights = config["backbone_fingerprint"]
    return [entry for entry in entries if entry.split_fingerprint in fingerprints and entry.weights == weights]


def remove(entries: list[CacheEntry], say: Callable[[str], None]) -> int:
    """Remove entries that no process is computing.

    Args:
        entries: The entries to remove.
        say: Called with a message for every entry that stays.

    Returns:
        Number of bytes that were freed.

    Raises:
        SweepError: A file cannot be removed.
    """
    freed_bytes = 0
    for entry in entries:
        lock = FileLock(entry.folder.with_suffix(LOCK))
        try:
            with lock.acquire(timeout=0):
                shutil.rmtree(entry.folder)
            freed_bytes += entry.size_bytes
        except Timeout:
            say(f"{entry.key[:12]} stays: another process is computing it")
        except OSError as error:
            raise SweepError(f"cannot remove {error.filename or entry.folder}: {error.strerror}") from error
    return freed_bytes


def _entry(folder: Path) -> CacheEntry:
    about, header = _read(folder / ABOUT_FILE), _read(folder / HEADER_FILE)
    shape = header.get("shape")
    n_images = shape[0] if isinstance(shape, list) and shape and isinstance(shape[0], int) else 0
    noted = folder / ABOUT_FILE
    used = (noted if noted.is_file() else folder).stat().st_mtime
    return CacheEntry(
        key=folder.name.removesuffix(PARTIAL),
        folder=folder,
        complete=not folder.name.endswith(PARTIAL),
        backbone=str(about.get("backbone", UNKNOWN)),
        weights=str(about.get("weights", UNKNOWN)),
        split=str(about.get("split_name", UNKNOWN)),
        split_fingerprint=str(about.get("split", UNKNOWN)),
        n_images=n_images,
        size_bytes=_size(folder),
        age_seconds=max(0.0, time.time() - used),
    )


def _read(path: Path) -> dict[str, Any]:
    """Read a small JSON object; empty if the file is missing."""
    try:
        found = json.loads(path.read_bytes())
    except (OSError, ValueError, RecursionError):
        return {}
    return found if isinstance(found, dict) else {}


def _size(folder: Path) -> int:
    """Size in bytes of all files below a folder. Links are not followed."""
    return sum(path.lstat().st_size for path in folder.rglob("*") if path.is_file() and not path.is_symlink())
