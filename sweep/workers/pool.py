"""The workers of a run: what is asked of a pool of them, and a pool in this process for tests."""

from collections.abc import Callable, Collection, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol

import torch

from sweep.workers.messages import WorkerLost
from sweep.workers.packing import unpacked
from sweep.workers.serving import answer
from sweep.workers.worker import LaneWorker

Call = tuple[str, tuple[Any, ...]]
"""The name of a method of `LaneWorker`, and its arguments."""


class WorkerPool(Protocol):
    """Some workers, each with a number that no other one gets.

    Attributes:
        ready: Numbers of the workers that can be called.
    """

    ready: list[int]

    @property
    def n_starting(self) -> int:
        """Number of workers that have been started and are not ready yet."""

    @property
    def apart(self) -> Collection[int]:
        """Numbers of the ready workers that do not see the run's cache folder, and keep features in another one."""

    def call(self, calls: Mapping[int, bytes], timeout_seconds: float) -> Iterator[tuple[int, Any]]:
        """Call several workers at once.

        Args:
            calls: Packed calls by number of a worker.
            timeout_seconds: A worker that has not answered after this time is ended.

        Yields:
            Numbers and answers as they arrive: what the method returned, a `WorkerFailure`, or a `WorkerLost`. A worker
            that is lost is no longer ready; another one is being started in its place.
        """

    def welcome(self, wait_seconds: float = 0.0) -> list[int]:
        """Make workers ready that have been started.

        Args:
            wait_seconds: How long to wait until there is at least one.

        Returns:
            Their numbers.

        Raises:
            SweepError: Workers cannot be started.
        """

    def close(self) -> None:
        """End all workers."""


@dataclass
class InProcessPool:
    """Workers in this process, one after the other. Calls and answers are packed as if they travelled.

    Attributes:
        n_workers: How many there are at first.
        deaths: By number of a worker, its so many-th call that it dies of: `"before"` or `"after"` it did its work.
        most_lanes: See `LaneWorker`.
        cache_of: The cache of a worker that does not see that of the run, by its number.
    """

    n_workers: int
    deaths: dict[int, tuple[int, str]]
    most_lanes: int | None = None
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
            self._workers[worker] = LaneWorker(torch.device("cpu"), self.most_lanes, self.cache_of(worker))
            self.n_calls[worker] = 0
        self.ready += new
        return new

    def close(self) -> None:
        """See `WorkerPool`."""
        self._workers.clear()
