"""A run's figures for a notebook: a method for each figure of the report and of `sweep results --plot`."""

from dataclasses import dataclass
from functools import cached_property

import optuna
from plotly.graph_objects import Figure

from sweep.errors import SweepError, UsageError
from sweep.export.selection import winner_of
from sweep.machine.paths import default_cache_dir
from sweep.records.folder import RunFolder
from sweep.records.results import Results
from sweep.report.evidence import Evidence, winner_on_val
from sweep.report.figures import confusion_matrix, learning_curves, predicted_against_true, reliability_diagram
from sweep.report.plots import trials_figure
from sweep.report.search_figures import (
    LEAST_TRIALS,
    configurations,
    distributions_of,
    importances,
    parameters_of,
    slices,
)
from sweep.search.optuna_storage import load_optuna_study
from sweep.tasks.kinds import CLASSES, REGRESSION, TaskKind


@dataclass(frozen=True)
class RunPlots:
    """Plotly figures of a run.

    Args:
        folder: The run's folder.
        results: The run's tables.
        storage: The run's Optuna storage URL, if it was given one.
        backbone: The file of the run's backbone and its function, `PATH.py:FUNCTION`, if it was the user's own.
        data: Where the data are now, if not where the run's record says.
    """

    folder: RunFolder
    results: Results
    storage: str | None
    backbone: str | None = None
    data: str | None = None

    def trials(self) -> Figure:
        """Plot every complete trial and the best so far; with several objectives, the Pareto front."""
        return trials_figure(self.results)

    def curves(self) -> Figure:
        """Learning curves of all trials, winner and baseline in colour; a list chooses the metric."""
        return _styled(learning_curves(self.results.curves, self._winner, list(self.results.objectives)))

    def importances(self) -> Figure:
        """Importances of the parameters. Raises `SweepError` if too few trials are complete."""
        figure = importances(self._study, self.results)
        return _styled(self._required(figure, f"{LEAST_TRIALS} complete trials that have a parameter"))

    def parallel_coordinates(self) -> Figure:
        """All configurations, one line each; raises `SweepError` where fewer than two trials are complete."""
        figure = configurations(self.results, distributions_of(self._study))
        return _styled(self._required(figure, "two complete trials"))

    def slices(self) -> Figure:
        """One parameter at a time; raises `SweepError` where no trial is complete."""
        shown = parameters_of(self.results)
        return _styled(slices(self.results, shown, distributions_of(self._study), self._winner))

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
        given = {"data": self.data, "backbone_file": self.backbone}
        return winner_on_val(self.results, self.folder, self._winner, default_cache_dir(), **given)

    @cached_property
    def _study(self) -> optuna.Study:
        command = f"sweep.load_run({str(self.folder.path)!r}, storage=URL), or"
        return load_optuna_study(self.folder, self.storage, command)

    def _required(self, figure: Figure | None, wanted: str) -> Figure:
        if figure is None:
            raise SweepError(f"{self.folder.path} has too few trials for this figure, which needs {wanted}")
        return figure


def _styled(figure: Figure) -> Figure:
    return figure.update_layout(template="plotly_white")
