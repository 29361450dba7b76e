"""The base class of trackers, and the values of trials and runs that they log."""

import math
from pathlib import Path

from sweep.machine.checked_files import read_json
from sweep.records.folder import RunFolder
from sweep.records.reporter import Reporter
from sweep.records.trial_log import TrialRecord


class Tracker(Reporter):
    """Logs a run to an experiment tracker. Each trial becomes a run there, with parameters, curves and final state.

    Attributes:
        name: The name that `--track` takes.
        where: Where to look at the logged data; set once the run is opened.
    """

    name = ""
    where = ""

    def close(self) -> None:
        """Write buffered data. The run has ended, was stopped or failed."""


def parameters(trial: TrialRecord) -> dict[str, bool | int | float | str]:
    """A trial's parameters and its number of trainable parameters, in a form that every tracker takes."""
    plain = {
        name: value if isinstance(value, bool | int | float | str) else str(value)
        for name, value in trial.params.items()
    }
    return {**plain, "trainable_parameters": trial.trainable_parameters}


def finite_metrics(trial: TrialRecord) -> dict[str, float]:
    """The finite metrics of a trial after its last epoch."""
    return {name: float(value) for name, value in trial.metrics.items() if math.isfinite(value)}


def why_it_ended(trial: TrialRecord) -> str:
    """Why a trial was stopped or failed; empty if it is complete."""
    return trial.failure or trial.stopped


def metrics_on_test(folder: RunFolder) -> dict[str, float]:
    """The winner's and the linear probe's metrics on test, by name."""
    summary = read_json(folder.summary_path)
    return {
        f"{who}_test_{name}": float(value)
        for who in ("winner", "linear_probe")
        for name, value in summary[who]["test"].items()
        if math.isfinite(value)
    }


def artifacts(folder: RunFolder) -> list[Path]:
    """The run's files to store in a tracker: configuration, tables, summary and the winner's weights."""
    tables = (folder.config_path, folder.summary_path, folder.trials_path, folder.curves_path)
    files = (*tables, folder.winner_path, folder.retrained_path)
    return [path for path in files if path.is_file()]
