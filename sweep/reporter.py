"""What a run says while it goes on, to whoever shows it."""

from typing import Protocol


class Reporter(Protocol):
    """Receives the progress of a run. The CLI's draws it; a caller of the Python functions may ignore it."""

    def message(self, text: str) -> None:
        """One line worth reading, now and later."""

    def features(self, split: str, n_done: int, n_images: int) -> None:
        """Images of a split whose features are there."""

    def stack_started(self, n_lanes: int, n_epochs: int, n_steps: int) -> None:
        """A stack of lanes starts to train for `n_steps` optimizer steps."""

    def step(self) -> None:
        """The stack made an optimizer step."""

    def epoch(self, epoch: int, best_val_top1: float, n_failed: int) -> None:
        """Every lane has been measured after `epoch`, counted from 1.

        `best_val_top1` is the best of all trials as last measured.
        """

    def stack_ended(self) -> None:
        """The stack is done, or was interrupted."""
