"""Logs a run to Weights & Biases: a group with one W&B run per trial, and one with the summary and the files."""

from typing import Any

import wandb

from sweep.machine.checked_files import read_json
from sweep.records.folder import RunFolder
from sweep.records.trial_log import TrialRecord
from sweep.tracking.tracker import Tracker, artifacts, finite_metrics, metrics_on_test, parameters, why_it_ended

MOST_OPEN = 32
"""W&B runs that are open at a time; each has threads of its own. Further trials are logged when they end."""


class WandbTracker(Tracker):
    """Logs each trial while it trains.

    The project has the name of the study, unless `WANDB_PROJECT` names another, and the group that of the run folder.
    `WANDB_MODE=offline` writes files to `wandb` in the run folder, for `wandb sync`.
    """

    name = "wandb"

    def __init__(self) -> None:
        self._open: dict[int, Any] = {}
        self._held: dict[int, dict[int, dict[str, float]]] = {}

    def run_opened(self, folder: RunFolder, storage_url: str | None) -> None:
        """Choose the project and the group."""
        self._folder, self._group = folder, folder.path.resolve().name
        self._study = str(read_json(folder.config_path)["study"])
        self.where = f"project {self._study}, group {self._group}"

    def trial_measured(self, trial: TrialRecord) -> None:
        """Log a point of every curve; hold it back while too many runs are open."""
        is_new = trial.trial not in self._open and trial.trial not in self._held
        if is_new and len(self._open) < MOST_OPEN:
            self._open[trial.trial] = self._opened_for(trial)
        if trial.trial in self._open:
            self._open[trial.trial].log(finite_metrics(trial), step=trial.epochs, commit=True)
        else:
            self._held.setdefault(trial.trial, {})[trial.epochs] = finite_metrics(trial)

    def trial_ended(self, trial: TrialRecord) -> None:
        """Log what was held back, and how the trial ended."""
        run = self._open.pop(trial.trial, None) or self._opened_for(trial)
        for epoch, metrics in sorted(self._held.pop(trial.trial, {}).items()):
            run.log(metrics, step=epoch, commit=True)
        run.summary.update({"state": trial.state, "why": why_it_ended(trial)})
        run.finish()

    def close(self) -> None:
        """Close the runs of trials that did not end; those of a run that is resumed are opened again."""
        for run in self._open.values():
            run.finish()
        self._open = {}

    def run_ended(self, folder: RunFolder) -> None:
        """Log test metrics and files."""
        with self._opened("summary", f"{self._group}-summary", read_json(folder.config_path)) as run:
            run.summary.update(metrics_on_test(folder))
            files = wandb.Artifact(f"{self._group}-files", type="run")
            for path in artifacts(folder):
                files.add_file(str(path))
            run.log_artifact(files)

    def _opened_for(self, trial: TrialRecord) -> Any:
        return self._opened(f"trial {trial.trial}", f"{self._group}-{trial.trial}", parameters(trial))

    def _opened(self, name: str, identity: str, config: dict[str, Any]) -> Any:
        return wandb.init(
            project=None if wandb.Settings().project else self._study,
            group=self._group,
            name=name,
            id=identity,
            resume="allow",
            config=config,
            dir=str(self._folder.path),
            reinit="create_new",
            settings=wandb.Settings(silent=True, console="off"),
        )
