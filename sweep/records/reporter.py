"""What a run says while it goes on, to whoever shows it."""

from dataclasses import dataclass
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from sweep.records.folder import RunFolder


@dataclass(frozen=True, kw_only=True)
class SearchProgress:
    """How far a search is, at the end of an epoch.

    Attributes:
        n_trials: To be trained at most, with those that the user has asked for meanwhile.
        n_complete: Trained to their last epoch.
        n_pruned: Stopped before it.
        n_failed: Diverged or broken.
        n_running: In training.
        trials_done: Of `n_trials`, those in training counted by the share of their epochs.
        objective: Name of the first objective.
        best: Its best value among complete trials, or as last measured among those in training if none is complete.
    """

    n_trials: int
    n_complete: int
    n_pruned: int
    n_failed: int
    n_running: int
    trials_done: float
    objective: str
    best: float | None


class Reporter:
    """Receives the progress of a run. The CLI's draws it; this one says nothing."""

    def message(self, text: str) -> None:
        """One line worth reading, now and later."""

    def run_opened(self, folder: "RunFolder", storage_url: str | None) -> None:
        """Whatever follows is about this run, whose trials are in this Optuna storage or in the folder's journal."""

    def features(self, split: str, n_done: int, n_images: int) -> None:
        """So many have their features, of a split that is named with what it has: `"images of train"`."""

    def search_started(self, n_trials: int, n_epochs: int) -> None:
        """A search of up to `n_trials` starts, each of `n_epochs`."""

    def epoch_started(self, n_lanes: int, trials_a_step: float) -> None:
        """A stack of lanes starts an epoch; each of its steps is worth so many trials."""

    def step(self) -> None:
        """The stack made an optimizer step."""

    def epoch_ended(self, progress: SearchProgress) -> None:
        """Every lane of the stack has been measured."""

    def search_ended(self) -> None:
        """The search is done, or was interrupted."""
