"""Run a measurement in a process of its own, so that memory of earlier work does not count."""

import os
import signal
import sys
import threading
import time
from collections.abc import Callable
from concurrent.futures import ProcessPoolExecutor
from concurrent.futures.process import BrokenProcessPool
from multiprocessing import get_context, parent_process
from typing import Any, TypeVar

from sweep.errors import SweepError

Result = TypeVar("Result")
GRACE_SECONDS = 3.0
"""How long a process that must end has to remove its temporary folders."""


def in_own_process(measure: Callable[..., Result], *args: Any, what: str) -> Result:
    """Call a function in a new process.

    Args:
        measure: The function, which the new process must be able to import.
        *args: Its arguments.
        what: What is measured, for the message.

    Raises:
        SweepError: The process was killed, or the function raised this error.
    """
    with ProcessPoolExecutor(1, mp_context=get_context("spawn"), initializer=_end_with_parent) as pool:
        try:
            return pool.submit(measure, *args).result()
        except BrokenProcessPool as error:
            raise SweepError(
                f"the process that measured {what} was killed, which happens when memory runs out. "
                f"Free some memory, and give the same command to continue"
            ) from error


def _end_with_parent() -> None:
    """End this process when the process that started it was killed.

    It gets SIGTERM first, so that it can remove its temporary folders.
    """
    signal.signal(signal.SIGTERM, lambda number, frame: sys.exit(1))
    parent = parent_process()
    assert parent is not None

    def wait() -> None:
        parent.join()
        os.kill(os.getpid(), signal.SIGTERM)
        time.sleep(GRACE_SECONDS)
        os._exit(1)

    threading.Thread(target=wait, name="parent", daemon=True).start()
