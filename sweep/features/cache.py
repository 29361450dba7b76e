"""The feature cache: a backbone's stages for every image of a split, computed once and kept on disk.

An entry is one folder named by its key; `entry.py` has its format. A lock file beside the folder makes a second
process wait and then use what the first one computed. A batch counts as done once it is on disk.
"""

import hashlib
import json
import logging
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from filelock import FileLock, Timeout

from backbones.protocol import Backbone
from backbones.sizes import transform_record
from backbones.text_transform import BEYOND
from sweep.data.base import Split
from sweep.features.batches import StageData, stored_shape
from sweep.features.computing import computed
from sweep.features.entry import DTYPE, FORMAT_VERSION, Entry, note_use
from sweep.features.labels import labels_for
from sweep.features.rows import Rows
from sweep.machine.paths import ensure_folder
from sweep.tasks.targets import OF_CLASSES, Target

logger = logging.getLogger(__name__)

BATCH_SIZE = 32
"""Images in a batch of the feature pass, if not given."""

Fill = Callable[[Entry, Backbone, Split, Sequence[range], torch.device], Iterator[range]]
"""Computes batches that are missing in an entry, and yields each of them once it is in the entry.

Its arguments are the entry, the backbone on its device, the images, the missing batches, and the device.
"""


@dataclass(frozen=True)
class Features:
    """The stages of every image of a split.

    Attributes:
        stages: (n, S, L, D) float16, memory-mapped; writing to it changes only memory, never the cache. See
            `sweep.features.batches.stored_shape` for stages of several widths. Texts are stored without padding.
        labels: the labels of the split; for segmentation its label maps, see `sweep.features.labels`.
        key: the entry's key in the cache.
        from_cache: whether a complete, intact entry was found.
        wall_seconds: time this call took.
        n_computed: images for which the backbone ran in this call.
        widths: D of every stage.
        lengths: (n,) int64, number of tokens of every text; None for images.
    """

    stages: Rows
    labels: torch.Tensor
    key: str
    from_cache: bool
    wall_seconds: float
    n_computed: int
    widths: tuple[int, ...]
    lengths: torch.Tensor | None = None

    def as_data(self, n_classes: int, target: Target = OF_CLASSES) -> StageData:
        """The features and labels as the data of side-networks."""
        return StageData(self.stages, self.labels, n_classes, widths=self.widths, target=target, lengths=self.lengths)


def feature_parts(backbone: Backbone, split: Split) -> dict[str, Any]:
    """Everything the features depend on."""
    return {
        "format": FORMAT_VERSION,
        "backbone": backbone.name,
        "weights": backbone.fingerprint,
        "stages": list(backbone.stage_indices),
        "transform": transform_record(backbone.transform),
        "split": split.fingerprint,
        "dtype": DTYPE.str,
    }


def feature_key(backbone: Backbone, split: Split) -> str:
    """Return the SHA-256 hex digest over everything the features depend on."""
    parts = feature_parts(backbone, split)
    return hashlib.sha256(json.dumps(parts, sort_keys=True).encode()).hexdigest()


def compute_features(
    backbone: Backbone,
    split: Split,
    *,
    cache_dir: Path,
    batch_size: int = BATCH_SIZE,
    device: torch.device | str = "cpu",
    on_progress: Callable[[int, int], None] | None = None,
    fill: Fill | None = None,
) -> Features:
    """Return the stages of every image of `split`, from the cache or by running the backbone.

    Args:
        backbone: a frozen backbone, on `device`.
        split: the images.
        cache_dir: root of sweep's cache; the entry goes into ``cache_dir/features/KEY``.
        batch_size: B, images in one forward pass. A pass resumed with another batch size starts anew.
        device: where the images are sent.
        on_progress: called with (images done, images in all) after every batch.
        fill: computes what is missing; if not given, this process.

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
        n_tokens = stored_tokens(backbone, split) if split.kind == "texts" else None
        entry = Entry(folder, _shape(backbone, split), batch_size, n_tokens)
        from_cache = entry.is_complete()
        n_computed = 0 if from_cache else _fill(entry, backbone, split, device, on_progress, fill or fill_here)
        note_use(folder, {**feature_parts(backbone, split), "split_name": split.name})
        stages = entry.rows()
    finally:
        lock.release()
    return Features(
        stages=stages,
        labels=labels_for(backbone, split),
        key=key,
        from_cache=from_cache,
        wall_seconds=time.monotonic() - started,
        n_computed=n_computed,
        widths=tuple(backbone.widths),
        lengths=None if entry.lengths is None else torch.tensor(entry.lengths),
    )


def n_images_missing(backbone: Backbone, split: Split, cache_dir: Path, batch_size: int = BATCH_SIZE) -> int:
    """Return for how many images of `split` `compute_features` would run. A complete entry is not read again."""
    folder = cache_dir / "features" / feature_key(backbone, split)
    n_tokens = 0 if split.kind == "texts" else None  # their number does not matter before anything is written
    return Entry(folder, _shape(backbone, split), batch_size, n_tokens).n_missing()


def stored_tokens(backbone: Backbone, split: Split) -> int:
    """Return how many tokens of `split` the cache will hold. Images have `L` each; texts are not padded.

    Raises:
        SweepError: a text has no token.
    """
    if split.kind == "images":
        return split.n_images * backbone.tokens
    return sum(int((backbone.transform(split.open(index)) != BEYOND).sum()) for index in range(split.n_images))


def _shape(backbone: Backbone, split: Split) -> tuple[int, int, int, int]:
    return split.n_images, *stored_shape(backbone.widths, backbone.tokens)


def fill_here(
    entry: Entry, backbone: Backbone, split: Split, missing: Sequence[range], device: torch.device
) -> Iterator[range]:
    """A `Fill` in this process."""
    return computed(backbone, split, missing, device, entry.write)


def _fill(
    entry: Entry,
    backbone: Backbone,
    split: Split,
    device: torch.device | str,
    on_progress: Callable[[int, int], None] | None,
    fill: Fill,
) -> int:
    """Compute the batches that are missing in `entry`, complete it, and return the number of images computed."""
    missing = entry.resume()
    n_missing = sum(len(batch) for batch in missing)
    n_done = split.n_images - n_missing
    for batch in fill(entry, backbone, split, missing, torch.device(device)):
        n_done += len(batch)
        if on_progress is not None:
            on_progress(n_done, split.n_images)
    entry.finish()
    return n_missing
