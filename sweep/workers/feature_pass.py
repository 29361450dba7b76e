"""The feature pass split over workers by ranges of images.

The run's process holds the lock of the cache's entry and gives ranges to workers. Workers that see the cache write
whole batches to their places in one file, and answer with checksums. The others send the features with their answer,
and the run's process writes them. It alone records which batches are there, and completes the entry. So a worker that
dies costs its range, which another one computes again. Until the first worker is ready, the run's process computes.

A worker may be unable to compute, for example because it does not see the images, or sees others under these names.
Then the run's process computes its range, and the worker gets no other one.
"""

import logging
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field, replace
from functools import partial
from typing import Any

import numpy as np
import numpy.typing as npt
import torch

from backbones.protocol import Backbone
from sweep.data.base import Split
from sweep.data.decoding import UnreadableImageError
from sweep.errors import SweepError
from sweep.features.cache import fill_here
from sweep.features.computing import computed, decoded
from sweep.features.entry import DTYPE, Entry, Part
from sweep.features.stored_batches import checksum_of
from sweep.machine.settings import computing_on
from sweep.workers.messages import WorkerFailure, WorkerLost
from sweep.workers.packing import CANNOT_BE_SENT, packed
from sweep.workers.patience import Patience
from sweep.workers.pool import WorkerPool

logger = logging.getLogger(__name__)

RANGE_SECONDS = 5.0
"""About as long takes a range. The first one has a single batch."""

MOST_BATCHES = 64
"""Most batches of a range."""

MOST_SENT_BYTES = 256 * 2**20
"""Most features that a worker which does not see the cache sends at a time; one batch may be larger."""

N_COMPARED = 4
"""Images that each worker decodes to see whether it gets the same pixels as the run's process."""

MOST_LOSSES = 5
"""Workers that may die one after the other before any of them has computed a range."""


@dataclass(frozen=True)
class Computed:
    """The answer of a worker that has computed features.

    Attributes:
        checksums: Checksum of every batch.
        sent: The features of every batch, (B, S, L, D) float16; empty if the worker has written them to the cache.
    """

    checksums: dict[range, int] = field(default_factory=dict)
    sent: dict[range, npt.NDArray[np.float16]] = field(default_factory=dict)

    def write(self, part: Part) -> None:
        """Write what was sent.

        Raises:
            SweepError: It has other checksums than when it was sent.
        """
        for batch, values in self.sent.items():
            if part.write(batch, values) != self.checksums[batch]:
                raise SweepError(
                    f"the features of images {batch.start} to {batch.stop - 1} did not arrive as a worker sent them; "
                    f"continue with sweep resume"
                )
        if self.sent:
            part.sync()


@dataclass(frozen=True)
class FeaturePass:
    """What a worker needs to compute features.

    Attributes:
        backbone: The backbone.
        split: The images.
        part: Where their features belong.
        pixels: Checksum of some images, see `pixels_of`.
    """

    backbone: Backbone
    split: Split
    part: Part
    pixels: int

    def check(self) -> None:
        """Raise `SweepError` if this process does not see the same images as the run's process."""
        if pixels_of(self.backbone, self._split_here()) != self.pixels:
            raise SweepError("it sees other images than this process, or decodes them to other pixels")

    def compute(self, batches: Sequence[range], device: torch.device, *, sees_cache: bool) -> Computed:
        """Compute batches. If this process sees the cache, write them to it, and return once they are on the disk.

        Raises:
            SweepError: An image cannot be decoded, or a feature is not a finite float16.
        """
        answer = Computed()

        def store(batch: range, values: npt.NDArray[np.float16], lengths: list[int] | None) -> None:
            if sees_cache:
                answer.checksums[batch] = self.part.write(batch, values)
            else:
                answer.sent[batch] = np.ascontiguousarray(values, dtype=DTYPE)
                answer.checksums[batch] = checksum_of(answer.sent[batch].data, None)

        for _ in computed(self.backbone, self._split_here(), batches, device, store):
            pass
        if sees_cache:
            self.part.sync()
        return answer

    def _split_here(self) -> Split:
        """The images for a worker. It does not look for all that it cannot read, as the run's process does."""

        def opened(index: int) -> Any:
            try:
                return self.split.open(index)
            except UnreadableImageError as error:
                raise SweepError(f"it cannot read the image {error.name}: {error.reason}") from error

        return replace(self.split, opener=opened)


def pixels_of(backbone: Backbone, split: Split) -> int:
    """Checksum of some images of a split as a backbone gets them."""
    places = range(0, split.n_images, -(-split.n_images // N_COMPARED))
    ((_, images),) = decoded(backbone, split, [places])
    return checksum_of(images.contiguous().numpy().data, None)


class FeaturesOnWorkers:
    """A `Fill` that has features computed by the workers of a pool.

    While none of them can compute, this process does. It also computes all texts, since the place of a batch of texts
    depends on those before it; and images that cannot be sent to another process.

    Args:
        pool: The workers.
        n_threads: Threads that each computes with, and this process too.
        patience: How long to wait for an answer of theirs.
        on_message: Told when a worker is lost, and once when one cannot compute.
    """

    def __init__(self, pool: WorkerPool, n_threads: int, patience: Patience, on_message: Callable[[str], None]):
        self.pool, self.n_threads, self.patience, self.on_message = pool, n_threads, patience, on_message
        self._unable = set[int]()

    def __call__(
        self, entry: Entry, backbone: Backbone, split: Split, missing: Sequence[range], device: torch.device
    ) -> Iterator[range]:
        """See `Fill`.

        Raises:
            SweepError: Workers die again and again, or features arrive otherwise than they were sent.
        """
        left, here = list(missing), partial(self._computed_here, entry, backbone, split, device)
        if split.kind == "texts":
            yield from here(left)
            return
        while left and not self._able():
            yield from here(self._next_here(left))
        if not left:
            return
        part = entry.in_parts()
        try:
            taking = packed(("take_pass", (FeaturePass(backbone, split, part, pixels_of(backbone, split)),)))
        except CANNOT_BE_SENT as error:
            logger.info("%s is computed in this process, as it cannot be sent to another one: %s", split.name, error)
            yield from here(left)
            return
        yield from self._filled(entry, part, taking, left, here)

    def _able(self) -> set[int]:
        """Numbers of the workers that may compute features now."""
        self.pool.welcome()
        return set(self.pool.ready) - self._unable

    def _next_here(self, left: list[range]) -> list[range]:
        """Take off the batches that this process computes now: the first one, or all if no worker will help."""
        n_batches = 1 if self.pool.n_starting else len(left)
        taken, left[:n_batches] = left[:n_batches], []
        return taken

    def _computed_here(
        self, entry: Entry, backbone: Backbone, split: Split, device: torch.device, batches: list[range]
    ) -> Iterator[range]:
        """Compute batches in this process."""
        with computing_on(self.n_threads):
            yield from fill_here(entry, backbone, split, batches, device)

    def _filled(
        self, entry: Entry, part: Part, taking: bytes, left: list[range], here: Callable[[list[range]], Iterator[range]]
    ) -> Iterator[range]:
        """Have the batches that are left computed, a range for every worker at a time."""
        batch_bytes = entry.image_bytes * len(entry.batches[0])
        has_pass = set[int]()
        n_batches, batch_seconds, n_losses = 1, 0.0, 0
        while left:
            if not (workers := self._able()):
                yield from here(self._next_here(left))
                continue
            new = dict.fromkeys(sorted(workers - has_pass), taking)
            has_pass |= {worker for worker, _ in self._called(new, 0.0)}
            most = max(1, MOST_SENT_BYTES // batch_bytes) if self.pool.apart else MOST_BATCHES
            ranges = _ranges(left, sorted(has_pass & self._able()), min(n_batches, most))
            started, done = time.monotonic(), set[range]()
            calls = {worker: packed(("compute_features", (batches,))) for worker, batches in ranges.items()}
            for worker, answer in self._called(calls, n_batches * batch_seconds):
                answer.write(part)
                entry.note(answer.checksums)
                done |= answer.checksums.keys()
                batch_seconds = max(batch_seconds, (time.monotonic() - started) / len(ranges[worker]))
                yield from answer.checksums
            for worker in sorted(ranges.keys() & self._unable):
                yield from here(ranges[worker])  # raises an error that names a damaged image
                done.update(ranges[worker])
            left[:0] = [batch for batches in ranges.values() for batch in batches if batch not in done]
            n_losses = 0 if done else n_losses + bool(workers - set(self.pool.ready))
            if n_losses >= MOST_LOSSES:
                raise SweepError(
                    f"{n_losses} times in a row, all workers were lost while they computed features. If the system "
                    f"ended them because memory ran out, lower --workers; then continue with sweep resume"
                )
            if batch_seconds:
                n_batches = max(1, min(MOST_BATCHES, int(RANGE_SECONDS / batch_seconds)))
        for _ in self._called(dict.fromkeys(has_pass & set(self.pool.ready), packed(("drop_pass", ()))), 0.0):
            pass

    def _called(self, calls: dict[int, bytes], expected_seconds: float) -> Iterator[tuple[int, Any]]:
        """Call workers. One that is lost, or that cannot do it, gives no answer."""
        for worker, answer in self.pool.call(calls, self.patience.beyond(expected_seconds)):
            if isinstance(answer, WorkerLost):
                self.on_message(f"worker {worker} {answer.reason}; its images are computed again")
            elif isinstance(answer, WorkerFailure):
                logger.info("worker %d cannot compute features:\n%s", worker, answer.text)
                if not self._unable:
                    reason = str(answer.error or answer.text.strip().splitlines()[-1]).rstrip(".")
                    self.on_message(
                        f"note: worker {worker} cannot compute features: {reason}. They are computed without it, and "
                        f"without others that cannot"
                    )
                self._unable.add(worker)
            else:
                yield worker, answer


def _ranges(left: list[range], workers: Sequence[int], n_batches: int) -> dict[int, list[range]]:
    """Take a range of at most so many batches for every worker off those that are left."""
    n_batches = min(n_batches, -(-len(left) // max(1, len(workers))))
    ranges = dict[int, list[range]]()
    for worker in workers[: len(left)]:
        ranges[worker], left[:n_batches] = left[:n_batches], []
    return ranges
