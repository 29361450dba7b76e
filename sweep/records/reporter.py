"""How a run reports its progress to whoever shows it."""

from dataclasses import dataclass
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from sweep.records.folder import RunFolder
    from sweep.records.trial_log import TrialRecord


@dataclass(frozen=True, kw_only=True)
class SearchProgress:
    """How far a search is, at the end of an epoch.

    Attributes:
        n_trials: The most trials to train, including those that the user has added meanwhile.
        n_complete: Trials that were trained to their last epoch.
        n_pruned: Trials that were stopped before it.
        n_failed: Trials that diverged or raised an error.
        n_running: Trials in training.
        trials_done: How many of `n_trials` are done; a trial in training counts by the share of its epochs.
        objective: Name of the first objective.
        best: The best value of the first objective among complete trials. If none is complete, the best among the
            last measured values of trials in training.
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
    """Receives the progress of a run, call by call. The command's draws it, a tracker logs it; this one does nothing.

    Subclass it, override what you need, and give it to `sweep.run(…, reporter=…)`. Calls come from the thread that
    trains: be quick. An exception ends the run, except that of a tracker (`sweep.tracking`). After a run was killed,
    `sweep resume` repeats the calls since the last snapshot.

    The order: `run_opened`; `features` for each split; `search_started`; for each epoch of a stack `epoch_started`,
    `step` for each step, `trial_measured` for each trial in it, `trial_ended` for those that end, `epoch_ended`; then
    `search_ended`, and `run_ended` when the summary is written. `message` comes at any time.
    """

    def message(self, text: str) -> None:
        """Report one line of text that is worth keeping."""

    def run_opened(self, folder: "RunFolder", storage_url: str | None) -> None:
        """A run has started. Its trials are in this Optuna storage, or in the folder's journal if there is none."""

    def features(self, split: str, n_done: int, n_images: int) -> None:
        """`n_done` of a split's images have their features; `split` is text such as `"images of train"`."""

    def search_started(self, n_trials: int, n_epochs: int) -> None:
        """A search of up to `n_trials` trials starts, each of `n_epochs` epochs."""

    def epoch_started(self, n_lanes: int, trials_a_step: float) -> None:
        """A stack of `n_lanes` lanes starts an epoch. Each of its steps completes `trials_a_step` of a trial."""

    def step(self) -> None:
        """The stack has made one training step."""

    def epoch_ended(self, progress: SearchProgress) -> None:
        """An epoch has ended, and every lane of the stack has been measured."""

    def trial_measured(self, trial: "TrialRecord") -> None:
        """A trial was measured: `trial.metrics` after `trial.epochs` epochs, with its `params`. Do not change it."""

    def trial_ended(self, trial: "TrialRecord") -> None:
        """A trial is complete, pruned or failed: see `trial.state`, and `trial.stopped` or `trial.failure` for why."""

    def search_ended(self) -> None:
        """The search is done, or was interrupted."""

    def run_ended(self, folder: "RunFolder") -> None:
        """The run is through: its tables, the winner's weights and the summary are in the folder."""
