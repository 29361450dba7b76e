"""The feature cache: a backbone's stages for every image of a split, computed once and kept on disk.

An entry is one folder named by its key; `entry.py` has its format. A lock file beside the folder makes a second
process wait and then use what the first one computed.

While the backbone computes a batch, several threads decode the images of the next batch, and one thread writes the
features of the last batch. A batch counts as done once it is on disk.
"""

import hashlib
import json
import logging
import time
from collections.abc import Callable, Generator, Iterable, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import closing
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeVar

import numpy as np
import torch
from filelock import FileLock, Timeout

from backbones.protocol import Backbone
from backbones.sizes import transform_record
from backbones.stages import lengths_of
from backbones.text_transform import BEYOND
from sweep.data.base import Split
from sweep.data.decoding import UnreadableImageError
from sweep.data.files import all_unreadable
from sweep.errors import SweepError
from sweep.features.batches import Rows, StageData, apart, stored_shape
from sweep.features.entry import DTYPE, FORMAT_VERSION, Entry, intact_batches, note_use
from sweep.features.labels import labels_for
from sweep.machine.ahead import one_ahead
from sweep.machine.paths import ensure_folder
from sweep.tasks.inputs import one_of
from sweep.tasks.targets import OF_CLASSES, Target

logger = logging.getLogger(__name__)

LARGEST_FEATURE = 65504.0  # in float16; a comparison with NaN is false, so what is below it is finite too
DECODING_THREADS = 4

Places = TypeVar("Places", bound=Sequence[int])
"""Indices of some images in their split."""


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
        n_tokens = stored_tokens(backbone, split) if split.kind == "texts" else None
        entry = Entry(folder, _shape(backbone, split), batch_size, n_tokens)
        from_cache = entry.is_complete()
        n_computed = 0 if from_cache else _fill(entry, backbone, split, device, on_progress)
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


def n_images_missing(backbone: Backbone, split: Split, cache_dir: Path) -> int:
    """Return how many images of `split` are missing in the cache. A complete entry is not read again."""
    folder = cache_dir / "features" / feature_key(backbone, split)
    if folder.is_dir():
        return 0
    _, *image_shape = _shape(backbone, split)
    intact = intact_batches(folder.with_suffix(".partial"), int(np.prod(image_shape)) * DTYPE.itemsize)
    return split.n_images - sum(len(batch) for batch in intact)


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


def _fill(
    entry: Entry,
    backbone: Backbone,
    split: Split,
    device: torch.device | str,
    on_progress: Callable[[int, int], None] | None,
) -> int:
    """Compute the batches that are missing in `entry`, complete it, and return the number of images computed."""
    missing = entry.resume()
    n_computed = 0
    n_done = split.n_images - sum(len(batch) for batch in missing)

    def written(batch: range, writing: Future[None]) -> None:
        nonlocal n_done
        writing.result()
        n_done += len(batch)
        if on_progress is not None:
            on_progress(n_done, split.n_images)

    last: tuple[range, Future[None]] | None = None
    with (
        ThreadPoolExecutor(1, thread_name_prefix="write") as writer,
        closing(decoded(backbone, split, missing)) as ready,
    ):
        for batch, images in ready:
            rounded = _Rounded.of(*rounded_stages(backbone, images, torch.device(device)))
            if last is not None:
                written(*last)
            last = batch, writer.submit(_store, entry, batch, rounded, backbone, split)
            n_computed += len(batch)
        if last is not None:
            written(*last)
    entry.finish()
    return n_computed


def rounded_stages(
    backbone: Backbone, images: torch.Tensor, device: torch.device
) -> tuple[torch.Tensor, torch.Tensor, list[int] | None]:
    """Run the backbone once and round its stages to the cache's precision. The host does not wait for a GPU.

    Args:
        backbone: on `device`.
        images: (B, 3, H, W), on the host; or texts, (B, L).
        device: where they are sent.

    Returns:
        The features, (B, S, L, D) float16 (see `stored_shape` for several widths); the smallest and the largest number
        of each stage before rounding, (S, 2), both on `device`; and the number of tokens of every text, None for
        images.
    """
    sent = images.pin_memory().to(device, non_blocking=True) if device.type == "cuda" else images
    taps = backbone.stages(sent)
    batch, tokens, _ = taps[0].shape
    widths = [tap.shape[2] for tap in taps]
    shape = (batch, *stored_shape(widths, tokens))
    values = torch.empty(shape, dtype=torch.float16, device=taps[0].device)
    for place, tap in zip(apart(values.transpose(0, 1), widths), taps, strict=True):
        place.copy_(tap)  # one pass: rounded on its way to its place
    lengths = lengths_of(taps)
    extremes = torch.stack([torch.stack(tap.aminmax()) for tap in taps])
    return values, extremes, None if lengths is None else lengths.tolist()


@dataclass(frozen=True)
class _Rounded:
    """The result of `rounded_stages` while it is being copied to the host.

    Attributes:
        values: (B, S, L, D) float16 (see `stored_shape`), on the host; pinned if they come from a GPU.
        extremes: (S, 2), smallest and largest features before rounding, on the host.
        lengths: (B,), number of tokens of every text, on the host; None for images.
        arrived: the event to wait for before the values are read; None if they are there.
    """

    values: torch.Tensor
    extremes: torch.Tensor
    lengths: list[int] | None
    arrived: torch.cuda.Event | None

    @classmethod
    def of(cls, values: torch.Tensor, extremes: torch.Tensor, lengths: list[int] | None) -> "_Rounded":
        """Send them without waiting for a GPU to have computed them."""
        if values.device.type == "cpu":
            return cls(values, extremes, lengths, None)
        values, extremes = (
            torch.empty_like(x, device="cpu", pin_memory=True).copy_(x, non_blocking=True) for x in (values, extremes)
        )
        arrived = torch.cuda.Event()
        arrived.record()
        return cls(values, extremes, lengths, arrived)


def _store(entry: Entry, batch: range, rounded: _Rounded, backbone: Backbone, split: Split) -> None:
    """Check and write one batch; this runs in its own thread."""
    if rounded.arrived is not None:
        rounded.arrived.synchronize()
    require_finite(rounded.values, rounded.extremes, batch, backbone, split)
    entry.write(batch, rounded.values.numpy(), rounded.lengths)


def decoded(backbone: Backbone, split: Split, batches: Iterable[Places]) -> Generator[tuple[Places, torch.Tensor]]:
    """Yield each batch with its (B, 3, H, W) input, while threads decode the next one."""

    def decode(index: int) -> torch.Tensor:
        return backbone.transform(split.open(index))

    pool = ThreadPoolExecutor(DECODING_THREADS, thread_name_prefix="decode")
    try:
        for batch, images in one_ahead(batches, lambda batch: [pool.submit(decode, index) for index in batch]):
            try:
                ready = torch.stack([image.result() for image in images])
            except UnreadableImageError as error:
                raise all_unreadable(split, error) from error
            yield batch, ready
    finally:
        pool.shutdown(cancel_futures=True)


def require_finite(
    values: torch.Tensor, extremes: torch.Tensor, batch: Sequence[int], backbone: Backbone, split: Split
) -> None:
    """Raise `SweepError` for the first image of a batch with a feature that is inf or NaN; see `rounded_stages`."""
    if bool((extremes.abs() < LARGEST_FEATURE).all()):
        return
    finite = torch.isfinite(values).flatten(1).all(dim=1)
    if not finite.all():
        index = batch[int(finite.logical_not().nonzero()[0])]
        raise SweepError(
            f"{split.describe(index)}: backbone {backbone.name!r} gives features that are not "
            f"finite or exceed the largest float16 (65504). Use another backbone or remove the {one_of(split.kind)}"
        )
