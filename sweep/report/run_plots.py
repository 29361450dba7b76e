"""A run's figures for a notebook: a method for each figure of the report and of `sweep results --plot`."""

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
        folder: The run's folder.
        results: The run's tables.
        storage: The run's Optuna storage URL, if it was given one.
    """

    folder: RunFolder
    results: Results
    storage: str | None

    def trials(self) -> Figure:
        """Plot every complete trial and the best so far; with several objectives, the Pareto front."""
        return trials_figure(self.results)

    def curves(self) -> Figure:
        """Plot the learning curves of all trials, with winner and baseline in colour. Buttons choose the metric."""
        return _styled(learning_curves(self.results.curves, self._winner, list(self.results.objectives)))

    def importances(self) -> Figure:
        """Plot which parameters matter. Raises `SweepError` if too few trials are complete."""
        return self._of_search("Which parameters matter")

    def parallel_coordinates(self) -> Figure:
        """Plot all configurations, one line each. Raises the same errors as `importances`."""
        return self._of_search("All configurations")

    def slices(self) -> Figure:
        """Plot one parameter at a time. Raises the same errors as `importances`."""
        return self._of_search("One parameter at a time")

    def confusion(self) -> Figure:
        """Plot the winner's confusion matrix on the validation data.

        Raises:
            UsageError: The task is not a classification.
            SweepError: The images differ from those of the run.
        """
        self._require(CLASSES, "confusion")
        return _styled(confusion_matrix(self._evidence, self.results.config["classes"]))

    def calibration(self) -> Figure:
        """Plot the winner's accuracy against its confidence. Raises the same errors as `confusion`."""
        self._require(CLASSES, "calibration")
        return _styled(reliability_diagram(self._evidence))

    def predictions(self) -> Figure:
        """Plot predicted against true numbers. Raises `UsageError` if the task is not a regression."""
        self._require(REGRESSION, "predictions")
        return _styled(predicted_against_true(self._evidence, self.results.config["classes"]))

    def _require(self, kind: TaskKind, name: str) -> None:
        if self.results.kind is not kind:
            raise UsageError(
                f"plot.{name}() needs the task {kind.name}, and that of {self.folder.path} is {self.results.kind.name}"
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
            raise SweepError(
                f"{self.folder.path} has too few complete trials for this figure, or all have the same value"
            )
        return _styled(figures[title])


def _styled(figure: Figure) -> Figure:
    return figure.update_layout(template="plotly_white")
