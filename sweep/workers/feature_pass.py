"""The feature pass split over workers by ranges of images or texts.

The run's process holds the lock of the cache's entry and gives ranges to workers. Workers that see the cache write
whole batches of images to their places in one file, and answer with checksums. The others send the features with their
answer, and the run's process writes them. Texts are always sent, since their place in the file depends on those before
them; the run's process writes them in order. It alone records which batches are there, and completes the entry. So a
worker that dies costs its range, which another one computes again. Until the first worker is ready, the run's process
computes.

A worker may be unable to compute, for example because it does not see the images, or sees others under these names.
Then the run's process computes its range, and the worker gets no other one.
"""

import logging
import time
from collections import deque
from collections.abc import Callable, Iterable, Iterator, Sequence
from functools import partial
from typing import Any

import numpy as np
import numpy.typing as npt
import torch

from backbones.protocol import Backbone
from sweep.data.base import Split
from sweep.errors import SweepError
from sweep.features.computing import Store, computed
from sweep.features.entry import Entry, Part
from sweep.machine.settings import computing_on
from sweep.workers.feature_ranges import Computed, FeaturePass, inputs_of
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

MOST_LOSSES = 5
"""Workers that may die one after the other before any of them has computed a range."""


class FeaturesOnWorkers:
    """A `Fill` that has features computed by the workers of a pool.

    While none of them can compute, this process does. It also computes images that cannot be sent to another process.

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
        store = entry.write if split.kind == "images" else _InOrder(entry, missing).store
        left, here = list(missing), partial(self._computed_here, backbone, split, device, store)
        while left and not self._able():
            yield from here(self._next_here(left))
        if not left:
            return
        part = entry.in_parts() if split.kind == "images" else None
        try:
            taking = packed(("take_pass", (FeaturePass(backbone, split, part, inputs_of(backbone, split)),)))
        except CANNOT_BE_SENT as error:
            logger.info("%s is computed in this process, as it cannot be sent to another one: %s", split.name, error)
            yield from here(left)
            return
        keep = partial(_store_all, store) if part is None else partial(_store_parts, entry, part)
        yield from self._filled(entry, keep, taking, left, here)

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
        self, backbone: Backbone, split: Split, device: torch.device, store: Store, batches: list[range]
    ) -> Iterator[range]:
        """Compute batches in this process."""
        with computing_on(self.n_threads):
            yield from computed(backbone, split, batches, device, store)

    def _filled(
        self,
        entry: Entry,
        keep: Callable[[Computed], None],
        taking: bytes,
        left: list[range],
        here: Callable[[list[range]], Iterator[range]],
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
            most = max(1, MOST_SENT_BYTES // batch_bytes) if self.pool.apart or entry.packs else MOST_BATCHES
            ranges = _ranges(left, sorted(has_pass & self._able()), min(n_batches, most))
            started, done = time.monotonic(), set[range]()
            calls = {worker: packed(("compute_features", (batches,))) for worker, batches in ranges.items()}
            for worker, answer in self._called(calls, n_batches * batch_seconds):
                keep(answer)
                done |= answer.checksums.keys()
                batch_seconds = max(batch_seconds, (time.monotonic() - started) / len(ranges[worker]))
                yield from answer.checksums
            for worker in sorted(ranges.keys() & self._unable):
                yield from here(ranges[worker])  # raises an error that names what is damaged
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


class _InOrder:
    """Writes batches of texts in order, whoever computes them, so that the file is that of one process.

    Args:
        entry: Where they belong.
        batches: The batches in their order.
    """

    def __init__(self, entry: Entry, batches: Iterable[range]):
        self.entry = entry
        self._left = deque(batches)
        self._held: dict[range, tuple[npt.NDArray[np.float16], list[int] | None]] = {}

    def store(self, batch: range, values: npt.NDArray[np.float16], lengths: list[int] | None) -> None:
        """Write a batch, and those that wait for it; or have it wait for batches before it."""
        self._held[batch] = values, lengths
        while self._left and self._left[0] in self._held:
            first = self._left.popleft()
            self.entry.write(first, *self._held.pop(first))


def _store_all(store: Store, answer: Computed) -> None:
    """Store what a worker has sent."""
    answer.check()
    for batch, values in answer.sent.items():
        store(batch, values, answer.lengths[batch])


def _store_parts(entry: Entry, part: Part, answer: Computed) -> None:
    """Write what a worker has sent to its place, and record this and what it has written itself."""
    answer.check()
    for batch, values in answer.sent.items():
        part.write(batch, values)
    if answer.sent:
        part.sync()
    entry.note(answer.checksums)


def _ranges(left: list[range], workers: Sequence[int], n_batches: int) -> dict[int, list[range]]:
    """Take a range of at most so many batches for every worker off those that are left."""
    n_batches = min(n_batches, -(-len(left) // max(1, len(workers))))
    ranges = dict[int, list[range]]()
    for worker in workers[: len(left)]:
        ranges[worker], left[:n_batches] = left[:n_batches], []
    return ranges
