"""Measures where a search spends its time, method by method, without changing it."""

import time
from collections import defaultdict
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import wraps
from typing import Any


class Stopwatch:
    """Sums this process's seconds on processors by part, which other programs change little; waits do not count.

    The time of a part within another one counts for the inner part alone.

    Attributes:
        seconds: Seconds by part since the last `lap`.
    """

    def __init__(self) -> None:
        self.seconds: defaultdict[str, float] = defaultdict(float)
        self._parts: list[str] = []
        self._since = time.process_time()

    @contextmanager
    def timing(self, part: str) -> Iterator[None]:
        """Count what is done inside for a part."""
        self._enter(part)
        try:
            yield
        finally:
            self._leave()

    def time_method(self, owner: object, name: str, part: str) -> None:
        """Count all later calls of an object's method for a part."""
        method: Callable[..., Any] = getattr(owner, name)

        @wraps(method)
        def timed(*arguments: Any, **options: Any) -> Any:
            with self.timing(part):
                return method(*arguments, **options)

        setattr(owner, name, timed)

    def lap(self) -> dict[str, float]:
        """The seconds by part since the last call, which start at zero again."""
        self._count()
        seconds, self.seconds = dict(self.seconds), defaultdict(float)
        return seconds

    def _enter(self, part: str) -> None:
        self._count()
        self._parts.append(part)

    def _leave(self) -> None:
        self._count()
        self._parts.pop()

    def _count(self) -> None:
        now = time.process_time()
        if self._parts:
            self.seconds[self._parts[-1]] += now - self._since
        self._since = now
