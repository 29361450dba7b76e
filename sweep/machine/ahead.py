"""Start work one item ahead, so that it is under way before its result is needed."""

from collections import deque
from collections.abc import Callable, Generator, Iterable
from typing import TypeVar

Item = TypeVar("Item")
Started = TypeVar("Started")


def one_ahead(items: Iterable[Item], start: Callable[[Item], Started]) -> Generator[tuple[Item, Started]]:
    """Yield every item with the work that was started for it, after the work for the next item has been started too.

    Args:
        items: The items, in order.
        start: Starts the work for an item without waiting for it, as `Executor.submit` does.
    """
    waiting: deque[tuple[Item, Started]] = deque()
    for item in items:
        waiting.append((item, start(item)))
        if len(waiting) > 1:
            yield waiting.popleft()
    yield from waiting
