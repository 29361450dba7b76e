"""Workers as processes of this machine."""

import os
import socket
import subprocess
import sys
import time
from collections.abc import Collection, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import count
from multiprocessing.connection import Connection
from multiprocessing.connection import wait as wait_for
from typing import Any

from sweep.errors import SweepError
from sweep.workers.messages import WorkerLost
from sweep.workers.packing import unpacked
from sweep.workers.process import READY

MOST_FAILED_STARTS = 3
"""Workers in a row that die before they are ready, after which it is no accident."""


@dataclass(frozen=True)
class _Process:
    popen: "subprocess.Popen[bytes]"
    connection: Connection
    device: str

    def end(self) -> int:
        """End the process, and return its exit code, negative for a signal."""
        self.popen.kill()
        self.connection.close()
        return self.popen.wait()


class LocalPool:
    """A `WorkerPool` of processes that end with this one, however it ends.

    Args:
        devices: Device of every worker.
        n_threads: Threads that each computes with.

    Attributes:
        ready: Numbers of the workers that can be called.
    """

    def __init__(self, devices: Sequence[str], n_threads: int):
        self.n_threads = n_threads
        self.ready: list[int] = []
        self._processes: dict[int, _Process] = {}
        self._starting: list[int] = []
        self._numbers = count()
        self._failed_starts = 0
        for device in devices:
            self._start(device)

    @property
    def n_starting(self) -> int:
        """See `WorkerPool`."""
        return len(self._starting)

    @property
    def apart(self) -> Collection[int]:
        """See `WorkerPool`; all processes of a machine see the same folders."""
        return ()

    @property
    def process_ids(self) -> list[int]:
        """Of all workers, ready or not."""
        return [process.popen.pid for process in self._processes.values()]

    def call(self, calls: Mapping[int, bytes], timeout_seconds: float) -> Iterator[tuple[int, Any]]:
        """See `WorkerPool`."""
        deadline = time.monotonic() + timeout_seconds
        waiting: dict[Connection, int] = {}
        for worker, call in calls.items():
            connection = self._processes[worker].connection
            try:
                connection.send_bytes(call)
                waiting[connection] = worker
            except OSError:
                self._replace(worker)
                yield worker, WorkerLost()
        while waiting:
            arrived = _arrived(waiting, max(0.0, deadline - time.monotonic()))
            for connection in arrived:
                worker = waiting.pop(connection)
                yield worker, self._received(worker)
            if not arrived:
                for worker in waiting.values():
                    self._replace(worker)
                    yield worker, WorkerLost.silent(timeout_seconds)
                return

    def _received(self, worker: int) -> Any:
        try:
            return unpacked(self._processes[worker].connection.recv_bytes())
        except (EOFError, OSError):
            self._replace(worker)
            return WorkerLost()

    def welcome(self, wait_seconds: float = 0.0) -> list[int]:
        """See `WorkerPool`."""
        deadline = time.monotonic() + wait_seconds
        new: list[int] = []
        while self._starting and not new:
            connections = {self._processes[worker].connection: worker for worker in self._starting}
            arrived = _arrived(connections, max(0.0, deadline - time.monotonic()))
            for connection in arrived:
                if self._is_ready(worker := connections[connection]):
                    new.append(worker)
            if not arrived:
                break
        self.ready += new
        return new

    def _is_ready(self, worker: int) -> bool:
        """Whether a worker that has been started can be called; another one is started for one that has died."""
        self._starting.remove(worker)
        try:
            if self._processes[worker].connection.recv_bytes() == READY:
                self._failed_starts = 0
                return True
        except (EOFError, OSError):
            pass
        self._failed_starts += 1
        device, code = self._processes[worker].device, self._processes.pop(worker).end()
        if self._failed_starts >= MOST_FAILED_STARTS:
            raise SweepError(
                f"{self._failed_starts} workers in a row ended before they were ready, the last one with exit code "
                f"{code}; what it printed is above. Continue without workers: sweep resume RUN --workers 0"
            )
        self._start(device)
        return False

    def _start(self, device: str) -> None:
        """Start a worker; it is ready some seconds later."""
        ours, theirs = socket.socketpair()
        with theirs:
            arguments = [str(theirs.fileno()), device, str(self.n_threads)]
            popen = subprocess.Popen(
                [sys.executable, "-P", "-m", "sweep.workers.process", *arguments],
                stdin=subprocess.DEVNULL,
                env={
                    **os.environ,
                    "OMP_NUM_THREADS": str(self.n_threads),
                    "PYTHONPATH": os.pathsep.join(path or os.getcwd() for path in sys.path),
                },
                pass_fds=[theirs.fileno()],
                process_group=0,  # Ctrl-C in a terminal goes to the run's process alone
            )
        worker = next(self._numbers)
        self._processes[worker] = _Process(popen, Connection(ours.detach()), device)
        self._starting.append(worker)

    def _replace(self, worker: int) -> None:
        self.ready.remove(worker)
        process = self._processes.pop(worker)
        process.end()
        self._start(process.device)

    def close(self) -> None:
        """See `WorkerPool`."""
        for process in self._processes.values():
            process.end()
        self._processes, self.ready, self._starting = {}, [], []


def _arrived(connections: Iterable[Connection], timeout_seconds: float) -> list[Connection]:
    """Those of some connections that have something to be read, or are closed; waits for the first one."""
    ready = wait_for(list(connections), timeout_seconds)
    return [connection for connection in connections if connection in ready]
