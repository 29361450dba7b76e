"""How long a run waits for its workers."""

from dataclasses import dataclass

FACTOR = 5
"""An epoch may take so many times as long as the longest one so far before its worker is thought to hang."""

START_SECONDS = 60.0
"""When the first worker is ready, the others have this time to become ready too; later they join between two epochs."""


@dataclass
class Patience:
    """How long a run waits for its workers.

    Attributes:
        timeout_seconds: Time without any worker after which the run ends; and time that an answer may take beyond what
            its epochs should take.
        epoch_seconds: Longest time that an epoch has taken on a worker; an estimate until there was one.
    """

    timeout_seconds: float
    epoch_seconds: float = 0.0
    _measured: bool = False

    def beyond(self, expected_seconds: float) -> float:
        """Seconds after which a worker is thought to hang that should take so many."""
        return self.timeout_seconds + FACTOR * expected_seconds

    def learn(self, seconds: float, n_epochs: int) -> None:
        """A worker has trained so many epochs in this time."""
        longest = self.epoch_seconds if self._measured else 0.0
        self.epoch_seconds, self._measured = max(longest, seconds / n_epochs), True
