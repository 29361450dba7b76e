"""The feature cache: a backbone's stages for every image of a split, computed once and kept on disk.

An entry is one folder named by its key. While it grows it is called `KEY.partial`; every finished batch is
recorded with a checksum in `batches.jsonl`, so a pass that was killed goes on where it stopped. Batches start
at multiples of the batch size, so the result does not depend on where a pass was resumed. A lock file beside
the folder makes a second process wait and then use what the first one computed.
"""

import errno
import hashlib
import json
import logging
import os
import shutil
import time
import zlib
from collections import deque
from collections.abc import Callable, Generator
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import closing
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Literal

import numpy as np
import numpy.typing as npt
import torch
from filelock import FileLock, Timeout

from backbones.protocol import Backbone
from sweep.data.base import Split
from sweep.errors import SweepError
from sweep.paths import ensure_folder

logger = logging.getLogger(__name__)

FORMAT_VERSION = 1
DTYPE = np.dtype("<f2")
DATA_FILE = "stages.f16"
BATCHES_FILE = "batches.jsonl"
HEADER_FILE = "header.json"
LARGEST_FEATURE = 65504.0  # in float16; a comparison with NaN is false, so what is below it is finite too
DECODING_THREADS = 4
SPARE_BYTES = 16 * 2**20  # left free for the small files beside the features


@dataclass(frozen=True)
class Features:
    """The stages of every image of a split.

    Attributes:
        stages: (n, S, L, D) float16, mapped from disk; writing to it changes memory only, never the cache.
        labels: (n,) int64.
        key: the entry's key in the cache.
        from_cache: whether a complete, intact entry was found.
        wall_seconds: time this call took.
        n_computed: images for which the backbone ran in this call.
    """

    stages: npt.NDArray[np.float16]
    labels: torch.Tensor
    key: str
    from_cache: bool
    wall_seconds: float
    n_computed: int


def feature_key(backbone: Backbone, split: Split) -> str:
    """Return the SHA-256 hex digest over everything the features depend on."""
    parts = {
        "format": FORMAT_VERSION,
        "backbone": backbone.name,
        "weights": backbone.fingerprint,
        "stages": list(backbone.stage_indices),
        "transform": asdict(backbone.transform),
        "split": split.fingerprint,
        "dtype": DTYPE.str,
    }
    return hashlib.sha256(json.dumps(parts, sort_keys=True).encode()).hexdigest()


def compute_features(
    backbone: Backbone,
    split: Split,
    *,
    cache_dir: Path,
    batch_size: int = 32,
    device: torch.device | str = "cpu",
    on_progress: Callable[[int, int], None] | None = None,
) -> Features:
    """Return the stages of every image of `split`, from the cache or by running the backbone.

    Args:
        backbone: a frozen backbone, on `device`.
        split: the images.
        cache_dir: root of sweep's cache; the entry goes into ``cache_dir/features/KEY``.
        batch_size: B, images in one forward pass. A pass resumed with another batch size starts anew.
        device: where the images are sent.
        on_progress: called with (images done, images in all) after every batch.

    Raises:
        SweepError: an image cannot be decoded, a feature is not a finite float16, or the disk is full.
    """
    started = time.monotonic()
    key = feature_key(backbone, split)
    folder = ensure_folder(cache_dir / "features") / key
    lock = FileLock(folder.with_suffix(".lock"))
    try:
        lock.acquire(timeout=0)
    except Timeout:
        logger.info("another process computes the same features of %s; waiting for it", split.name)
        lock.acquire()
    try:
        entry = _Entry(folder, _shape(backbone, split), batch_size)
        from_cache = entry.is_complete()
        n_computed = 0 if from_cache else _fill(entry, backbone, split, device, on_progress)
        stages = np.memmap(folder / DATA_FILE, dtype=DTYPE, mode="c", shape=entry.shape)
    finally:
        lock.release()
    return Features(
        stages=stages,
        labels=torch.from_numpy(np.array(split.labels, dtype=np.int64)),
        key=key,
        from_cache=from_cache,
        wall_seconds=time.monotonic() - started,
        n_computed=n_computed,
    )


def n_images_missing(backbone: Backbone, split: Split, cache_dir: Path) -> int:
    """Return how many images of `split` the cache lacks; a complete entry is believed, not read."""
    folder = cache_dir / "features" / feature_key(backbone, split)
    if folder.is_dir():
        return 0
    _, *image_shape = _shape(backbone, split)
    intact = _intact_batches(folder.with_suffix(".partial"), int(np.prod(image_shape)) * DTYPE.itemsize)
    return split.n_images - sum(len(batch) for batch in intact)


def _shape(backbone: Backbone, split: Split) -> tuple[int, int, int, int]:
    return split.n_images, len(backbone.stage_indices), backbone.tokens, backbone.width


def _fill(
    entry: "_Entry",
    backbone: Backbone,
    split: Split,
    device: torch.device | str,
    on_progress: Callable[[int, int], None] | None,
) -> int:
    """Compute the batches that `entry` misses, complete it, and return the number of images computed."""
    missing = entry.resume()
    n_computed = 0
    n_done = split.n_images - sum(len(batch) for batch in missing)
    with closing(_decoded(backbone, split, missing)) as decoded:
        for batch, images in decoded:
            taps = backbone.stages(images.to(device))
            values = torch.empty(len(batch), *entry.shape[1:], dtype=torch.float16)
            for stage, tap in enumerate(taps):
                values[:, stage].copy_(tap)  # one pass: rounded on its way to its place
            if not all(bool(tap.abs().amax() < LARGEST_FEATURE) for tap in taps):
                _require_finite(values, batch, backbone, split)
            entry.write(batch, values.numpy())
            n_computed += len(batch)
            if on_progress is not None:
                on_progress(n_done + n_computed, split.n_images)
    entry.finish()
    return n_computed


def _decoded(backbone: Backbone, split: Split, batches: list[range]) -> Generator[tuple[range, torch.Tensor]]:
    """Yield each batch with its (B, 3, H, W) input, while threads decode the next one."""

    def decode(index: int) -> torch.Tensor:
        return backbone.transform(split.open(index))

    pool = ThreadPoolExecutor(DECODING_THREADS, thread_name_prefix="decode")
    waiting: deque[tuple[range, list[Future[torch.Tensor]]]] = deque()
    try:
        for batch in batches:
            waiting.append((batch, [pool.submit(decode, index) for index in batch]))
            if len(waiting) > 1:
                ready, images = waiting.popleft()
                yield ready, torch.stack([image.result() for image in images])
        for ready, images in waiting:
            yield ready, torch.stack([image.result() for image in images])
    finally:
        pool.shutdown(cancel_futures=True)


def _require_finite(values: torch.Tensor, batch: range, backbone: Backbone, split: Split) -> None:
    """Raise `SweepError` naming the first image of `values` (B, S, L, D) that has a feature of inf or NaN."""
    finite = torch.isfinite(values).flatten(1).all(dim=1)
    if not finite.all():
        index = batch[int(finite.logical_not().nonzero()[0])]
        raise SweepError(
            f"{split.describe(index)}: backbone {backbone.name!r} gives features that are not "
            f"finite or exceed the largest float16 (65504). Use another backbone or remove the image"
        )


class _Entry:
    """One entry of the cache on disk: `folder` when complete, ``folder.partial`` while it grows.

    The caller holds the entry's lock.
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
        intact = sum(len(batch) for batch in _intact_batches(self.folder, self.image_bytes))
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
        intact = _intact_batches(self.partial, self.image_bytes)
        missing = [batch for batch in self.batches if batch not in intact]
        needed_bytes = self.shape[0] * self.image_bytes - (self.partial / DATA_FILE).stat().st_size
        free_bytes = shutil.disk_usage(self.partial).free
        if needed_bytes > 0 and free_bytes < needed_bytes + SPARE_BYTES:
            raise self._disk_full(needed_bytes, f"{free_bytes:,} bytes are free")
        return missing

    def write(self, batch: range, values: npt.NDArray[np.float16]) -> None:
        """Store the features (B, S, L, D) of one batch, then record that they are there."""
        content = values.astype(DTYPE, copy=False).tobytes()
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


def _intact_batches(folder: Path, image_bytes: int) -> set[range]:
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


def _write_durably(path: Path, content: bytes, *, mode: Literal["wb", "ab", "r+b"], offset: int = 0) -> None:
    with path.open(mode) as file:
        if offset:
            file.seek(offset)
        file.write(content)
        file.flush()
        os.fsync(file.fileno())
