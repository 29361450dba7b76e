"""One entry of the feature cache on disk: what it holds, how it grows, and what of it is intact.

An entry is one folder. While it grows it is called `KEY.partial`; every finished batch is recorded with a checksum in
`batches.jsonl`, so a pass that was killed goes on where it stopped. Batches start at multiples of the batch size, so
the result does not depend on where a pass was resumed.
"""

import errno
import json
import logging
import os
import shutil
import zlib
from pathlib import Path
from typing import Literal

import numpy as np
import numpy.typing as npt

from sweep.errors import SweepError

logger = logging.getLogger(__name__)

FORMAT_VERSION = 1
DTYPE = np.dtype("<f2")
DATA_FILE = "stages.f16"
BATCHES_FILE = "batches.jsonl"
HEADER_FILE = "header.json"
SPARE_BYTES = 16 * 2**20  # left free for the small files beside the features


class Entry:
    """An entry: `folder` when complete, ``folder.partial`` while it grows. The caller holds its lock.

    Args:
        folder: where it lies when complete.
        shape: (n, S, L, D) of the features.
        batch_size: B, images of a batch.
    """

    def __init__(self, folder: Path, shape: tuple[int, int, int, int], batch_size: int) -> None:
        self.folder = folder
        self.partial = folder.with_suffix(".partial")
        self.shape = shape
        self.image_bytes = int(np.prod(shape[1:])) * DTYPE.itemsize
        self.header = {"format": FORMAT_VERSION, "shape": list(shape), "batch_size": batch_size}
        self.batches = [range(i, min(i + batch_size, shape[0])) for i in range(0, shape[0], batch_size)]

    def is_complete(self) -> bool:
        """Whether the entry is there and its checksums hold; a damaged one becomes partial again."""
        if not self.folder.is_dir():
            return False
        intact = sum(len(batch) for batch in intact_batches(self.folder, self.image_bytes))
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

    def resume(self) -> list[range]:
        """Return the batches still to be computed, after checking those that a former pass left.

        Raises:
            SweepError: the disk has no room for the rest.
        """
        if _read_header(self.partial) != self.header:
            shutil.rmtree(self.partial, ignore_errors=True)
            self.partial.mkdir()
            _write_durably(self.partial / HEADER_FILE, json.dumps(self.header).encode(), mode="wb")
        (self.partial / DATA_FILE).touch()
        intact = intact_batches(self.partial, self.image_bytes)
        missing = [batch for batch in self.batches if batch not in intact]
        needed_bytes = self.shape[0] * self.image_bytes - (self.partial / DATA_FILE).stat().st_size
        free_bytes = shutil.disk_usage(self.partial).free
        if needed_bytes > 0 and free_bytes < needed_bytes + SPARE_BYTES:
            raise self._disk_full(needed_bytes, f"{free_bytes:,} bytes are free")
        return missing

    def write(self, batch: range, values: npt.NDArray[np.float16]) -> None:
        """Store the features (B, S, L, D) of one batch, then record that they are there.

        Checksum and writing leave Python's lock to other threads.

        Raises:
            SweepError: the disk is full.
        """
        content = np.ascontiguousarray(values, dtype=DTYPE).data
        record = {"start": batch.start, "stop": batch.stop, "crc32": zlib.crc32(content)}
        try:
            _write_durably(self.partial / DATA_FILE, content, mode="r+b", offset=batch.start * self.image_bytes)
            _write_durably(self.partial / BATCHES_FILE, (json.dumps(record) + "\n").encode(), mode="ab")
        except OSError as error:
            if error.errno in (errno.ENOSPC, errno.EDQUOT):
                remaining = (self.shape[0] - batch.start) * self.image_bytes
                raise self._disk_full(remaining, str(error)) from error
            raise

    def finish(self) -> None:
        """Give the completed entry its final name."""
        os.replace(self.partial, self.folder)

    def _disk_full(self, needed_bytes: int, reason: str) -> SweepError:
        return SweepError(
            f"no room for features in {self.folder.parent}: {needed_bytes:,} bytes are needed ({reason}).\n"
            f"Free some space, or set SWEEP_CACHE_DIR to a folder on another disk; what is computed is kept"
        )


def _read_header(folder: Path) -> object:
    try:
        return json.loads((folder / HEADER_FILE).read_bytes())
    except (OSError, ValueError, RecursionError):
        return None


def intact_batches(folder: Path, image_bytes: int) -> set[range]:
    """Return the recorded batches whose bytes still have the recorded checksum."""
    checksums: dict[range, int] = {}
    try:
        lines = (folder / BATCHES_FILE).read_bytes().splitlines()
        n_stored = (folder / DATA_FILE).stat().st_size // image_bytes
        for line in lines:
            try:
                record = json.loads(line)
                batch, checksum = range(record["start"], record["stop"]), record["crc32"]
            except (ValueError, KeyError, TypeError, RecursionError):
                continue  # a line cut short by a kill, or damaged: its batch counts as missing
            if 0 <= batch.start < batch.stop <= n_stored:
                checksums[batch] = checksum
        intact = set()
        with (folder / DATA_FILE).open("rb") as file:
            for batch, checksum in checksums.items():
                file.seek(batch.start * image_bytes)
                if zlib.crc32(file.read(len(batch) * image_bytes)) == checksum:
                    intact.add(batch)
    except OSError:
        return set()
    return intact


def _write_durably(
    path: Path, content: bytes | memoryview, *, mode: Literal["wb", "ab", "r+b"], offset: int = 0
) -> None:
    with path.open(mode) as file:
        if offset:
            file.seek(offset)
        file.write(content)
        file.flush()
        os.fsync(file.fileno())
