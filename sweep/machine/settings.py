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
