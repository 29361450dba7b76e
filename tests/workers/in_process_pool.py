"""A pool of workers in this process, for tests of what does not depend on processes."""

from collections.abc import Callable, Collection, Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch

from sweep.bench.simulated_workers import PlentyOfMemory
from sweep.workers.measured import Measured
from sweep.workers.messages import WorkerLost
from sweep.workers.packing import unpacked
from sweep.workers.serving import answer
from sweep.workers.shares import Shares
from sweep.workers.worker import LaneWorker


def plenty(lanes_each: int | None = None) -> Shares:
    """Shares of workers on which everything fits."""
    return Shares(PlentyOfMemory(), n_lanes=6, lanes_each=lanes_each)


class Measuring(LaneWorker):
    """A worker that may have something else than this machine."""

    def __init__(self, own: Measured | None, cache_dir: Path | None):
        super().__init__(torch.device("cpu"), cache_dir)
        self.own = own

    def measure(self) -> Measured:
        """See `LaneWorker`."""
        return self.own or super().measure()


@dataclass
class InProcessPool:
    """Workers in this process, one after the other. Calls and answers are packed as if they travelled.

    Attributes:
        n_workers: How many there are at first.
        deaths: By number of a worker, its so many-th call that it dies of: `"before"` or `"after"` it did its work.
        measured: What a worker measures, by its number; the others measure what there is.
        cache_of: The cache of a worker that does not see that of the run, by its number.
    """

    n_workers: int
    deaths: dict[int, tuple[int, str]]
    measured: Mapping[int, Measured] = field(default_factory=dict)
    cache_of: Callable[[int], Path | None] = lambda worker: None

    def __post_init__(self) -> None:
        self.ready: list[int] = []
        self.n_calls: dict[int, int] = {}
        self._workers: dict[int, LaneWorker] = {}
        self._starting = list(range(self.n_workers))

    @property
    def n_starting(self) -> int:
        """See `WorkerPool`."""
        return len(self._starting)

    @property
    def apart(self) -> Collection[int]:
        """See `WorkerPool`."""
        return [worker for worker in self.ready if self.cache_of(worker)]

    def call(self, calls: Mapping[int, bytes], timeout_seconds: float) -> Iterator[tuple[int, Any]]:
        """See `WorkerPool`."""
        for worker, call in calls.items():
            self.n_calls[worker] += 1
            number, when = self.deaths.get(worker, (0, ""))
            dies = number == self.n_calls[worker]
            result = None if dies and when == "before" else unpacked(answer(self._workers[worker], call))
            if dies:
                self.ready.remove(worker)
                del self._workers[worker]  # a process that dies holds no locks any more
                self._starting.append(max([*self.n_calls, *self._starting]) + 1)
                result = WorkerLost()
            yield worker, result

    def welcome(self, wait_seconds: float = 0.0) -> list[int]:
        """See `WorkerPool`."""
        new, self._starting = self._starting, []
        for worker in new:
            self._workers[worker] = Measuring(self.measured.get(worker), self.cache_of(worker))
            self.n_calls[worker] = 0
        self.ready += new
        return new

    def close(self) -> None:
        """See `WorkerPool`."""
        self._workers.clear()
