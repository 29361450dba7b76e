"""One entry of the feature cache on disk: what it holds, how it grows, and what of it is intact.

An entry is one folder. While it grows it is called `KEY.partial`; every finished batch is recorded with a checksum in
`batches.jsonl`, so a pass that was killed goes on where it stopped. Batches start at multiples of the batch size, so
the result does not depend on where a pass was resumed. Of texts, the record of a batch has their lengths.
"""

import json
import logging
import os
import shutil
import zlib
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Literal

import numpy as np
import numpy.typing as npt

from sweep.errors import SweepError
from sweep.machine.paths import is_out_of_space, naming, write_atomically

logger = logging.getLogger(__name__)

FORMAT_VERSION = 1
DTYPE = np.dtype("<f2")
DATA_FILE = "stages.f16"
BATCHES_FILE = "batches.jsonl"
HEADER_FILE = "header.json"
ABOUT_FILE = "about.json"
"""What an entry holds features of; its time of change is when the entry was last used."""
SPARE_BYTES = 16 * 2**20  # left free for the small files beside the features

Batches = dict[range, list[int] | None]
"""Batches that are here, each with the lengths of its texts; None of images."""


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
        self._found: Batches = {}

    @property
    def lengths(self) -> list[int] | None:
        """Tokens of every text, once all are here; None of images."""
        parts = [self._found[batch] for batch in sorted(self._found, key=lambda batch: batch.start)]
        return None if None in parts else [length for part in parts for length in part or ()]

    def is_complete(self) -> bool:
        """Whether the entry is there and its checksums hold; a damaged one becomes partial again."""
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
        self._found = intact_batches(self.partial, self.image_bytes)
        missing = [batch for batch in self.batches if batch not in self._found]
        needed_bytes = self.shape[0] * self.image_bytes - (self.partial / DATA_FILE).stat().st_size
        free_bytes = shutil.disk_usage(self.partial).free
        if needed_bytes > 0 and free_bytes < needed_bytes + SPARE_BYTES:
            raise self._disk_full(needed_bytes, f"{free_bytes:,} bytes are free")
        return missing

    def write(self, batch: range, values: npt.NDArray[np.float16], lengths: list[int] | None) -> None:
        """Store the features (B, S, L, D) of one batch, then record that they are there, and the lengths of texts.

        Checksum and writing leave Python's lock to other threads.

        Raises:
            SweepError: the disk is full.
        """
        content = np.ascontiguousarray(values, dtype=DTYPE).data
        record: dict[str, Any] = {"start": batch.start, "stop": batch.stop}
        if lengths is not None:
            record["lengths"] = lengths
        record["crc32"] = _checksum(content, lengths)
        try:
            _write_durably(self.partial / DATA_FILE, content, mode="r+b", offset=batch.start * self.image_bytes)
            _write_durably(self.partial / BATCHES_FILE, (json.dumps(record) + "\n").encode(), mode="ab")
        except OSError as error:
            if is_out_of_space(error):
                remaining = (self.shape[0] - batch.start) * self.image_bytes
                raise self._disk_full(remaining, str(error)) from error
            raise
        self._found[batch] = lengths

    def finish(self) -> None:
        """Give the completed entry its final name."""
        os.replace(self.partial, self.folder)

    def _disk_full(self, needed_bytes: int, reason: str) -> SweepError:
        return SweepError(
            f"no room for features in {self.folder.parent}: {needed_bytes:,} bytes are needed ({reason}).\n"
            f"Free some space, or set SWEEP_CACHE_DIR to a folder on another disk; what is computed is kept"
        )


def note_use(folder: Path, about: Mapping[str, Any]) -> None:
    """Write down what a complete entry holds and that it is used now; a cache that cannot be written to stays as it is.

    Nothing depends on it but `sweep cache`.
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


def intact_batches(folder: Path, image_bytes: int) -> Batches:
    """Return the recorded batches whose bytes still have the recorded checksum."""
    recorded: dict[range, tuple[int, list[int] | None]] = {}
    try:
        lines = (folder / BATCHES_FILE).read_bytes().splitlines()
        n_stored = (folder / DATA_FILE).stat().st_size // image_bytes
        for line in lines:
            try:
                record = json.loads(line)
                batch, checksum = range(record["start"], record["stop"]), record["crc32"]
                lengths = record.get("lengths")
            except (ValueError, KeyError, TypeError, AttributeError, RecursionError):
                continue  # a line cut short by a kill, or damaged: its batch counts as missing
            if 0 <= batch.start < batch.stop <= n_stored:
                recorded[batch] = checksum, lengths
        intact: Batches = {}
        with (folder / DATA_FILE).open("rb") as file:
            for batch, (checksum, lengths) in recorded.items():
                file.seek(batch.start * image_bytes)
                if _checksum(file.read(len(batch) * image_bytes), lengths) == checksum:
                    intact[batch] = lengths
    except OSError:
        return {}
    return intact


def _checksum(content: bytes | memoryview, lengths: list[int] | None) -> int:
    """Of a batch's features and, of texts, their lengths."""
    checksum = zlib.crc32(content)
    return checksum if lengths is None else zlib.crc32(json.dumps(lengths).encode(), checksum)


def _write_durably(
    path: Path, content: bytes | memoryview, *, mode: Literal["wb", "ab", "r+b"], offset: int = 0
) -> None:
    with naming(path), path.open(mode) as file:
        if offset:
            file.seek(offset)
        file.write(content)
        file.flush()
        os.fsync(file.fileno())
