"""PyTorch's and NumPy's settings as sweep needs them, whatever the caller's program has set."""

import threading
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from typing import Any

import numpy as np
import torch

AUTOCAST_DEVICES = ("cpu", "cuda")
_of_process = threading.Lock()
_users = 0
_before: tuple[Any, str] = (torch.float32, "highest")
_of_thread = threading.local()


@contextmanager
def own_settings() -> Iterator[None]:
    """Compute with gradients, in single precision on the CPU unless told otherwise; restore the caller's settings.

    A program may call sweep under `torch.no_grad`, `inference_mode` or `autocast`, with another default dtype, default
    device or precision of products, or with NumPy told to raise on overflow. Trials would then fail, or train to other
    numbers. Use it as a context manager or as a decorator; several threads may use it at a time.
    """
    with ExitStack() as stack:
        stack.enter_context(_settings_of_process())
        stack.enter_context(torch.inference_mode(False))
        stack.enter_context(torch.enable_grad())
        for device in AUTOCAST_DEVICES:
            stack.enter_context(torch.autocast(device, enabled=False))
        if torch.get_default_device().type != "cpu":
            stack.enter_context(torch.device("cpu"))
        stack.enter_context(np.errstate(divide="warn", over="warn", under="ignore", invalid="warn"))
        yield


@contextmanager
def _settings_of_process() -> Iterator[None]:
    """Settings that all threads share: the first user changes them, and the last one restores them."""
    global _users, _before  # noqa: PLW0603 - one count for the process
    with _of_process:
        if _users == 0:
            _before = torch.get_default_dtype(), torch.get_float32_matmul_precision()
            torch.set_default_dtype(torch.float32)
            torch.set_float32_matmul_precision("highest")
        _users += 1
    try:
        yield
    finally:
        with _of_process:
            _users -= 1
            if _users == 0:
                torch.set_default_dtype(_before[0])
                torch.set_float32_matmul_precision(_before[1])


@contextmanager
def computing_on(n_threads: int) -> Iterator[None]:
    """Have PyTorch compute on so many threads; restore the caller's number."""
    before = torch.get_num_threads()
    torch.set_num_threads(n_threads)
    try:
        yield
    finally:
        torch.set_num_threads(before)


@contextmanager
def computing_lanes(n_lanes: int, device: torch.device) -> Iterator[None]:
    """Have PyTorch's operators use at most one thread for each lane of a stack on a CPU.

    They then give whole lanes to every thread. With more threads than lanes, PyTorch and MKL divide the numbers of a
    lane among threads, and its last bits depend on the number of threads: with two lanes, the head's product for a
    batch of 100 on eight threads; with eight lanes, the sum of a bias's gradient over 64 images on 16 threads. What
    keeps a lane's bits on any number of threads can use `all_threads` or `on_all_threads`.
    """
    before = torch.get_num_threads()
    if device.type != "cpu" or n_lanes >= before:
        yield
        return
    _of_thread.all = before
    try:
        with computing_on(n_lanes):
            yield
    finally:
        _of_thread.all = None


def all_threads() -> int:
    """The number of threads that there are, also where PyTorch's operators use fewer; see `computing_lanes`."""
    return getattr(_of_thread, "all", None) or torch.get_num_threads()


@contextmanager
def on_all_threads() -> Iterator[None]:
    """Have PyTorch's operators use all threads again; see `computing_lanes`."""
    with computing_on(all_threads()):
        yield
