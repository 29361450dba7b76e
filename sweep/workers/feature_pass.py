"""The feature pass split over workers by ranges of images.

The run's process holds the lock of the cache's entry and gives ranges to workers. They write whole batches to their
places in one file, and answer with checksums; the run's process alone records which batches are there, and completes
the entry. So a worker that dies costs its range, which another one computes again. Until the first worker is ready, the
run's process computes by itself.
"""

import logging
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from functools import partial

import numpy as np
import numpy.typing as npt
import torch

from backbones.protocol import Backbone
from sweep.data.base import Split
from sweep.errors import SweepError
from sweep.features.cache import fill_here
from sweep.features.computing import computed
from sweep.features.entry import Entry, Part
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

MOST_LOSSES = 5
"""Workers that may die one after the other before any of them has computed a range."""


@dataclass(frozen=True)
class FeaturePass:
    """What a worker needs to compute features.

    Attributes:
        backbone: The backbone.
        split: The images.
        part: Where their features belong.
    """

    backbone: Backbone
    split: Split
    part: Part

    def compute(self, batches: Sequence[range], device: torch.device) -> dict[range, int]:
        """Compute batches and write them; returns their checksums once they are on the disk.

        Raises:
            SweepError: An image cannot be decoded, or a feature is not a finite float16.
        """
        checksums: dict[range, int] = {}

        def store(batch: range, values: npt.NDArray[np.float16], lengths: list[int] | None) -> None:
            checksums[batch] = self.part.write(batch, values)

        for _ in computed(self.backbone, self.split, batches, device, store):
            pass
        self.part.sync()
        return checksums


class FeaturesOnWorkers:
    """A `Fill` that has features computed by those workers of a pool that see the same cache as this process.

    While there are none, this process computes. It also computes all texts, since the place of a batch of texts depends
    on those before it; and images that cannot be sent to another process.

    Args:
        pool: The workers.
        n_threads: Threads that each computes with, and this process too.
        patience: How long to wait for an answer of theirs.
        on_message: Told when a worker is lost.
    """

    def __init__(self, pool: WorkerPool, n_threads: int, patience: Patience, on_message: Callable[[str], None]):
        self.pool, self.n_threads, self.patience, self.on_message = pool, n_threads, patience, on_message

    def __call__(
        self, entry: Entry, backbone: Backbone, split: Split, missing: Sequence[range], device: torch.device
    ) -> Iterator[range]:
        """See `Fill`.

        Raises:
            SweepError: Workers die again and again.
        """
        left, here = list(missing), partial(self._computed_here, entry, backbone, split, device)
        while left and (split.kind == "texts" or not self._workers()):
            yield from here(left)
        if not left:
            return
        try:
            taking = packed(("take_pass", (FeaturePass(backbone, split, entry.in_parts()),)))
        except CANNOT_BE_SENT as error:
            logger.info("%s is computed in this process, as it cannot be sent to another one: %s", split.name, error)
            with computing_on(self.n_threads):
                yield from fill_here(entry, backbone, split, left, device)
            return
        yield from self._filled(entry, taking, left, here)

    def _workers(self) -> set[int]:
        """Numbers of the workers that can compute features now."""
        self.pool.welcome()
        return set(self.pool.ready) - set(self.pool.apart)

    def _computed_here(
        self, entry: Entry, backbone: Backbone, split: Split, device: torch.device, left: list[range]
    ) -> Iterator[range]:
        """Compute the first of the batches that are left in this process; all of them if no worker can help."""
        n_batches = 1 if self.pool.n_starting and split.kind == "images" else len(left)
        with computing_on(self.n_threads):
            yield from fill_here(entry, backbone, split, left[:n_batches], device)
        del left[:n_batches]

    def _filled(
        self, entry: Entry, taking: bytes, left: list[range], here: Callable[[list[range]], Iterator[range]]
    ) -> Iterator[range]:
        """Have the batches that are left computed, a range for every worker at a time."""
        has_pass = set[int]()
        n_batches, batch_seconds, n_losses = 1, 0.0, 0
        while left:
            if not (workers_now := self._workers()):
                yield from here(left)
                continue
            new = dict.fromkeys(sorted(workers_now - has_pass), taking)
            has_pass |= {worker for worker, _ in self._called(new, 0.0)}
            workers, ranges = sorted(has_pass & set(self.pool.ready)), dict[int, list[range]]()
            n_batches = min(n_batches, -(-len(left) // max(1, len(workers))))
            for worker in workers[: len(left)]:
                ranges[worker], left = left[:n_batches], left[n_batches:]
            started, done = time.monotonic(), set[range]()
            calls = {worker: packed(("compute_features", (batches,))) for worker, batches in ranges.items()}
            for worker, checksums in self._called(calls, n_batches * batch_seconds):
                entry.note(checksums)
                done |= checksums.keys()
                batch_seconds = max(batch_seconds, (time.monotonic() - started) / len(ranges[worker]))
                yield from checksums
            left = [batch for batches in ranges.values() for batch in batches if batch not in done] + left
            n_losses = 0 if done else n_losses + 1
            if n_losses >= MOST_LOSSES:
                raise SweepError(
                    f"{n_losses} times in a row, all workers were lost while they computed features. If the system "
                    f"ended them because memory ran out, lower --workers; then continue with sweep resume"
                )
            if batch_seconds:
                n_batches = max(1, min(MOST_BATCHES, int(RANGE_SECONDS / batch_seconds)))
        for _ in self._called(dict.fromkeys(has_pass & set(self.pool.ready), packed(("drop_pass", ()))), 0.0):
            pass

    def _called(self, calls: dict[int, bytes], expected_seconds: float) -> Iterator[tuple[int, dict[range, int]]]:
        """Call workers. One that is lost gives no answer; errors as `TrainingOnWorkers`."""
        for worker, answer in self.pool.call(calls, self.patience.beyond(expected_seconds)):
            if isinstance(answer, WorkerLost):
                self.on_message(f"worker {worker} {answer.reason}; its images are computed again")
            elif isinstance(answer, WorkerFailure):
                raise answer.error or RuntimeError(f"worker {worker} failed:\n{answer.text}")
            else:
                yield worker, answer
