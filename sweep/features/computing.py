"""Runs a backbone over batches of a split.

While the backbone computes batches, several threads decode the images of the next batch, and one thread stores the
features of the last one.
"""

from collections.abc import Callable, Generator, Iterable, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import closing
from dataclasses import dataclass
from functools import partial
from typing import TypeVar

import numpy as np
import numpy.typing as npt
import torch

from backbones.protocol import Backbone
from backbones.stages import lengths_of
from backbones.text_transform import BEYOND
from sweep.data.base import Split
from sweep.data.decoding import UnreadableImageError
from sweep.data.files import all_unreadable
from sweep.errors import SweepError
from sweep.features.batches import apart, stored_shape
from sweep.features.side_by_side import passes
from sweep.machine.ahead import ahead
from sweep.tasks.inputs import one_of

LARGEST_FEATURE = 65504.0  # in float16; a comparison with NaN is false, so what is below it is finite too
DECODING_THREADS = 4

Places = TypeVar("Places", bound=Sequence[int])
"""Indices of some images in their split."""

Store = Callable[[range, npt.NDArray[np.float16], list[int] | None], None]
"""Stores the features of a batch, `(B, S, L, D)`, and the number of tokens of each text; see `Entry.write`."""


def computed(
    backbone: Backbone, split: Split, batches: Iterable[range], device: torch.device, store: Store
) -> Iterator[range]:
    """Compute the features of some batches, and yield each batch once it is stored.

    Args:
        backbone: a frozen backbone, on `device`.
        split: the images.
        batches: indices of the images of each batch.
        device: where the images are sent.
        store: called in a thread of its own, for one batch after the other.

    Raises:
        SweepError: an image cannot be decoded, or a feature is not a finite float16.
    """

    def check_and_store(batch: range, rounded: _Rounded) -> None:
        if rounded.arrived is not None:
            rounded.arrived.synchronize()
        require_finite(rounded.values, rounded.extremes, batch, backbone, split)
        store(batch, rounded.values.numpy(), rounded.lengths)

    last: tuple[range, Future[None]] | None = None
    with (
        ThreadPoolExecutor(1, thread_name_prefix="write") as writer,
        closing(decoded(backbone, split, batches)) as ready,
        closing(passes(backbone, ready, partial(rounded_stages, device=device), device)) as computing,
    ):
        for batch, computed_ones in computing:
            rounded = _Rounded.of(*computed_ones)
            if last is not None:
                last[1].result()
                yield last[0]
            last = batch, writer.submit(check_and_store, batch, rounded)
        if last is not None:
            last[1].result()
            yield last[0]


def rounded_stages(
    backbone: Backbone, images: torch.Tensor, device: torch.device
) -> tuple[torch.Tensor, torch.Tensor, list[int] | None]:
    """Run the backbone once and round its stages to the cache's precision. The host does not wait for a GPU.

    Args:
        backbone: on `device`.
        images: (B, 3, H, W), on the host; or texts, (B, L).
        device: where they are sent.

    Returns:
        The features, (B, S, L, D) float16 (see `stored_shape` for several widths), where L is the length of the longest
        text; the smallest and the largest number of each stage before rounding, (S, 2), both on `device`; and the
        number of tokens of every text, None for images.
    """
    if backbone.kind == "texts":
        images = images[:, : int((images != BEYOND).sum(1).max())]
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


def decoded(backbone: Backbone, split: Split, batches: Iterable[Places]) -> Generator[tuple[Places, torch.Tensor]]:
    """Yield each batch with its (B, 3, H, W) input, while threads decode the next one."""

    def decode(index: int) -> torch.Tensor:
        return backbone.transform(split.open(index))

    pool = ThreadPoolExecutor(DECODING_THREADS, thread_name_prefix="decode")
    try:
        for batch, images in ahead(batches, lambda batch: [pool.submit(decode, index) for index in batch]):
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
