"""The workers that a user asks for."""

import re
from dataclasses import dataclass

from sweep.errors import UsageError
from sweep.study.budget import parse_duration

TIMEOUT_SECONDS = 600.0

CLUSTER = re.compile(r"auto|(ray://)?[^\s/:]+:\d{1,5}")
"""Addresses that Ray knows: the cluster of this machine, `HOST:PORT` of its head, or `ray://HOST:PORT` from outside."""


@dataclass(frozen=True)
class WorkersAsked:
    """The workers that a user asks for.

    Attributes:
        number: How many; 0 for none, or on a cluster for as many as it has room for.
        cluster: Address of a Ray cluster; None for processes of this machine.
        timeout_seconds: Time without any worker after which the run ends.
        lanes_each: Most lanes of a shape that a worker trains at a time; None for as many as fit in its memory.
    """

    number: int = 0
    cluster: str | None = None
    timeout_seconds: float = TIMEOUT_SECONDS
    lanes_each: int | None = None

    def __bool__(self) -> bool:
        return bool(self.number or self.cluster)

    def check(self) -> None:
        """Refuse what no run can have.

        Raises:
            UsageError: With the value, and what it should be.
        """
        if self.number < 0:
            raise UsageError(f"--workers must be at least 1, or 0 to train in this process, not {self.number}")
        if self.cluster is not None and not CLUSTER.fullmatch(self.cluster):
            raise UsageError(
                f"--cluster must be the address of a Ray cluster, not {self.cluster!r}: auto on one of its machines, "
                f"HOST:6379 within its network, or ray://HOST:10001 from elsewhere"
            )
        if self.lanes_each is not None and self.lanes_each < 1:
            raise UsageError(f"--lanes-per-worker must be at least 1, not {self.lanes_each}")
        if self.lanes_each is not None and not self:
            raise UsageError("--lanes-per-worker needs --workers or --cluster")


NO_WORKERS = WorkersAsked()


def asked_for(number: int, cluster: str | None, timeout: str | None, lanes_each: int | None) -> WorkersAsked:
    """The workers that options ask for.

    Args:
        number: See `WorkersAsked`.
        cluster: Likewise.
        timeout: The time-out as text, such as `10m`; None for the usual one.
        lanes_each: See `WorkersAsked`.

    Raises:
        UsageError: They ask for what no run can have.
    """
    seconds = TIMEOUT_SECONDS if timeout is None else parse_duration(timeout, "--worker-timeout")
    asked = WorkersAsked(number, cluster, seconds, lanes_each)
    asked.check()
    return asked
