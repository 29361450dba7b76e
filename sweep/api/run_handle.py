"""A run folder in Python: its tables, its figures, and its trials as PyTorch modules."""

from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pandas as pd

from sweep.errors import SweepError, UsageError
from sweep.export.selection import hyperparameters_of, winner_of
from sweep.machine.paths import default_cache_dir
from sweep.records.folder import RunFolder
from sweep.records.results import Results, load_results

if TYPE_CHECKING:  # PyTorch and plotly take seconds to import
    from sweep.export.model import AdaptedModel
    from sweep.export.write import Exported
    from sweep.report.run_plots import RunPlots

TOP = 5
"""How many trials of a run a notebook shows."""


def load_run(
    folder: str | Path, *, storage: str | None = None, backbone: str | None = None, data: str | None = None
) -> "Run":
    """Open the folder of a run that has ended, was interrupted, or is still running.

    Args:
        folder: The folder that `sweep run` named at its end.
        storage: The Optuna storage URL that the run was given, if any. It is never read from the run folder.
        backbone: The file of the run's backbone and its function, `PATH.py:FUNCTION`, if it was your own; a file is
            never executed because a run names it.
        data: Where the data are now, if not where the run's record says.

    Raises:
        UsageError: It is not a run folder.
        SweepError: One of its files is missing or damaged.
    """
    return Run(RunFolder.open(Path(folder)), load_results(folder), storage, backbone, data)


@dataclass(frozen=True)
class RunTrial:
    """One trial of a run.

    Attributes:
        folder: The run's folder.
        results: The run's tables.
        number: Optuna's number of the trial.
        as_winner: Whether it stands for the run's winner, which has the weights of `retrain` if the run trained it
            again.
        backbone: As in `load_run`.
    """

    folder: RunFolder
    results: Results
    number: int
    as_winner: bool = False
    backbone: str | None = None

    @property
    def row(self) -> pd.Series:
        """The row of the trial in `Run.trials`."""
        trials = self.results.trials
        return trials[trials["trial"] == self.number].iloc[0]

    @property
    def params(self) -> dict[str, Any]:
        """The parameters that Optuna chose."""
        row = {str(name): value for name, value in self.row.items()}
        return hyperparameters_of(row, self.results.trials)

    def load(self, *, device: str = "cpu", backbone: str | None = None) -> "AdaptedModel":
        """The trial as a PyTorch module from images `(B, 3, H, W)` to logits `(B, C)`, in eval mode.

        Args:
            device: Where the module is to run.
            backbone: As in `load_run`, if it was not given there.

        Raises:
            UsageError: The trial is not complete, or its weights were not kept: a run keeps those of its ten best.
            SweepError: A file is damaged, or the backbone differs from the one in the run.
        """
        from sweep.export.write import model_of_run

        trial, cache_dir, file = self._to_export, default_cache_dir(), backbone or self.backbone
        return model_of_run(self.folder.path, trial=trial, cache_dir=cache_dir, backbone_file=file).to(device)

    def export(self, to: str | Path, **options: Any) -> "Exported":
        """Write the trial as a model that `sweep.load_model` reads; for the options see `export_run`."""
        from sweep.export.write import export_run

        options.setdefault("backbone_file", self.backbone)
        return export_run(self.folder.path, Path(to), trial=self._to_export, cache_dir=default_cache_dir(), **options)

    @property
    def _to_export(self) -> int | None:
        return None if self.as_winner else self.number

    def __repr__(self) -> str:
        first = next(iter(self.results.objectives))
        settings = ", ".join(f"{name}={value!r}" for name, value in self.params.items())
        return f"<trial {self.number}: {first} {self.row[first]:.4g}; {settings}>"


@dataclass(frozen=True)
class Run:
    """A run and its results.

    Attributes:
        folder: The run's folder; `folder.path` is its path.
        results: The run's tables, as they were when it was opened.
        storage: The run's Optuna storage URL, if it was given one.
        backbone: As in `load_run`.
        data: As in `load_run`.
    """

    folder: RunFolder
    results: Results
    storage: str | None = None
    backbone: str | None = None
    data: str | None = None

    @property
    def trials(self) -> pd.DataFrame:
        """One row per trial, best first; `sweep.Results` explains the columns."""
        return self.results.trials

    @property
    def curves(self) -> pd.DataFrame:
        """One row per trial, replicate, epoch and metric."""
        return self.results.curves

    @property
    def summary(self) -> dict[str, Any]:
        """The winner and the linear probe on test data, and where the time went; empty if the run has not ended."""
        return self.results.summary

    @property
    def best(self) -> RunTrial:
        """The winner: the trial that the run's ranking puts first. It loads with the weights of `retrain`, if any.

        Raises:
            SweepError: No trial is complete.
        """
        winner = winner_of(self.results, self.folder)
        return RunTrial(self.folder, self.results, winner, as_winner=True, backbone=self.backbone)

    def trial(self, number: int) -> RunTrial:
        """Return a trial by its number.

        Raises:
            UsageError: The run has no such trial.
        """
        if not (self.trials["trial"] == number).any():
            raise UsageError(f"{self.folder.path} has no trial {number}; its `trials` lists those it has")
        return RunTrial(self.folder, self.results, number, backbone=self.backbone)

    @cached_property
    def plot(self) -> "RunPlots":
        """The run's figures, such as `run.plot.curves()`."""
        from sweep.report.run_plots import RunPlots

        return RunPlots(self.folder, self.results, self.storage, self.backbone, self.data)

    def __repr__(self) -> str:
        counts = self.trials["state"].str.lower().value_counts()
        states = ", ".join(f"{count} {state}" for state, count in counts.items())
        return f"<sweep run {self.folder.path}: {len(self.trials)} trials, {states}>"

    def _repr_html_(self) -> str:
        from sweep.report import page, tables

        shown = f"the best {TOP} of " if len(self.trials) > TOP else ""
        try:
            answer = tables.answer(self.results, self.best.number)
        except SweepError:  # nothing is complete yet
            answer = page.paragraph(repr(self))
        heading = page.paragraph(f"{shown}{len(self.trials)} trials in {self.folder.path}", quiet=True)
        return answer + heading + tables.trials_table(self.results, limit=TOP)
