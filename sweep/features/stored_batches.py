"""The batches of a cache entry on disk: where each of them lies in the file, and whether its bytes are still right."""

import json
import os
import zlib
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from sweep.machine.paths import naming

DATA_FILE = "stages.f16"
BATCHES_FILE = "batches.jsonl"


@dataclass(frozen=True)
class Stored:
    """One batch on disk.

    Attributes:
        offset: Position of its first byte in the file.
        n_bytes: Number of bytes in the file.
        lengths: Number of tokens of each text; None for images.
        packed: Whether texts are stored without padding.
    """

    offset: int
    n_bytes: int
    lengths: list[int] | None
    packed: bool


Batches = dict[range, Stored]
"""Finished batches, by the range of their images."""


def recorded_batches(lines: Iterable[bytes], image_bytes: int) -> dict[range, tuple[int, Stored]]:
    """Read the records of batches. A line that was cut short by a kill, or is damaged, is left out.

    Args:
        lines: Lines of an entry's `batches.jsonl`.
        image_bytes: Size of an image's features.

    Returns:
        The checksum of every batch, and where it is stored.
    """
    recorded: dict[range, tuple[int, Stored]] = {}
    for line in lines:
        try:
            record = json.loads(line)
            batch, checksum = range(record["start"], record["stop"]), record["crc32"]
            stored = Stored(
                record.get("offset", batch.start * image_bytes),
                record.get("bytes", len(batch) * image_bytes),
                record.get("lengths"),
                "offset" in record,
            )
            if 0 <= batch.start < batch.stop and 0 <= stored.offset <= stored.offset + stored.n_bytes:
                recorded[batch] = checksum, stored
        except (ValueError, KeyError, TypeError, AttributeError, OverflowError, RecursionError):
            continue
    return recorded


def intact_batches(folder: Path, image_bytes: int, lines: Sequence[bytes] | None = None) -> Batches:
    """Return the recorded batches whose bytes still have the recorded checksum.

    Args:
        folder: Folder of an entry.
        image_bytes: Size of an image's features.
        lines: Records to compare the bytes with; if not given, those in the folder.
    """
    intact: Batches = {}
    try:
        if lines is None:
            lines = (folder / BATCHES_FILE).read_bytes().splitlines()
        n_stored_bytes = (folder / DATA_FILE).stat().st_size
        with (folder / DATA_FILE).open("rb") as file:
            for batch, (checksum, stored) in recorded_batches(lines, image_bytes).items():
                if stored.offset > n_stored_bytes - stored.n_bytes:
                    continue
                file.seek(stored.offset)
                if checksum_of(file.read(stored.n_bytes), stored.lengths) == checksum:
                    intact[batch] = stored
    except OSError:
        return {}
    return intact


def checksum_of(content: bytes | memoryview, lengths: list[int] | None) -> int:
    """Checksum of a batch's features and, for texts, of their lengths."""
    checksum = zlib.crc32(content)
    return checksum if lengths is None else zlib.crc32(json.dumps(lengths).encode(), checksum)


def write_durably(
    path: Path, content: bytes | memoryview, *, mode: Literal["wb", "ab", "r+b"], offset: int = 0
) -> None:
    """Write to a file, and return once it is on the disk."""
    with naming(path), path.open(mode) as file:
        if offset:
            file.seek(offset)
        file.write(content)
        file.flush()
        os.fsync(file.fileno())
