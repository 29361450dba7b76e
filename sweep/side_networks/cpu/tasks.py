"""Divides the work of compiled kernels among threads."""

from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor

from sweep.machine.settings import all_threads

SHARES_OF_A_THREAD = 8
"""Number of shares into which a thread's tasks are divided, so that other threads can take over those of a slow one."""


def on_threads(run: Callable[[int, int], None], n_tasks: int, shares: int = SHARES_OF_A_THREAD) -> None:
    """Run tasks on all threads that PyTorch has. A thread takes a few at a time, so a busy core takes fewer of them.

    Args:
        run: Runs the tasks from a first number up to a last one, without Python's global lock.
        n_tasks: Number of tasks.
        shares: Number of pieces into which each thread's part of the tasks is cut.
    """
    n_threads = all_threads()
    at_once = max(1, n_tasks // (shares * n_threads))
    if n_threads == 1 or n_tasks <= at_once:
        run(0, n_tasks)
        return
    with ThreadPoolExecutor(n_threads) as pool:
        for _ in pool.map(lambda first: run(first, min(first + at_once, n_tasks)), range(0, n_tasks, at_once)):
            pass
