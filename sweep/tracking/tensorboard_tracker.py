"""Logs a run to TensorBoard: event files in the run folder, with one folder per trial."""

import json
from pathlib import Path

from torch.utils.tensorboard import SummaryWriter

from sweep.machine.checked_files import read_json
from sweep.records.folder import RunFolder
from sweep.records.trial_log import TrialRecord
from sweep.tracking.tracker import Tracker, finite_metrics, metrics_on_test, parameters, why_it_ended

FOLDER = "tensorboard"


class TensorBoardTracker(Tracker):
    """Writes `tensorboard/trial-NUMBER` for each trial: its curves, and when it ends its row of the HParams page.

    `tensorboard/run` has the summary as text. TensorBoard does not store files, so the winner's weights are only in the
    run folder.
    """

    name = "tensorboard"

    def __init__(self) -> None:
        self._folder = Path()
        self._writers: dict[int, SummaryWriter] = {}

    def run_opened(self, folder: RunFolder, storage_url: str | None) -> None:
        """Choose the folder of the event files."""
        self._folder = folder.path / FOLDER
        self.where = f"tensorboard --logdir {self._folder}"

    def trial_measured(self, trial: TrialRecord) -> None:
        """Write a point of every curve."""
        writer = self._writer(trial)
        for name, value in finite_metrics(trial).items():
            writer.add_scalar(name, value, trial.epochs)

    def trial_ended(self, trial: TrialRecord) -> None:
        """Write the trial's row of the HParams page."""
        writer = self._writer(trial)
        metrics = {f"last/{name}": value for name, value in finite_metrics(trial).items()}
        writer.add_hparams({**parameters(trial), "state": trial.state}, metrics, run_name=".")
        if reason := why_it_ended(trial):
            writer.add_text("why", reason)
        writer.close()
        del self._writers[trial.trial]

    def run_ended(self, folder: RunFolder) -> None:
        """Write the summary."""
        with SummaryWriter(str(self._folder / "run")) as writer:
            writer.add_text("summary", f"```json\n{json.dumps(read_json(folder.summary_path), indent=2)}\n```")
            for name, value in metrics_on_test(folder).items():
                writer.add_scalar(name, value)

    def close(self) -> None:
        """Close the files of trials that did not end."""
        for writer in self._writers.values():
            writer.close()
        self._writers = {}

    def _writer(self, trial: TrialRecord) -> SummaryWriter:
        if trial.trial not in self._writers:
            self._writers[trial.trial] = SummaryWriter(str(self._folder / f"trial-{trial.trial:04d}"))
        return self._writers[trial.trial]
