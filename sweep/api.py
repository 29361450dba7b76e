"""A run in Python: start one, or open its folder, and look at it.

    import sweep

    run = sweep.run("lr_rank", n_parallel=32, data="./photos")
    run.trials
    model = run.best.load()

The command line calls the same function.
"""

from collections.abc import Mapping, Sequence
from contextlib import closing
from dataclasses import dataclass, fields
from datetime import datetime
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pandas as pd

from sweep.budget import Budget, parse_duration
from sweep.enqueued import read_enqueued
from sweep.errors import SweepError, UsageError
from sweep.export.selection import hyperparameters_of, winner_of
from sweep.paths import default_cache_dir
from sweep.reporter import Reporter
from sweep.results import Results, load_results
from sweep.run_folder import RunFolder
from sweep.study import LoadedStudy, Study, load_study

if TYPE_CHECKING:  # PyTorch and plotly take seconds to import
    from sweep.data import OnBadImage
    from sweep.export.model import AdaptedModel
    from sweep.export.write import Exported
    from sweep.run_plots import RunPlots

TOP = 5
"""Trials that a notebook shows of a run."""


def run(
    study: str | Path | Study,
    *,
    n_parallel: int | None = 32,
    out: str | Path | None = None,
    time: str | None = None,
    target: float | None = None,
    enqueue: str | Path | Sequence[Mapping[str, Any]] = (),
    storage: str | None = None,
    device: str | None = None,
    on_bad_image: "OnBadImage" = "error",
    reporter: Reporter | None = None,
    **declared: Any,
) -> "Run":
    """Train a study's trials together and rank them.

    Args:
        study: A study's name, such as `"lr_rank"`, the path of a Python file, or a `sweep.Study`.
        n_parallel: Trials trained together in one stack; None for as many as fit in memory.
        out: Run folder to make; `runs/STUDY-TIME` if not given.
        time: End the search after this long: `"90s"`, `"10m"`, `"1h30m"`.
        target: End the search when a trial's last epoch reaches this first objective.
        enqueue: Trials to train first: one mapping of parameters each, or a CSV file of them.
        storage: An Optuna storage URL; a journal in the run folder if not given.
        device: As PyTorch names it; the GPU if there is one, else the CPU, if not given.
        on_bad_image: What to do with an image file that cannot be read: `"error"` stops, `"skip"` leaves it out.
        reporter: Told what happens; some lines on standard error if not given.
        **declared: What the study declares, overridden, such as `data="./photos"`, `trials=64` or `epochs=20`; see
            `sweep.Study`. None leaves the study's own.

    Raises:
        UsageError: A request that cannot be carried out as given.
        SweepError: Something failed on the way; what was finished is in the run folder.
        KeyboardInterrupt: The run was interrupted; `load_run` opens what was finished.
    """
    from sweep.cli.console import stderr
    from sweep.cli.progress import reporter_for
    from sweep.runner import run_study

    loaded = overridden_study(study, declared)
    folder = Path(out) if out is not None else new_run_path(loaded.name)
    with closing(reporter_for(stderr)) as shown:
        run_study(
            loaded,
            n_parallel=n_parallel,
            out=folder,
            storage_url=storage,
            device_name=device,
            cache_dir=default_cache_dir(),
            on_bad_image=on_bad_image,
            reporter=reporter or shown,
            budget=Budget(wall_seconds=None if time is None else parse_duration(time), target=target),
            enqueued=read_enqueued(Path(enqueue)) if isinstance(enqueue, str | Path) else enqueue,
        )
    return load_run(folder, storage=storage)


def new_run_path(study_name: str) -> Path:
    """Where a run goes that was not told."""
    return Path("runs") / f"{study_name}-{datetime.now():%Y%m%d-%H%M%S}"


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


def overridden_study(study: str | Path | Study, declared: Mapping[str, Any]) -> LoadedStudy:
    """A study by name, by file or as it is, with what is declared for one run; None leaves the study's own.

    Raises:
        UsageError: There is no such study, or a study declares no such thing.
    """
    if isinstance(study, Study):
        code = getattr(study.suggest, "__code__", None)
        loaded = LoadedStudy("study", Path(code.co_filename if code else "study"), study)
    else:
        loaded = load_study(str(study))
    known = [f.name for f in fields(Study)]
    for name in declared:
        if name not in known:
            raise UsageError(f"sweep.run() has no argument {name!r}, and a study declares {', '.join(known)}")
    return LoadedStudy(loaded.name, loaded.path, loaded.study.override(**declared))


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

    def load(self, *, device: str = "cpu") -> "AdaptedModel":
        """The trial as a PyTorch module from images `(B, 3, H, W)` to logits `(B, C)`, in eval mode.

        Raises:
            UsageError: The trial is not complete, or its weights were not kept: a run keeps those of its ten best.
            SweepError: A file is damaged, or the backbone is not the one of the run.
        """
        from sweep.export.write import model_of_run

        return model_of_run(self.folder.path, trial=self.number, cache_dir=default_cache_dir()).to(device)

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
        from sweep.run_plots import RunPlots

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
