"""Compiles kernels for a CPU, and keeps their machine code on disk."""

import functools
import hashlib
import logging
import os
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numba
import torch
from filelock import FileLock
from numba.core.event import Event, Listener, register

from sweep.machine.paths import default_cache_dir

logger = logging.getLogger(__name__)


def _folder() -> Path:
    """The folder of the machine code for the present state of all kernel files.

    Numba checks whether a kernel's own file was edited, but not the files of the functions that it calls. So each state
    of all files has its own folder. It is beside the files, or in sweep's cache if the installation is read-only.
    """
    here = Path(__file__).parent
    kept = here / "__pycache__" if os.access(here, os.W_OK) else default_cache_dir()
    digest = hashlib.sha256(b"".join(path.read_bytes() for path in sorted(here.glob("*.py"))))
    return Path(numba.config.CACHE_DIR or kept) / f"kernels-{digest.hexdigest()[:16]}"  # type: ignore[attr-defined]


_FOLDER = str(_folder())


class _Compilations(Listener):
    """Says why a step takes long when kernels are compiled in it, and adds up the time that this takes.

    Numba compiles one kernel at a time, whatever the number of threads. Within a kernel, it compiles the functions that
    this one calls.
    """

    def __init__(self) -> None:
        self.wall_seconds = 0.0
        self._started: list[float] = []
        self._announced = False

    def on_start(self, event: Event) -> None:
        self._started.append(time.perf_counter())
        if not self._announced:
            self._announced = True
            logger.info("compiling kernels for this processor, which may take a minute; later runs use them again")

    def on_end(self, event: Event) -> None:
        started = self._started.pop()
        if not self._started:
            self.wall_seconds += time.perf_counter() - started


_compilations = _Compilations()
register("numba:compile", _compilations)


def compiling_seconds() -> float:
    """Wall time that this process has spent compiling kernels."""
    return _compilations.wall_seconds


def has_kernels(device: torch.device, dtype: torch.dtype) -> bool:
    """Whether there are kernels for tensors of this dtype and device: fp32 on a CPU."""
    return device.type == "cpu" and dtype == torch.float32


def compiled(function: Callable[..., Any]) -> Any:
    """Compile a function when it is first called, and keep the code on disk. It runs without Python's global lock."""
    everywhere = numba.config.CACHE_DIR  # type: ignore[attr-defined]
    numba.config.CACHE_DIR = _FOLDER  # type: ignore[attr-defined]
    try:
        kernel: Any = numba.njit(cache=True, nogil=True, error_model="numpy")(function)
    finally:
        numba.config.CACHE_DIR = everywhere  # type: ignore[attr-defined]
    kernel._cache.save_overload = _one_process_at_a_time(kernel._cache.save_overload)
    return kernel


def _one_process_at_a_time(save: Callable[..., None]) -> Callable[..., None]:
    """Numba's function that saves machine code, under a lock.

    It reads an index, adds the name of a file to it, and writes both. Two processes that do this at once for two ranks
    can choose the same name, and then one rank would run the code of the other.
    """

    @functools.wraps(save)
    def locked(*args: Any) -> None:
        with FileLock(Path(_FOLDER, "save.lock")):
            save(*args)

    return locked
