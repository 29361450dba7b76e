"""Runs several pieces of work at the same time on the cores of a CPU.

PyTorch divides every single operation among its threads, and after each of them all threads wait for the last one. A
core that another program uses so slows all others down. Pieces of work that run at the same time, each on threads of
its own, do not wait for one another.
"""

import itertools
import threading
from collections import deque
from collections.abc import Callable, Iterable, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from functools import partial
from typing import TypeVar

import torch

from sweep.machine.settings import computing_on

MOST_AT_ONCE = 4
"""Most pieces of work at a time. Each needs memory of its own; with more threads, a piece has several."""

Item = TypeVar("Item")
Result = TypeVar("Result")
Check = Callable[[], None]
"""What a piece of work calls now and then: it raises an error when the work of another one is in vain."""


class _InVainError(Exception):
    """Another piece of work has failed."""


def n_at_once(n_threads: int, most: int = MOST_AT_ONCE) -> int:
    """How many pieces run at a time on so many threads: as many as use most of them, with equally many for each."""
    return max(range(1, max(1, min(most, MOST_AT_ONCE)) + 1), key=lambda n: (n * (n_threads // n), n))


def shares(items: Sequence[Item], n_shares: int) -> list[Sequence[Item]]:
    """Divide items into so many parts of equal length, in order; some parts may have one item more."""
    ends = [-(-len(items) * share // n_shares) for share in range(n_shares + 1)]
    return [items[first:last] for first, last in itertools.pairwise(ends)]


def each_at_once(items: Iterable[Item], run: Callable[[Item, Check, bool], None], n_threads: int) -> None:
    """Run a function for each item, for several items at the same time, and in the order in which they are given.

    A thread that is done with an item takes the next one, so a busy core takes fewer of them.

    Args:
        items: The items; the ones that take longest should be first.
        run: Called with an item, a check, and whether this is the caller's thread.
        n_threads: For how many items at a time; see `at_once`.

    Raises:
        BaseException: See `at_once`. No further item is begun after an error.
    """
    waiting = deque(items)

    def take_turns(check: Check, *, in_callers_thread: bool) -> None:
        while True:
            check()
            try:
                item = waiting.popleft()
            except IndexError:  # another thread has taken the last one
                return
            run(item, check, in_callers_thread)

    at_once([partial(take_turns, in_callers_thread=thread == 0) for thread in range(n_threads)])


def at_once(works: Sequence[Callable[[Check], Result]]) -> list[Result]:
    """Run pieces of work at the same time, each with an equal share of the threads that PyTorch has here.

    The first one runs in the caller's thread, so that its callbacks and Ctrl-C do. If one fails, the others end at
    their next check.

    Args:
        works: The pieces of work. Each is called with its check.

    Returns:
        Their results, in order.

    Raises:
        BaseException: The error of the first piece, in order, that failed by itself.
    """
    if len(works) == 1:
        return [works[0](lambda: None)]
    failed = threading.Event()
    n_threads = max(1, torch.get_num_threads() // len(works))

    def check() -> None:
        if failed.is_set():
            raise _InVainError

    def run(work: Callable[[Check], Result]) -> Result:
        torch.set_num_threads(n_threads)  # a new thread would take the number that any thread has set last
        try:
            return work(check)
        except BaseException:
            failed.set()
            raise

    first: Future[Result] = Future()
    with (
        computing_on(n_threads),
        ThreadPoolExecutor(len(works) - 1, thread_name_prefix="at once") as pool,
    ):
        try:
            others = [pool.submit(run, work) for work in works[1:]]
            try:
                first.set_result(run(works[0]))
            except Exception as error:
                first.set_exception(error)
            failures = [future.exception() for future in (first, *others)]
        except BaseException:  # Ctrl-C while this thread waits for the others, which may still have long to go
            failed.set()
            raise
    for failure in failures:
        if failure is not None and not isinstance(failure, _InVainError):
            raise failure
    return [future.result() for future in (first, *others)]
