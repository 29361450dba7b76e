"""The report's sections on the search: Pareto front, importances of parameters, and all trials by their parameters."""

from collections.abc import Iterator

import optuna

from sweep.records.results import PARAMETER_PREFIX, Results
from sweep.report import page, tables
from sweep.report.page import Plotted
from sweep.report.plots import hypervolume_figure, pareto_figure
from sweep.report.search_figures import (
    LEAST_TRIALS,
    NOT_ASKED,
    configurations,
    distributions_of,
    importances,
    left_out,
    parameters_of,
    slices,
)

AXIS_WIDTH, FRONT_WIDTH = 110, 360
"""Least width in pixels of an axis in the figure of all configurations, and of the Pareto front."""
HALF_WIDTH, PANEL_WIDTH = 480, 300
"""Width in pixels of a figure beside another one, and of a parameter's panel."""


def front_section(results: Results, plotted: Plotted) -> str:
    """The Pareto front as a table and as a figure, and the hypervolume by trial."""
    figures = [plotted("pareto-front", pareto_figure(results), least_width=FRONT_WIDTH)]
    if results.summary.get("hypervolume"):
        figures.append(plotted("hypervolume", hypervolume_figure(results)))
    return page.heading("Pareto front") + tables.front(results) + page.grid(figures, HALF_WIDTH)


def search_sections(study: optuna.Study, results: Results, winner: int, plotted: Plotted) -> Iterator[str]:
    """Sections on the search's parameters.

    Args:
        study: The run's Optuna study.
        results: The run's tables.
        winner: The number of the trial that is ranked first.
        plotted: Turns a figure, given its name, into HTML.
    """
    first = next(iter(results.objectives))
    note = (
        f"How much each parameter decides whether a trial is among the best by {first} (Optuna's PED-ANOVA); n is the "
        f"number of complete trials that have it. Below some 50 trials this is rough."
    )
    if few := left_out(study, results):
        note += f" Left out, because fewer than {LEAST_TRIALS} complete trials have them: {', '.join(few)}."
    found = importances(study, results)
    yield (
        page.heading("Which parameters matter")
        + page.paragraph(note, quiet=True)
        + ("" if found is None else plotted("which-parameters-matter", found))
    )
    distributions = distributions_of(study)
    if (lines := configurations(results, distributions)) is not None:
        note = (
            f"Each line is a complete trial; darker lines are better by {first}. Drag along an axis to select trials. "
            f"{NOT_ASKED} stands for trials that do not have the parameter."
        )
        n_axes = len(lines.data[0].dimensions)
        figure = plotted("all-configurations", lines, least_width=AXIS_WIDTH * n_axes)
        yield page.heading("All configurations") + page.paragraph(note, quiet=True) + figure
    complete = results.trials[results.trials["state"] == "COMPLETE"]
    shown = [name for name in parameters_of(results) if complete[PARAMETER_PREFIX + name].notna().any()]
    note = f"Complete trials by {first} against each parameter. The other parameters vary at the same time."
    panels = [
        plotted(f"parameter-{number}", slices(results, [name], distributions, winner))
        for number, name in enumerate(shown)
    ]
    if panels:
        yield (
            page.heading("One parameter at a time") + page.paragraph(note, quiet=True) + page.grid(panels, PANEL_WIDTH)
        )
