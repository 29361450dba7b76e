"""Workers as actors of a Ray cluster. Ray places them, carries the calls, and notices when one dies."""

import time
from collections.abc import Callable, Collection, Iterator, Mapping
from contextlib import suppress
from itertools import count
from pathlib import Path
from typing import Any

from sweep.errors import SweepError
from sweep.workers.cluster import Cluster, reason_of
from sweep.workers.local_pool import MOST_FAILED_STARTS
from sweep.workers.messages import WorkerLost
from sweep.workers.packing import unpacked
from sweep.workers.ray_worker import RayWorker, about_process

LARGE_BYTES = 100_000
"""A larger call that goes to several workers is sent to each node once."""


class RayPool:
    """A `WorkerPool` of actors. They end with this process, however it ends.

    Args:
        cluster: The cluster.
        n_threads: Threads that each computes with.
        on_message: Told when workers differ in what results may depend on, and which do not see the cache folder.
        marker: A file in the cache folder. Who sees it reads features there.

    Attributes:
        ready: Numbers of the workers that can be called.
    """

    def __init__(self, cluster: Cluster, n_threads: int, on_message: Callable[[str], None], marker: Path | None = None):
        self.marker = None if marker is None else str(marker)
        self.cluster, self.n_threads, self.on_message = cluster, n_threads, on_message
        self.ready: list[int] = []
        self.about: dict[int, dict[str, Any]] = {}
        self._ray = cluster.ray
        self._here = about_process("cuda" if cluster.on_gpus else "cpu")
        self._processors = {self._here["processor"]}
        self._hosts_apart = set[str]()
        self._actors: dict[int, Any] = {}
        self._starting: dict[Any, int] = {}
        self._numbers = count()
        self._failed_starts = 0
        self._cpus_each = cluster.cpus_each(n_threads)
        options = {"num_cpus": self._cpus_each, "num_gpus": int(cluster.on_gpus), "max_restarts": 0}
        self._new_actor = self._ray.remote(RayWorker).options(**options).remote
        self._start_all()

    @property
    def n_starting(self) -> int:
        """See `WorkerPool`."""
        return len(self._starting)

    @property
    def apart(self) -> Collection[int]:
        """See `WorkerPool`."""
        return [worker for worker in self.ready if not self.about[worker]["sees_cache"]]

    def call(self, calls: Mapping[int, bytes], timeout_seconds: float) -> Iterator[tuple[int, Any]]:
        """See `WorkerPool`."""
        deadline = time.monotonic() + timeout_seconds
        stored: dict[int, Any] = {}
        waiting: dict[Any, int] = {}
        for worker, call in calls.items():
            argument: Any = call
            if len(call) > LARGE_BYTES:
                if id(call) not in stored:
                    stored[id(call)] = self._asked(self._ray.put, call)
                argument = stored[id(call)]
            waiting[self._asked(self._actors[worker].answer.remote, argument)] = worker
        while waiting:
            arrived = self._arrived(waiting, deadline)
            for answer in arrived:
                worker = waiting.pop(answer)
                yield worker, self._received(worker, answer)
            if not arrived:
                for worker in waiting.values():
                    self._replace(worker)
                    yield worker, WorkerLost.silent(timeout_seconds)
                return

    def _arrived(self, waiting: Mapping[Any, int], deadline: float) -> list[Any]:
        """The first of some answers; none if the time is over."""
        left_seconds = max(0.0, deadline - time.monotonic())
        arrived, _ = self._asked(self._ray.wait, list(waiting), num_returns=1, timeout=left_seconds)
        return list(arrived)

    def _asked(self, function: Callable[..., Any], *arguments: Any, **options: Any) -> Any:
        """What a function of Ray's returns.

        Raises:
            SweepError: The cluster is gone, or cannot be reached any more.
        """
        try:
            return function(*arguments, **options)
        except ConnectionError as error:
            raise SweepError(
                f"the connection to the Ray cluster {self.cluster.asked.cluster} broke: {reason_of(error)}. Continue "
                f"with sweep resume, with or without --cluster"
            ) from error

    def _received(self, worker: int, answer: Any) -> Any:
        try:
            return unpacked(self._asked(self._ray.get, answer))
        except self._ray.exceptions.RayTaskError:  # an error in sweep itself
            raise
        except self._ray.exceptions.RayError:
            self._replace(worker)
            return WorkerLost()

    def welcome(self, wait_seconds: float = 0.0) -> list[int]:
        """See `WorkerPool`."""
        deadline = time.monotonic() + wait_seconds
        self._start_all()
        new: list[int] = []
        while self._starting and not new:
            arrived = self._arrived(self._starting, deadline)
            new += [worker for answer in arrived if (worker := self._begun(answer)) is not None]
            if not arrived:
                break
        self.ready += new
        return new

    def _begun(self, answer: Any) -> int | None:
        """The number of a worker that is ready; None if it has died, and another one is being started."""
        worker = self._starting.pop(answer)
        try:
            about = self._asked(self._ray.get, answer)
        except self._ray.exceptions.RayError as error:
            self._end(worker)
            self._failed_starts += 1
            if self._failed_starts >= MOST_FAILED_STARTS:
                raise SweepError(
                    f"{self._failed_starts} workers in a row ended before they were ready: {reason_of(error)}. All "
                    f"machines of the cluster need the same sweep and its packages. Continue without workers: sweep "
                    f"resume RUN --workers 0"
                ) from error
            self._start()
            return None
        self._failed_starts = 0
        self._compare(worker, about)
        return worker

    def _compare(self, worker: int, about: dict[str, Any]) -> None:
        """Say how a worker differs from this process.

        Raises:
            SweepError: In the version of a package.
        """
        for package, version in self._here["versions"].items():
            if about["versions"][package] != version:
                raise SweepError(
                    f"{about['host']} has {package} {about['versions'][package]}, and this process has {version}. "
                    f"Install the same version on all machines, since results could differ"
                )
        if about["processor"] not in self._processors:
            self._processors.add(about["processor"])
            self.on_message(
                f"note: worker {worker} on {about['host']} computes on {about['processor']}, and this process on "
                f"{self._here['processor']}: the last digits of results may depend on which worker trains a trial"
            )
        if not about["sees_cache"] and about["host"] not in self._hosts_apart:
            self._hosts_apart.add(about["host"])
            self.on_message(
                f"note: {about['host']} does not see the cache folder {Path(self.marker or '').parent} of this "
                f"machine. It is sent the features that its trials need, and keeps them in {about['cache_dir']}"
            )
        self.about[worker] = about

    def _start_all(self) -> None:
        """Start the workers that are missing, also for nodes that have joined since."""
        while len(self._actors) < self._asked(self.cluster.n_workers, self._cpus_each):
            self._start()

    def _start(self) -> None:
        """Start a worker; it is ready some seconds later, or when the cluster has room for it."""
        worker = next(self._numbers)
        actor = self._asked(self._new_actor, self.n_threads, self.cluster.on_gpus, self.marker)
        self._actors[worker] = actor
        self._starting[self._asked(actor.about.remote)] = worker

    def _replace(self, worker: int) -> None:
        self.ready.remove(worker)
        self._end(worker)
        self._start()

    def _end(self, worker: int) -> None:
        with suppress(ConnectionError):  # then Ray ends it by itself
            self._ray.kill(self._actors.pop(worker))
        self.about.pop(worker, None)

    def close(self) -> None:
        """See `WorkerPool`."""
        for worker in list(self._actors):
            self._end(worker)
        self.ready, self._starting = [], {}
