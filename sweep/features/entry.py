"""One entry of the feature cache on disk: how it is written and checked.

An entry is one folder. While it grows, its name is `KEY.partial`. Every finished batch is recorded with a checksum in
`batches.jsonl`, so a pass that was killed continues where it stopped. Batches start at multiples of the batch size, so
the result does not depend on where a pass was resumed.

Texts are stored without padding: the record of a batch has their lengths and the offset of the batch in the file.
Entries of sweep 0.3 have texts padded to one length and no offset; they can still be read.

An entry's header says how many texts the network reads at a time. A pass that began with another number, or in sweep
0.10 or older, which recorded none, starts anew. Else batches of one entry would be rounded in two ways.
"""

import json
import logging
import os
import shutil
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from backbones.text_backbone import TEXTS_TOGETHER
from sweep.errors import SweepError
from sweep.features.rows import PackedRows, Rows
from sweep.features.stored_batches import (
    BATCHES_FILE,
    DATA_FILE,
    Batches,
    Stored,
    checksum_of,
    intact_batches,
    write_durably,
)
from sweep.machine.paths import is_out_of_space, naming, write_atomically

logger = logging.getLogger(__name__)

FORMAT_VERSION = 1
DTYPE = np.dtype("<f2")
HEADER_FILE = "header.json"
ABOUT_FILE = "about.json"
"""The file that describes an entry. Its modification time says when the entry was last used."""
SPARE_BYTES = 16 * 2**20  # left free for the small files beside the features


class Entry:
    """An entry: `folder` when complete, ``folder.partial`` while it grows. The caller must hold its lock.

    Args:
        folder: folder of the complete entry.
        shape: (n, S, L, D) of the features.
        batch_size: B, images in a batch.
        n_tokens: number of tokens of all texts together; None for images, which all have L.

    Attributes:
        packs: whether it holds texts, which are stored without padding.
    """

    def __init__(
        self, folder: Path, shape: tuple[int, int, int, int], batch_size: int, n_tokens: int | None = None
    ) -> None:
        self.folder = folder
        self.partial = folder.with_suffix(".partial")
        self.shape = shape
        self.image_bytes = int(np.prod(shape[1:])) * DTYPE.itemsize
        self.header = {"format": FORMAT_VERSION, "shape": list(shape), "batch_size": batch_size}
        self._n_tokens = shape[0] * shape[2] if n_tokens is None else n_tokens
        self.packs = n_tokens is not None
        if self.packs:
            self.header |= {"packed": True, "texts_together": TEXTS_TOGETHER}
        self.batches = [range(i, min(i + batch_size, shape[0])) for i in range(0, shape[0], batch_size)]
        self._found: Batches = {}

    @property
    def lengths(self) -> list[int] | None:
        """Number of tokens of every text in a complete entry; None for images."""
        if any(stored.lengths is None for stored in self._found.values()):
            return None
        return [length for stored in self._in_order() for length in stored.lengths or ()]

    def rows(self) -> Rows:
        """Features of a complete entry, (n, S, L, D), memory-mapped. Writing to them changes only memory."""
        path = self.folder / DATA_FILE
        if not any(stored.packed for stored in self._found.values()):
            return np.memmap(path, dtype=DTYPE, mode="c", shape=self.shape)
        lengths = np.array(self.lengths, dtype=np.int64)
        token_values = self.image_bytes // self.shape[2] // DTYPE.itemsize
        starts = []
        for stored in self._in_order():
            own = np.array(stored.lengths, dtype=np.int64)
            starts.append(stored.offset // DTYPE.itemsize + token_values * (own.cumsum() - own))
        return PackedRows(np.memmap(path, dtype=DTYPE, mode="c"), np.concatenate(starts), lengths, self.shape)

    def _in_order(self) -> list[Stored]:
        return [self._found[batch] for batch in sorted(self._found, key=lambda batch: batch.start)]

    def is_complete(self) -> bool:
        """Whether the entry is there and its checksums are right. A damaged entry becomes partial again."""
        if not self.folder.is_dir():
            return False
        self._found = intact_batches(self.folder, self.image_bytes)
        intact = sum(len(batch) for batch in self._found)
        if intact == self.shape[0]:
            return True
        logger.warning(
            "feature cache entry %s is damaged (%d of %d images are intact); computing the rest again",
            self.folder,
            intact,
            self.shape[0],
        )
        shutil.rmtree(self.partial, ignore_errors=True)
        os.replace(self.folder, self.partial)
        return False

    def n_missing(self) -> int:
        """Number of images that `resume` would leave to compute. A complete entry is not read."""
        if self.folder.is_dir():
            return 0
        found = intact_batches(self.partial, self.image_bytes) if self._continues() else {}
        return self.shape[0] - sum(len(batch) for batch in found)

    def _continues(self) -> bool:
        """Whether an earlier pass has begun the entry in the same way."""
        return _read_header(self.partial) == self.header

    def resume(self) -> list[range]:
        """Return the batches that are still to be computed, after checking those of earlier passes.

        Raises:
            SweepError: there is not enough disk space for the rest.
        """
        if not self._continues():
            shutil.rmtree(self.partial, ignore_errors=True)
            self.partial.mkdir()
            write_durably(self.partial / HEADER_FILE, json.dumps(self.header).encode(), mode="wb")
        (self.partial / DATA_FILE).touch()
        self._found = intact_batches(self.partial, self.image_bytes)
        missing = [batch for batch in self.batches if batch not in self._found]
        if self.packs:
            os.truncate(self.partial / DATA_FILE, self._end())  # what a kill left behind
        needed_bytes = self._needed_bytes() - (self.partial / DATA_FILE).stat().st_size
        free_bytes = shutil.disk_usage(self.partial).free
        if needed_bytes > 0 and free_bytes < needed_bytes + SPARE_BYTES:
            raise self._disk_full(needed_bytes, f"{free_bytes:,} bytes are free")
        return missing

    def _needed_bytes(self) -> int:
        """Size of all features in bytes."""
        return self._n_tokens * self.image_bytes // self.shape[2]

    def _end(self) -> int:
        """End of the file of packed batches, in bytes."""
        return max((stored.offset + stored.n_bytes for stored in self._found.values()), default=0)

    def write(self, batch: range, values: npt.NDArray[np.float16], lengths: list[int] | None) -> None:
        """Write the features (B, S, L, D) of one batch, and then the record of the batch with the lengths of texts.

        The checksum and the write release Python's global lock.

        Raises:
            SweepError: the disk is full.
        """
        record: dict[str, Any] = {"start": batch.start, "stop": batch.stop}
        content = np.ascontiguousarray(values, dtype=DTYPE).data
        offset = batch.start * self.image_bytes
        if lengths is not None:
            own = [text[:, :length].ravel() for text, length in zip(values, lengths, strict=True)]
            content, offset = np.concatenate(own, dtype=DTYPE).data, self._end()
            record |= {"lengths": lengths, "offset": offset, "bytes": content.nbytes}
        record["crc32"] = checksum_of(content, lengths)
        with self._explaining_full_disk(self._needed_bytes() - offset):
            write_durably(self.partial / DATA_FILE, content, mode="r+b", offset=offset)
            write_durably(self.partial / BATCHES_FILE, (json.dumps(record) + "\n").encode(), mode="ab")
        self._found[batch] = Stored(offset, content.nbytes, lengths, lengths is not None)

    def in_parts(self) -> "Part":
        """Reserve the space of all features, and return where other processes can write batches of images.

        Raises:
            SweepError: the disk is full.
        """
        assert not self.packs, "where a batch of texts is stored depends on those before it"
        path, n_bytes = self.partial / DATA_FILE, self._needed_bytes()
        with self._explaining_full_disk(n_bytes), naming(path), path.open("r+b") as file:
            if hasattr(os, "posix_fallocate"):
                os.posix_fallocate(file.fileno(), 0, n_bytes)
            else:
                os.truncate(path, n_bytes)
        return Part(path.absolute(), self.image_bytes)

    def note(self, checksums: Mapping[range, int]) -> None:
        """Record batches that other processes have written to the file, with their checksums.

        Raises:
            SweepError: the disk is full.
        """
        records = [{"start": batch.start, "stop": batch.stop, "crc32": crc} for batch, crc in checksums.items()]
        content = "".join(json.dumps(record) + "\n" for record in records).encode()
        with self._explaining_full_disk(len(content)):
            write_durably(self.partial / BATCHES_FILE, content, mode="ab")
        for batch in checksums:
            self._found[batch] = Stored(batch.start * self.image_bytes, len(batch) * self.image_bytes, None, False)

    def take(self, offset: int, content: bytes, lines: Sequence[bytes]) -> None:
        """Write bytes of a copied entry to their place, and then the records of batches that are complete with them.

        Raises:
            SweepError: the disk is full.
        """
        with self._explaining_full_disk(self._needed_bytes() - offset):
            write_durably(self.partial / DATA_FILE, content, mode="r+b", offset=offset)
            if lines:
                write_durably(self.partial / BATCHES_FILE, b"".join(line + b"\n" for line in lines), mode="ab")

    def finish(self) -> None:
        """Give the completed entry its final name."""
        os.replace(self.partial, self.folder)

    @contextmanager
    def _explaining_full_disk(self, needed_bytes: int) -> Iterator[None]:
        """Raise `SweepError` with the remedy if the disk is full."""
        try:
            yield
        except OSError as error:
            if is_out_of_space(error):
                raise self._disk_full(needed_bytes, str(error)) from error
            raise

    def _disk_full(self, needed_bytes: int, reason: str) -> SweepError:
        return SweepError(
            f"no room for features in {self.folder.parent}: {needed_bytes:,} bytes are needed ({reason}).\n"
            f"Free some space, or set SWEEP_CACHE_DIR to a folder on another disk. Features that were computed are kept"
        )


@dataclass(frozen=True)
class Part:
    """Where a process that does not hold an entry's lock writes batches of images.

    Attributes:
        path: The file with the features of all images.
        image_bytes: Size of an image's features.
    """

    path: Path
    image_bytes: int

    def write(self, batch: range, values: npt.NDArray[np.float16]) -> int:
        """Write the features of a batch, and return their checksum. `sync` has to follow."""
        content = np.ascontiguousarray(values, dtype=DTYPE).data.cast("B")
        offset, end = batch.start * self.image_bytes, batch.stop * self.image_bytes
        with naming(self.path), self.path.open("r+b", buffering=0) as file:
            while offset < end:  # one call writes 2 GiB at most
                offset += os.pwrite(file.fileno(), content[offset - end :], offset)
        return checksum_of(content, None)

    def sync(self) -> None:
        """Have everything that was written on the disk."""
        with naming(self.path), self.path.open("r+b") as file:
            os.fsync(file.fileno())


def note_use(folder: Path, about: Mapping[str, Any]) -> None:
    """Record what a complete entry holds, and that it is used now. Do nothing if the cache cannot be written to.

    Only `sweep cache` reads this record.
    """
    path = folder / ABOUT_FILE
    try:
        write_atomically(path, lambda partial: partial.write_text(json.dumps(about, indent=2), encoding="utf-8"))
    except OSError as error:
        logger.info("cannot note the use of %s: %s", folder, error.strerror)


def _read_header(folder: Path) -> object:
    try:
        return json.loads((folder / HEADER_FILE).read_bytes())
    except (OSError, ValueError, RecursionError):
        return None
