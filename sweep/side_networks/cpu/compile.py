"""How kernels for a CPU are compiled, and where the machine code is kept."""

import functools
import hashlib
import logging
import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numba
import torch
from filelock import FileLock

from sweep.machine.paths import default_cache_dir

logger = logging.getLogger(__name__)


def _folder() -> Path:
    """Where this version of the kernels is kept.

    Numba looks whether a kernel's own file was edited, but not the files of what it calls; so each state of them all
    has a folder of its own, beside them, or in sweep's cache where they are installed for reading only.
    """
    here = Path(__file__).parent
    kept = here / "__pycache__" if os.access(here, os.W_OK) else default_cache_dir()
    digest = hashlib.sha256(b"".join(path.read_bytes() for path in sorted(here.glob("*.py"))))
    return Path(numba.config.CACHE_DIR or kept) / f"kernels-{digest.hexdigest()[:16]}"  # type: ignore[attr-defined]


_FOLDER = str(_folder())


@functools.cache
def announce() -> None:
    """Say why the first step on a machine takes longer than all others."""
    if not any(Path(_FOLDER).rglob("*.nbi")):
        logger.info("compiling kernels for this processor: once, half a minute")


def has_kernels(device: torch.device, dtype: torch.dtype) -> bool:
    """Whether there are kernels for such tensors: those of single precision on a CPU."""
    return device.type == "cpu" and dtype == torch.float32


def compiled(function: Callable[..., Any]) -> Any:
    """Compile a function when it is first called, and keep it on disk; it runs without Python's lock."""
    everywhere = numba.config.CACHE_DIR  # type: ignore[attr-defined]
    numba.config.CACHE_DIR = _FOLDER  # type: ignore[attr-defined]
    try:
        kernel: Any = numba.njit(cache=True, nogil=True, error_model="numpy")(function)
    finally:
        numba.config.CACHE_DIR = everywhere  # type: ignore[attr-defined]
    kernel._cache.save_overload = _one_process_at_a_time(kernel._cache.save_overload)
    return kernel


def _one_process_at_a_time(save: Callable[..., None]) -> Callable[..., None]:
    """Numba's way of keeping machine code, under a lock.

    It reads an index, adds a file's name to it and writes both. Two processes that do so at once for two ranks can
    choose one name, and a rank would then be given the other's code.
    """

    @functools.wraps(save)
    def locked(*args: Any) -> None:
        with FileLock(Path(_FOLDER, "save.lock")):
            save(*args)

    return locked
