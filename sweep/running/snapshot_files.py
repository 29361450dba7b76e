"""Snapshots on disk. A snapshot is written whole or not at all, it is checked when it is read, and two are kept."""

import hashlib
import json
import os
import re
from collections.abc import Callable
from pathlib import Path

from safetensors import SafetensorError, safe_open

from sweep.errors import SweepError
from sweep.machine.paths import save_weights, write_atomically
from sweep.search.snapshot import Snapshot

KEPT_SNAPSHOTS = 2
_NAME = re.compile(r"snapshot-(\d{6,})-([0-9a-f]{16})\.safetensors")


class SnapshotFiles:
    """The numbered snapshots of a run. Each has the first 16 digits of its SHA-256 in its name.

    Args:
        folder: Folder of the snapshots; the first `write` makes it.
        on_damage: Called with a message if a snapshot is damaged.
    """

    def __init__(self, folder: Path, on_damage: Callable[[str], None]):
        self.folder = folder
        self.on_damage = on_damage

    def write(self, snapshot: Snapshot) -> None:
        """Add a snapshot, and remove all but the last two.

        Raises:
            SweepError: The snapshot cannot be written; the earlier ones are still there.
        """
        try:
            self.folder.mkdir(exist_ok=True)
            there = self._there()
            number = there[-1][0] + 1 if there else 1
            unnamed = self.folder / "snapshot"  # its name depends on its content
            write_atomically(unnamed, lambda partial: save_weights(snapshot.tensors, partial, _metadata(snapshot)))
            path = self.folder / f"snapshot-{number:06}-{_checksum(unnamed)}.safetensors"
            os.replace(unnamed, path)
            _sync_folder(self.folder)
            for _, old in there[: 1 - KEPT_SNAPSHOTS]:
                old.unlink()
        except OSError as error:
            reason = error.strerror or error
            raise SweepError(
                f"cannot write a snapshot to {self.folder}: {reason}; free some space, then continue with sweep resume"
            ) from error

    def newest(self) -> Snapshot | None:
        """The newest snapshot that is not damaged; None if there is none.

        Raises:
            SweepError: The folder cannot be read.
        """
        try:
            for _, path in reversed(self._there()):
                if _checksum(path) == path.stem.rpartition("-")[2]:
                    return _read(path)
                self.on_damage(f"the snapshot {path} is damaged; continuing from the one before")
        except OSError as error:
            raise SweepError(f"cannot read the snapshots in {self.folder}: {error.strerror}") from error
        return None

    def _there(self) -> list[tuple[int, Path]]:
        """Number and path of every snapshot, oldest first."""
        names = [(_NAME.fullmatch(path.name), path) for path in self.folder.glob("snapshot-*")]
        return sorted((int(match[1]), path) for match, path in names if match)


def _metadata(snapshot: Snapshot) -> dict[str, str]:
    return {"state": json.dumps(snapshot.state, allow_nan=True)}


def _checksum(path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()[:16]


def _read(path: Path) -> Snapshot:
    """Read a snapshot whose checksum is right.

    Raises:
        SweepError: Its content is not a snapshot of this version of sweep.
    """
    try:
        with safe_open(path, framework="pt") as file:
            state = json.loads(file.metadata()["state"])
            if not isinstance(state, dict):
                raise TypeError("its state is not a JSON object")
            return Snapshot(state, {name: file.get_tensor(name) for name in file.keys()})  # noqa: SIM118 - not a mapping
    except (SafetensorError, ValueError, KeyError, TypeError, RecursionError) as error:
        raise SweepError(
            f"{path} is not a snapshot of this version of sweep: {error}; remove it, and resume again"
        ) from error


def _sync_folder(folder: Path) -> None:
    """Make a rename last through a power cut."""
    descriptor = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
