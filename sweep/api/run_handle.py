"""A run folder as Python has it: tables, figures, and its trials as modules."""

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
"""Trials that a notebook shows of a run."""


def load_run(folder: str | Path, *, storage: str | None = None) -> "Run":
    """Open a run folder, of a run that ended, was interrupted or still goes on.

    Args:
        folder: The folder that `sweep run` named at its end.
        storage: The Optuna storage URL of a run that was given one; it is never taken from the run's files.

    Raises:
        UsageError: The folder is not a run's.
        SweepError: One of its files is missing or damaged.
    """
    return Run(RunFolder.open(Path(folder)), load_results(folder), storage)


@dataclass(frozen=True)
class RunTrial:
    """One trial of a run.

    Attributes:
        folder: The run's.
        results: The run's.
        number: Optuna's.
    """

    folder: RunFolder
    results: Results
    number: int

    @property
    def row(self) -> pd.Series:
        """Its row of `Run.trials`."""
        trials = self.results.trials
        return trials[trials["trial"] == self.number].iloc[0]

    @property
    def params(self) -> dict[str, Any]:
        """Its parameters, as Optuna chose them."""
        row = {str(name): value for name, value in self.row.items()}
        return hyperparameters_of(row, self.results.trials)

    def load(self, *, device: str = "cpu", backbone: str | None = None) -> "AdaptedModel":
        """The trial as a PyTorch module from images `(B, 3, H, W)` to logits `(B, C)`, in eval mode.

        Args:
            device: Where the module is to run.
            backbone: The file of the run's backbone and its function, `PATH.py:FUNCTION`, if it was your own.

        Raises:
            UsageError: The trial is not complete, or its weights were not kept: a run keeps those of its ten best.
            SweepError: A file is damaged, or the backbone is not the one of the run.
        """
        from sweep.export.write import model_of_run

        model = model_of_run(self.folder.path, trial=self.number, cache_dir=default_cache_dir(), backbone_file=backbone)
        return model.to(device)

    def export(self, to: str | Path, **options: Any) -> "Exported":
        """Write the trial as a model that `sweep.load_model` reads; options as of `sweep.export.write.export_run`."""
        from sweep.export.write import export_run

        return export_run(self.folder.path, Path(to), trial=self.number, cache_dir=default_cache_dir(), **options)

    def __repr__(self) -> str:
        first = next(iter(self.results.objectives))
        settings = ", ".join(f"{name}={value!r}" for name, value in self.params.items())
        return f"<trial {self.number}: {first} {self.row[first]:.4g}; {settings}>"


@dataclass(frozen=True)
class Run:
    """A run, to be looked at.

    Attributes:
        folder: Its folder, `folder.path`.
        results: Its tables, as they were when it was opened.
        storage: Its Optuna storage URL, where it was given one.
    """

    folder: RunFolder
    results: Results
    storage: str | None = None

    @property
    def trials(self) -> pd.DataFrame:
        """One row a trial, best first; the columns are those of `sweep.Results`."""
        return self.results.trials

    @property
    def curves(self) -> pd.DataFrame:
        """One row a trial, replicate, epoch and metric."""
        return self.results.curves

    @property
    def summary(self) -> dict[str, Any]:
        """The winner and the linear probe on test, and where the time went; empty if the run did not end."""
        return self.results.summary

    @property
    def best(self) -> RunTrial:
        """The winner: the trial that the run's ranking puts first.

        Raises:
            SweepError: No trial is complete.
        """
        return self.trial(winner_of(self.results, self.folder))

    def trial(self, number: int) -> RunTrial:
        """A trial by its number.

        Raises:
            UsageError: There is none.
        """
        if not (self.trials["trial"] == number).any():
            raise UsageError(f"{self.folder.path} has no trial {number}; its `trials` lists those it has")
        return RunTrial(self.folder, self.results, number)

    @cached_property
    def plot(self) -> "RunPlots":
        """Its figures: `run.plot.curves()`, and so on."""
        from sweep.report.run_plots import RunPlots

        return RunPlots(self.folder, self.results, self.storage)

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
