"""Start work on items ahead, so that it is under way before its result is needed."""

from collections import deque
from collections.abc import Callable, Generator, Iterable
from typing import TypeVar

Item = TypeVar("Item")
Started = TypeVar("Started")


def ahead(items: Iterable[Item], start: Callable[[Item], Started], n_ahead: int = 1) -> Generator[tuple[Item, Started]]:
    """Yield every item with the work that was started for it, after the work for the next items has been started too.

    Args:
        items: The items, in order.
        start: Starts the work for an item without waiting for it, as `Executor.submit` does.
        n_ahead: Number of the next items.
    """
    waiting: deque[tuple[Item, Started]] = deque()
    for item in items:
        waiting.append((item, start(item)))
        if len(waiting) > n_ahead:
            yield waiting.popleft()
    yield from waiting
