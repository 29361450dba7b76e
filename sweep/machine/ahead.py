"""Work that is under way before it is asked for."""

from collections import deque
from collections.abc import Callable, Generator, Iterable
from typing import TypeVar

Item = TypeVar("Item")
Started = TypeVar("Started")


def one_ahead(items: Iterable[Item], start: Callable[[Item], Started]) -> Generator[tuple[Item, Started]]:
    """Give every item with what was started for it, once the next one's has been started too.

    Args:
        items: In order.
        start: Begins the work for an item, such as `Executor.submit`, and does not wait for it.
    """
    waiting: deque[tuple[Item, Started]] = deque()
    for item in items:
        waiting.append((item, start(item)))
        if len(waiting) > 1:
            yield waiting.popleft()
    yield from waiting
