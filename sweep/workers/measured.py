"""What a worker has to train with. Each worker measures it before it gets lanes."""

import socket
import time
from dataclasses import dataclass

import torch

from sweep.machine.conditions import processor_of
from sweep.machine.memory import available_bytes

CPU = "cpu"

PRODUCT_SIZE = {"cpu": 512, "cuda": 4096}
"""Rows and columns of the matrices whose product is timed, by type of device: a product takes some milliseconds."""

PRODUCT_SECONDS = 0.05
"""Products are timed for so long, and at least two of them."""


@dataclass(frozen=True)
class Measured:
    """What a worker has.

    Attributes:
        host: Name of its machine.
        processor: Kind of its processor or GPU; see `processor_of`.
        memory: Name of the memory that its lanes take, on its machine. Workers with the same one share it.
        free_bytes: How much of it can still be allocated, by all that share it.
        n_threads: Threads that it computes with.
        speed: Multiply-adds a second of a product of matrices.
    """

    host: str
    processor: str
    memory: str
    free_bytes: int
    n_threads: int
    speed: float

    @property
    def on_gpu(self) -> bool:
        """Whether its lanes train on a GPU."""
        return self.memory != CPU


def measured(device: torch.device) -> Measured:
    """What this process has on a device. It takes about a tenth of a second."""
    speed = _speed_of(device)  # first, because a GPU's own program takes memory once it is used
    memory = str(torch.cuda.get_device_properties(device).uuid) if device.type == "cuda" else CPU
    return Measured(
        host=socket.gethostname(),
        processor=processor_of(device),
        memory=memory,
        free_bytes=available_bytes(device),
        n_threads=torch.get_num_threads(),
        speed=speed,
    )


def _speed_of(device: torch.device) -> float:
    """Multiply-adds a second of the fastest of some products."""
    size = PRODUCT_SIZE[device.type]
    matrix = torch.ones(size, size, device=device)
    seconds: list[float] = []
    while len(seconds) < 3 or sum(seconds[1:]) < PRODUCT_SECONDS:
        started = time.perf_counter()
        float((matrix @ matrix)[0, 0])  # reading a number waits for the GPU
        seconds.append(time.perf_counter() - started)
    return size**3 / min(seconds[1:])
