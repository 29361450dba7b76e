"""The program of a worker process: `python -m sweep.workers.process DESCRIPTOR DEVICE THREADS`.

The descriptor is an open socket to the run's process. When it closes, the run's process has ended, and the worker ends
too, even in the middle of an epoch.
"""

import os
import signal
import sys
from multiprocessing.connection import Connection
from queue import SimpleQueue
from threading import Thread

READY = b"ready"
"""A worker's first message."""


def main(descriptor: int, device: str, n_threads: int) -> None:
    """Answer calls until the run's process ends.

    Args:
        descriptor: Number of the socket's file.
        device: Name of the device to train on.
        n_threads: Threads to compute with.
    """
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # the run's process decides what Ctrl-C does
    connection = Connection(descriptor)
    calls: SimpleQueue[bytes] = SimpleQueue()
    Thread(target=_receive, args=(connection, calls), daemon=True).start()

    import torch

    from sweep.machine.settings import own_settings
    from sweep.workers.serving import answer
    from sweep.workers.worker import LaneWorker

    torch.set_num_threads(n_threads)
    worker = LaneWorker(torch.device(device))
    connection.send_bytes(READY)
    with own_settings():
        while True:
            connection.send_bytes(answer(worker, calls.get()))


def _receive(connection: Connection, calls: "SimpleQueue[bytes]") -> None:
    """Read calls, and end this process when nobody can call any more."""
    try:
        while True:
            calls.put(connection.recv_bytes())
    except (EOFError, OSError):
        os._exit(0)


if __name__ == "__main__":
    main(int(sys.argv[1]), sys.argv[2], int(sys.argv[3]))
