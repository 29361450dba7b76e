"""Copies of cache entries for machines that do not see the cache folder in which the entries are.

One process reads a complete entry in parts. A process of the other machine writes them to an entry of its own cache.
This entry grows like one that is computed there: under a lock and beside its final name, and the record of a batch is
written after its bytes.
"""

import json
import shutil
import socket
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from filelock import FileLock, Timeout

from sweep.errors import SweepError
from sweep.features.contents import FEATURES
from sweep.features.entry import ABOUT_FILE, DTYPE, HEADER_FILE, Entry, note_use
from sweep.features.stored_batches import BATCHES_FILE, DATA_FILE, Stored, intact_batches, recorded_batches
from sweep.machine.paths import ensure_folder

PART_BYTES = 32 * 2**20
"""Size of the parts in which an entry is sent."""


@dataclass(frozen=True)
class EntryIndex:
    """All of a complete entry but the features.

    Attributes:
        key: The entry's key in the cache.
        header: The content of its header.
        about: What it holds, see `note_use`.
        lines: The record of each of its batches, with a checksum.
    """

    key: str
    header: dict[str, Any]
    about: dict[str, Any]
    lines: dict[range, bytes]

    @classmethod
    def of(cls, folder: Path) -> "EntryIndex":
        """The index of the complete entry in a folder."""
        header, noted = json.loads((folder / HEADER_FILE).read_bytes()), folder / ABOUT_FILE
        about = json.loads(noted.read_bytes()) if noted.is_file() else {}
        lines = (folder / BATCHES_FILE).read_bytes().splitlines()
        by_batch = {batch: line for line in lines for batch in recorded_batches([line], _image_bytes(header))}
        return cls(folder.name, header, about, by_batch)

    @property
    def places(self) -> dict[range, Stored]:
        """Where the batches lie in the file."""
        recorded = recorded_batches(self.lines.values(), _image_bytes(self.header))
        return {batch: stored for batch, (_, stored) in recorded.items()}

    @property
    def n_bytes(self) -> int:
        """Size of all features."""
        return max(stored.offset + stored.n_bytes for stored in self.places.values())

    def is_in(self, folder: Path) -> bool:
        """Whether a folder has the same features, bit for bit, as far as checksums tell."""
        intact = intact_batches(folder, _image_bytes(self.header), list(self.lines.values()))
        return sum(len(batch) for batch in intact) == int(self.header["shape"][0])

    def entry(self, folder: Path) -> Entry:
        """An entry for such features."""
        n_images, n_stages, n_tokens, width = self.header["shape"]
        packed = self.header.get("packed", False)
        all_tokens = self.n_bytes * n_tokens // _image_bytes(self.header) if packed else None
        entry = Entry(folder, (n_images, n_stages, n_tokens, width), self.header["batch_size"], all_tokens)
        entry.header = self.header  # an older version may have computed it
        return entry


def _image_bytes(header: dict[str, Any]) -> int:
    """Size of an image's features."""
    return int(np.prod(header["shape"][1:])) * DTYPE.itemsize


def parts_of(folder: Path, start: int) -> Iterator[tuple[int, bytes]]:
    """Yield the features of a complete entry, part by part, with the offset of each.

    Args:
        folder: Folder of the entry.
        start: Offset of the first byte.
    """
    with (folder / DATA_FILE).open("rb") as file:
        file.seek(start)
        while content := file.read(PART_BYTES):
            yield start, content
            start += len(content)


class EntryReceiver:
    """Writes copies of entries to the cache of this machine, one entry after the other.

    Args:
        cache_dir: Root of the cache.
    """

    def __init__(self, cache_dir: Path):
        self.cache_dir = cache_dir
        self._receiving: _Receiving | None = None

    def begin(self, index: EntryIndex) -> int | None:
        """Take the lock of an entry, unless the cache has the entry already.

        An entry with the same key and other bits, which this machine has computed, is replaced. Processes that read it
        keep the old file.

        Returns:
            Offset of the first byte that is missing; the number of all bytes if none is. None if another process has
            the lock.

        Raises:
            SweepError: There is no room, or the cache cannot be written to.
        """
        with _on_this_machine():
            folder = ensure_folder(self.cache_dir / FEATURES) / index.key
            lock = FileLock(folder.with_suffix(".lock"), thread_local=False)
            try:
                lock.acquire(timeout=0)
            except Timeout:
                return None
            try:
                self._receiving = _Receiving.of(index, folder, lock)
            finally:
                if self._receiving is None:
                    lock.release()
            return index.n_bytes if self._receiving is None else self._receiving.start

    def take(self, offset: int, content: bytes) -> None:
        """Write a part. With the last one, the entry gets its final name, and its lock is released.

        Raises:
            SweepError: There is no room; or what was received has another checksum than what was sent.
        """
        assert self._receiving is not None, "nothing is being received"
        is_over = True
        try:
            with _on_this_machine():
                is_over = self._receiving.take(offset, content)
        finally:
            if is_over:
                self._receiving.lock.release()
                self._receiving = None


@dataclass
class _Receiving:
    """An entry that is being received. Its lock is held.

    Attributes:
        start: Offset of the first byte that was missing.
        left: Where the bytes of each batch end that is not recorded yet, in this order, and its record.
    """

    index: EntryIndex
    entry: Entry
    lock: FileLock
    start: int
    left: list[tuple[int, bytes]]

    @classmethod
    def of(cls, index: EntryIndex, folder: Path, lock: FileLock) -> "_Receiving | None":
        """Begin, or continue where an earlier process was stopped; None if nothing is missing."""
        if index.is_in(folder):
            note_use(folder, index.about)
            return None
        shutil.rmtree(folder, ignore_errors=True)
        entry, places = index.entry(folder), index.places
        records = entry.partial / BATCHES_FILE
        if records.is_file() and not set(records.read_bytes().splitlines()) <= set(index.lines.values()):
            shutil.rmtree(entry.partial)  # computed on this machine, so it may have other bits; or cut short
        missing = entry.resume()
        left = sorted((places[batch].offset + places[batch].n_bytes, index.lines[batch]) for batch in missing)
        receiving = cls(index, entry, lock, min((places[batch].offset for batch in missing), default=0), left)
        if left:
            return receiving
        receiving.finish()
        return None

    def take(self, offset: int, content: bytes) -> bool:
        """Write a part, and return whether it was the last one."""
        end = offset + len(content)
        self.entry.take(offset, content, [line for until, line in self.left if until <= end])
        self.left = [(until, line) for until, line in self.left if until > end]
        if self.left:
            return False
        self.finish()
        return True

    def finish(self) -> None:
        """Check all features, and give the entry its final name.

        Raises:
            SweepError: They are not those that were sent.
        """
        if not self.index.is_in(self.entry.partial):
            shutil.rmtree(self.entry.partial)
            raise SweepError(
                f"the features {self.index.key} did not arrive as they were sent; continue with sweep resume"
            )
        self.entry.finish()
        note_use(self.entry.folder, self.index.about)


@contextmanager
def _on_this_machine() -> Iterator[None]:
    """Add this machine's name to an error, because the error is shown on another machine."""
    try:
        yield
    except SweepError as error:
        raise SweepError(f"on {socket.gethostname()}: {error}") from error
    except OSError as error:
        raise SweepError(f"on {socket.gethostname()}: cannot write {error.filename}: {error.strerror}") from error
