"""Finds trackers by name, and calls them beside the reporter that shows a run. A tracker's error never ends a run."""

import importlib
from collections.abc import Callable, Sequence

from sweep.errors import SweepError, UsageError
from sweep.records.folder import RunFolder
from sweep.records.reporter import Reporter, SearchProgress
from sweep.records.trial_log import TrialRecord
from sweep.tracking.tracker import Tracker

TRACKERS = {
    "tensorboard": ("sweep.tracking.tensorboard_tracker", "TensorBoardTracker", "tensorboard"),
    "mlflow": ("sweep.tracking.mlflow_tracker", "MlflowTracker", "mlflow"),
    "wandb": ("sweep.tracking.wandb_tracker", "WandbTracker", "wandb"),
}
"""By name of the tracker: its module, its class, and the package that it needs, which is also the extra's name."""


def trackers_named(names: Sequence[str]) -> list[Tracker]:
    """The trackers with these names, each once.

    Raises:
        UsageError: There is no tracker with a name.
        SweepError: The package that it needs is not installed.
    """
    return [_tracker(name) for name in dict.fromkeys(names)]


def _tracker(name: str) -> Tracker:
    if name not in TRACKERS:
        raise UsageError(f"--track must be one of {', '.join(TRACKERS)}, not {name!r}")
    module, of, package = TRACKERS[name]
    try:
        importlib.import_module(package)
        tracker: Tracker = getattr(importlib.import_module(module), of)()
    except ImportError as error:
        raise SweepError(
            f'--track {name} needs the package {package} ({error}): python -m pip install -e ".[{name}]"'
        ) from error
    return tracker


class Tracked(Reporter):
    """Passes all events to one reporter, and the events of trials to trackers, too.

    If a tracker raises an error, it gets no more events, and the run goes on.

    Args:
        shown: The reporter that shows the run.
        trackers: The trackers that log the trials.
    """

    def __init__(self, shown: Reporter, trackers: Sequence[Tracker]):
        self.shown = shown
        self.trackers = list(trackers)

    def _track(self, call: Callable[[Tracker], None]) -> None:
        for tracker in list(self.trackers):
            try:
                call(tracker)
            except Exception as error:  # of a package that may be offline, out of disk, or at odds with itself
                self.trackers.remove(tracker)
                reason = str(error).strip().splitlines()
                self.shown.message(
                    f"warning: {tracker.name} failed ({type(error).__name__}: {reason[0] if reason else ''}); the run "
                    f"goes on without it"
                )

    def message(self, text: str) -> None:
        """See `Reporter`; the same for all methods below."""
        self.shown.message(text)

    def run_opened(self, folder: RunFolder, storage_url: str | None) -> None:
        """Begin to track."""
        self.shown.run_opened(folder, storage_url)
        self._track(lambda tracker: tracker.run_opened(folder, storage_url))
        for tracker in self.trackers:
            self.shown.message(f"{tracker.name}: {tracker.where}")

    def features(self, split: str, n_done: int, n_images: int) -> None:
        """Not tracked."""
        self.shown.features(split, n_done, n_images)

    def search_started(self, n_trials: int, n_epochs: int) -> None:
        """Not tracked."""
        self.shown.search_started(n_trials, n_epochs)

    def epoch_started(self, n_lanes: int, trials_a_step: float) -> None:
        """Not tracked."""
        self.shown.epoch_started(n_lanes, trials_a_step)

    def step(self) -> None:
        """Not tracked."""
        self.shown.step()

    def trial_measured(self, trial: TrialRecord) -> None:
        """Track a point of its curves."""
        self.shown.trial_measured(trial)
        self._track(lambda tracker: tracker.trial_measured(trial))

    def trial_ended(self, trial: TrialRecord) -> None:
        """Track how it ended."""
        self.shown.trial_ended(trial)
        self._track(lambda tracker: tracker.trial_ended(trial))

    def epoch_ended(self, progress: SearchProgress) -> None:
        """Not tracked."""
        self.shown.epoch_ended(progress)

    def search_ended(self) -> None:
        """Not tracked."""
        self.shown.search_ended()

    def run_ended(self, folder: RunFolder) -> None:
        """Track the summary and the files."""
        self.shown.run_ended(folder)
        self._track(lambda tracker: tracker.run_ended(folder))

    def close(self) -> None:
        """Let trackers write their buffered data, however the run ended."""
        self._track(lambda tracker: tracker.close())
