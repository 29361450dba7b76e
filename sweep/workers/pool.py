"""What is asked of a pool of workers."""

from collections.abc import Callable, Collection, Iterator, Mapping
from typing import Any, Protocol

Call = Callable[[Mapping[int, bytes], float], Iterator[tuple[int, Any]]]
"""Calls workers: packed calls by worker, and the seconds that they should take. One that is lost gives no answer.

A call is the name of a method of `LaneWorker` and its arguments.
"""


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
