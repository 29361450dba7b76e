"""Runs several forward passes of a backbone side by side on the cores of a CPU.

PyTorch divides every single operation among its threads, and after each of them all threads wait for the last one. A
core that also decodes images, or that another program uses, so slows all others down. Here each thread computes a batch
of its own instead, and no thread waits for another one.
"""

import copy
import threading
from collections.abc import Callable, Generator, Iterable, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import closing, contextmanager
from queue import SimpleQueue
from typing import TypeVar

import torch
from torch import Tensor

from backbones.frozen import FrozenBackbone
from backbones.protocol import Backbone
from sweep.machine.ahead import ahead
from sweep.machine.at_once import n_at_once
from sweep.machine.settings import computing_on

Batch = TypeVar("Batch")
Result = TypeVar("Result")


def passes(
    backbone: Backbone,
    ready: Iterable[tuple[Batch, Tensor]],
    run: Callable[[Backbone, Tensor], Result],
    device: torch.device,
) -> Generator[tuple[Batch, Result]]:
    """Run a backbone over batches, and yield every batch with its result, in order.

    Args:
        backbone: A frozen backbone, on `device`.
        ready: Batches with their inputs, `(B, 3, H, W)` images or `(B, L)` texts.
        run: Computes the result of a batch from a backbone and inputs. On a CPU it is called in several threads, with a
            copy of the backbone in each. The copies share their weights.
        device: Device of the backbone. On a GPU, `run` is called for one batch after the other.
    """
    copies = _copies(backbone, device)
    if len(copies) == 1:
        for batch, inputs in ready:
            yield batch, run(backbone, inputs)
        return
    idle: SimpleQueue[Backbone] = SimpleQueue()
    for each in copies:
        idle.put(each)

    def run_idle(inputs: Tensor) -> Result:
        one = idle.get()
        try:
            return run(one, inputs)
        finally:
            idle.put(one)

    def start(item: tuple[Batch, Tensor]) -> Future[Result]:
        return pool.submit(run_idle, item[1])

    with _pool(len(copies)) as pool, closing(ahead(ready, start, len(copies))) as started:
        for (batch, _), result in started:
            yield batch, result.result()


def _copies(backbone: Backbone, device: torch.device) -> Sequence[Backbone]:
    """The backbone for each pass at a time: itself, and copies that share its weights but nothing that a pass notes."""
    n_passes = n_at_once(torch.get_num_threads())
    if device.type != "cpu" or n_passes == 1 or not (isinstance(backbone, FrozenBackbone) and backbone.can_be_copied):
        return (backbone,)
    shared = {id(one): one for one in (*backbone.parameters(), *backbone.buffers(), backbone.transform)}
    return (backbone, *(copy.deepcopy(backbone, dict(shared)) for _ in range(n_passes - 1)))


@contextmanager
def _pool(n_passes: int) -> Iterator[ThreadPoolExecutor]:
    """Threads among which PyTorch's own threads are divided; the caller's thread keeps its number."""
    all_set = threading.Barrier(n_passes + 1)

    def take_threads() -> None:
        torch.get_num_threads()  # a new thread's first call takes the number of the process
        all_set.wait()

    with ThreadPoolExecutor(n_passes, thread_name_prefix="backbone", initializer=take_threads) as pool:
        with computing_on(torch.get_num_threads() // n_passes):
            for _ in range(n_passes):
                pool.submit(int)  # no thread is idle before all are set, so each of these starts one
            all_set.wait()
        try:
            yield pool
        finally:
            pool.shutdown(cancel_futures=True)
