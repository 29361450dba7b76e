"""Actors that do not see the cache folder of the run."""

import os
import shutil
import signal
from collections import Counter
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest

from sweep.features.stored_batches import DATA_FILE
from sweep.workers.messages import WorkerLost
from sweep.workers.packing import unpacked
from sweep.workers.ray_pool import RayPool

PART_BYTES = 30_000


class Apart:
    """Lets actors not see the cache folder of the run, and counts what they receive.

    Args:
        cache: The cache folder of all actors, or of those on the first node.

    Attributes:
        pools: The pools that have called actors.
        received: How often each part was received, by its hash.
        killed_at: Number of the part whose receiver is killed when it has it; 0 for none.
    """

    def __init__(self, cache: Path, patch: pytest.MonkeyPatch):
        self.cache, self.received, self.killed_at = cache, Counter[int](), 0
        self.pools: list[RayPool] = []
        self._call = RayPool.call
        patch.setattr("sweep.running.trainers.marker_file", self.unseen)
        patch.setattr("sweep.features.copying.PART_BYTES", PART_BYTES)

        def call(pool: RayPool, calls: Mapping[int, bytes], timeout_seconds: float) -> Iterator[tuple[int, Any]]:
            return self.call(pool, calls, timeout_seconds)

        patch.setattr(RayPool, "call", call)
        shutil.rmtree(cache, ignore_errors=True)

    @staticmethod
    @contextmanager
    def unseen(cache: Path) -> Iterator[Path]:
        yield cache / "not there"

    def call(self, pool: RayPool, calls: Mapping[int, bytes], timeout_seconds: float) -> Iterator[tuple[int, Any]]:
        if pool not in self.pools:
            self.pools.append(pool)
        parts = {worker: hash(call) for worker, call in calls.items() if unpacked(call)[0] == "take_features"}
        for worker, answer in self._call(pool, calls, timeout_seconds):
            if worker in parts and not isinstance(answer, WorkerLost):
                self.received[parts[worker]] += 1
                if self.received.total() == self.killed_at:
                    os.kill(pool.about[worker]["process_id"], signal.SIGKILL)
            yield worker, answer

    def check(self, source: Path) -> None:
        """Assert that training and validation set were received once by all actors together, and are complete."""
        self.check_cache(self.cache, source)
        assert set(self.received.values()) == {1}

    def check_cache(self, cache: Path, source: Path) -> None:
        """Assert that training and validation set are complete in a cache folder of actors.

        Args:
            cache: That folder.
            source: The cache folder of the run.
        """
        entries = [path for path in (cache / "features").iterdir() if path.is_dir()]
        assert len(entries) == 2, "the test set is not sent"
        contents = [(path / DATA_FILE).read_bytes() for path in entries]
        assert contents == [(source / "features" / path.name / DATA_FILE).read_bytes() for path in entries]
        assert len(self.received) == sum(-(-len(content) // PART_BYTES) for content in contents) > 2
