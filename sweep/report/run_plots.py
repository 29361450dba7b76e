"""A run's figures for a notebook: those of the report and of `sweep results --plot`, one method each."""

from dataclasses import dataclass
from functools import cached_property

from plotly.graph_objects import Figure

from sweep.errors import SweepError, UsageError
from sweep.export.selection import winner_of
from sweep.machine.paths import default_cache_dir
from sweep.records.folder import RunFolder
from sweep.records.results import Results
from sweep.report.evidence import Evidence, winner_on_val
from sweep.report.figures import (
    confusion_matrix,
    learning_curves,
    predicted_against_true,
    reliability_diagram,
    search_figures,
)
from sweep.report.plots import trials_figure
from sweep.search.optuna_storage import load_optuna_study
from sweep.tasks.kinds import CLASSES, REGRESSION, TaskKind


@dataclass(frozen=True)
class RunPlots:
    """Plotly figures of a run.

    Args:
        folder: The run's.
        results: Its tables.
        storage: Its Optuna storage URL, where it was given one.
    """

    folder: RunFolder
    results: Results
    storage: str | None

    def trials(self) -> Figure:
        """Every complete trial and the best so far; with several objectives the Pareto front."""
        return trials_figure(self.results)

    def curves(self) -> Figure:
        """Learning curves of all trials, winner and baseline in colour; buttons choose the metric."""
        return _styled(learning_curves(self.results.curves, self._winner, list(self.results.objectives)))

    def importances(self) -> Figure:
        """Which parameters matter; raises `SweepError` where too few trials are complete to say."""
        return self._of_search("Which parameters matter")

    def parallel_coordinates(self) -> Figure:
        """All configurations, one line each; raises as `importances`."""
        return self._of_search("All configurations")

    def slices(self) -> Figure:
        """One parameter at a time; raises as `importances`."""
        return self._of_search("One parameter at a time")

    def confusion(self) -> Figure:
        """The winner's confusion matrix on val.

        Raises:
            UsageError: The task is not of classes.
            SweepError: The images are no longer the run's.
        """
        self._require(CLASSES, "confusion")
        return _styled(confusion_matrix(self._evidence, self.results.config["classes"]))

    def calibration(self) -> Figure:
        """The winner's accuracy against its confidence on val; raises as `confusion`."""
        self._require(CLASSES, "calibration")
        return _styled(reliability_diagram(self._evidence))

    def predictions(self) -> Figure:
        """The winner's numbers against the true ones on val; raises as `confusion` where the task is no regression."""
        self._require(REGRESSION, "predictions")
        return _styled(predicted_against_true(self._evidence, self.results.config["classes"]))

    def _require(self, kind: TaskKind, name: str) -> None:
        if self.results.kind is not kind:
            raise UsageError(
                f"plot.{name}() is for the task {kind.name}, and that of {self.folder.path} is {self.results.kind.name}"
            )

    @property
    def _winner(self) -> int:
        return winner_of(self.results, self.folder)

    @cached_property
    def _evidence(self) -> Evidence:
        return winner_on_val(self.results, self.folder, self._winner, default_cache_dir())

    def _of_search(self, title: str) -> Figure:
        command = f"sweep.load_run({str(self.folder.path)!r}, storage=URL), or"
        figures = search_figures(load_optuna_study(self.folder, self.storage, command))
        if title not in figures:
            raise SweepError(f"{self.folder.path} has too few complete trials, or all of one value, for this figure")
        return _styled(figures[title])


def _styled(figure: Figure) -> Figure:
    return figure.update_layout(template="plotly_white")
