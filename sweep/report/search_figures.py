"""Figures of the search: importances of parameters, all configurations at once, and one parameter at a time.

Text from the user is escaped, because plotly interprets some HTML in labels.
"""

import math
import warnings
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from html import escape

import numpy as np
import optuna
import pandas as pd
from optuna.distributions import BaseDistribution, CategoricalDistribution
from optuna.trial import TrialState
from plotly.graph_objects import Bar, Figure, Parcoords
from plotly.subplots import make_subplots

from sweep.records.findings import BASELINE
from sweep.records.results import PARAMETER_PREFIX, Results, parameter_columns
from sweep.report.colours import BASELINE_COLOUR, DARKER, DOTS_COLOUR, FIGURE_HEIGHT, WINNER_COLOUR

LEAST_TRIALS = 10
"""Number of complete trials that must have a parameter before its importance is shown. With fewer, it is chance."""
MOST_LOG_TICKS = 5
MOST_COLUMNS, ROW_HEIGHT = 3, 300
NOT_ASKED = "–"
"""The label for trials that do not have a parameter."""
UNUSED_SHARE = 0.15
"""Share of an axis, below its values, for the trials that do not have the parameter."""


def importances(study: optuna.Study, results: Results) -> Figure | None:
    """Optuna's PED-ANOVA importances for the first objective, for parameters that enough complete trials have.

    Args:
        study: The run's Optuna study.
        results: The run's tables.

    Returns:
        A bar chart, in which each bar has its number of trials as a label. None if fewer than two parameters have
        `LEAST_TRIALS` trials, or all values of the objective are equal.
    """
    complete = study.get_trials(deepcopy=False, states=[TrialState.COMPLETE])
    counts = {name: sum(name in trial.params for trial in complete) for name in parameters_of(results)}
    enough = [name for name, count in counts.items() if count >= LEAST_TRIALS]
    if len(enough) < 2:
        return None
    objective, direction = next(iter(results.objectives.items()))
    sign = -1 if direction == "maximize" else 1  # the evaluator asks what makes the target small
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # Optuna's: that the target is taken to be minimised, which it is
            found = optuna.importance.get_param_importances(
                study, params=enough, target=lambda trial: sign * trial.values[0]
            )
    except (ValueError, RuntimeError):  # all of one value
        return None
    names = sorted(found, key=lambda name: found[name])
    figure = Figure(
        Bar(
            x=[found[name] for name in names],
            y=[f"{escape(name)} (n = {counts[name]})" for name in names],
            orientation="h",
            marker={"color": BASELINE_COLOUR},
            hovertemplate="%{y}: %{x:.2f}<extra></extra>",
        )
    )
    return figure.update_layout(
        xaxis={"title": {"text": f"importance for {escape(objective)}"}, "rangemode": "tozero"},
        yaxis={"automargin": True},
        height=120 + 36 * len(names),
    )


def left_out(study: optuna.Study, results: Results) -> list[str]:
    """Parameters that too few complete trials have for `importances`, each with its number of trials."""
    complete = study.get_trials(deepcopy=False, states=[TrialState.COMPLETE])
    counts = {name: sum(name in trial.params for trial in complete) for name in parameters_of(results)}
    return [f"{name} ({count})" for name, count in counts.items() if count < LEAST_TRIALS]


def parameters_of(results: Results) -> list[str]:
    """Names of the run's parameters."""
    return [name.removeprefix(PARAMETER_PREFIX) for name in parameter_columns(results.trials)]


@dataclass(frozen=True)
class _Axis:
    """A parameter's values as positions on an axis.

    Attributes:
        places: Position of every trial; NaN if it does not have the parameter. If `log`, logarithms to base 10.
        ticks: Positions, each with its label.
        low: Smallest position.
        high: Largest position.
        categorical: Whether positions are numbers of choices.
        log: Whether positions are logarithms.
    """

    places: pd.Series
    ticks: Mapping[float, str]
    low: float
    high: float
    categorical: bool = False
    log: bool = False


def _axis(values: pd.Series, distribution: BaseDistribution | None) -> _Axis:
    known = values.dropna()
    if isinstance(distribution, CategoricalDistribution) or not pd.api.types.is_numeric_dtype(known):
        declared = distribution.choices if isinstance(distribution, CategoricalDistribution) else ()
        choices = list(dict.fromkeys(map(_choice, [*declared, *known.unique()])))
        places = values.map(lambda v: math.nan if pd.isna(v) else float(choices.index(_choice(v))))
        return _Axis(places.astype(float), dict(enumerate(map(escape, choices))), 0, max(len(choices) - 1, 1), True)
    numbers = values.astype(float)
    low, high = float(numbers.min()), float(numbers.max())
    if getattr(distribution, "log", False) and low > 0:
        ticks = {math.log10(tick): f"{tick:g}" for tick in log_ticks(low, high)}
        return _Axis(numbers.map(math.log10, na_action="ignore"), ticks, math.log10(low), math.log10(high), log=True)
    return _Axis(numbers, {}, low, high)


def _choice(value: object) -> str:
    """A choice as text. Whole numbers have no decimal point, although a table with gaps turns them into floats."""
    return f"{value:.0f}" if isinstance(value, float) and value.is_integer() else str(value)


def log_ticks(low: float, high: float) -> list[float]:
    """Round values between two numbers as ticks of a log axis: at least one, and at most `MOST_LOG_TICKS`."""
    decades = range(math.floor(math.log10(low)), math.ceil(math.log10(high)) + 1)
    for steps in ((1, 2, 5), (1, 3), (1,)):
        ticks = [float(f"{step}e{decade}") for decade in decades for step in steps]
        within = [tick for tick in ticks if low <= tick <= high]
        if 2 <= len(within) <= MOST_LOG_TICKS:
            return within
    powers = [float(f"1e{decade}") for decade in decades if low <= float(f"1e{decade}") <= high]
    if len(powers) < 2:
        return [float(f"{low:.2g}"), float(f"{high:.2g}")] if high > low else [float(f"{low:.2g}")]
    return powers[:: -(-len(powers) // MOST_LOG_TICKS)]


def distributions_of(study: optuna.Study) -> dict[str, BaseDistribution]:
    """Distribution of each parameter, by name."""
    return {name: of for trial in study.get_trials(deepcopy=False) for name, of in trial.distributions.items()}


def configurations(results: Results, distributions: Mapping[str, BaseDistribution]) -> Figure | None:
    """Complete trials as lines through one axis per parameter. Darker lines are better by the first objective.

    Args:
        results: The run's tables.
        distributions: Distributions of the parameters, by name.

    Returns:
        The figure; None if fewer than two trials are complete.
    """
    complete = results.trials[results.trials["state"] == "COMPLETE"]
    if len(complete) < 2:
        return None
    objective, direction = next(iter(results.objectives.items()))
    values = complete[objective].astype(float)
    dimensions: list[dict[str, object]] = [{"label": escape(objective), "values": values.tolist()}]
    for name in parameters_of(results):
        if complete[PARAMETER_PREFIX + name].isna().all():
            continue
        axis = _axis(complete[PARAMETER_PREFIX + name], distributions.get(name))
        dimensions.append({"label": escape(name), **_dimension(axis)})
    figure = Figure(
        Parcoords(
            line={
                "color": values.tolist(),
                "colorscale": DARKER,
                "reversescale": direction == "minimize",
                "showscale": True,
                "colorbar": {"title": {"text": escape(objective)}, "thickness": 14},
            },
            dimensions=dimensions,
            labelfont={"size": 12},
        )
    )
    return figure.update_layout(height=FIGURE_HEIGHT)


def _dimension(axis: _Axis) -> dict[str, object]:
    """An axis for plotly, with a position below its values for trials that do not have the parameter."""
    ticks, low, span = dict(axis.ticks), axis.low, axis.high - axis.low or 1.0
    if not ticks:
        steps = np.linspace(axis.low, axis.high, 5) if axis.high > axis.low else [axis.low]
        ticks = {float(step): f"{step:.3g}" for step in steps}
    places = axis.places
    if places.isna().any():
        low = axis.low - UNUSED_SHARE * span
        places, ticks = places.fillna(low), {low: NOT_ASKED, **ticks}
    return {
        "values": places.tolist(),
        "range": [low, axis.low + span],
        "tickvals": list(ticks),
        "ticktext": list(ticks.values()),
    }


def slices(
    results: Results, parameters: Sequence[str], distributions: Mapping[str, BaseDistribution], winner: int
) -> Figure:
    """Complete trials by parameter, in one panel per parameter.

    Args:
        results: The run's tables.
        parameters: Names of the parameters to show.
        distributions: Distributions of the parameters, by name.
        winner: Number of the trial to mark, in addition to the baseline.
    """
    objective = next(iter(results.objectives))
    complete = results.trials[results.trials["state"] == "COMPLETE"]
    n_columns = min(MOST_COLUMNS, len(parameters))
    n_rows = -(-len(parameters) // n_columns)
    figure = make_subplots(rows=n_rows, cols=n_columns, shared_yaxes=True, vertical_spacing=0.25 / n_rows)
    marked = {winner: (f"winner, trial {winner}", WINNER_COLOUR, 11)}
    if winner != BASELINE:
        marked = {BASELINE: (f"baseline, trial {BASELINE}", BASELINE_COLOUR, 11), **marked}
    others = ~complete["trial"].isin(list(marked))
    groups = [(others, "other trials", DOTS_COLOUR, 8)]
    groups += [(complete["trial"] == trial, *look) for trial, look in marked.items()]
    for number, name in enumerate(parameters):
        row, column = divmod(number, n_columns)
        values = complete[PARAMETER_PREFIX + name]
        axis = _axis(values, distributions.get(name))
        for mask, label, colour, size in groups:
            own = mask & values.notna()
            figure.add_scatter(
                x=axis.places[own].tolist(),
                y=complete.loc[own, objective].tolist(),
                customdata=list(zip(complete.loc[own, "trial"], map(_shown, values[own]), strict=True)),
                mode="markers",
                marker={"color": colour, "size": size, "line": {"color": "white", "width": 1}},
                name=label,
                legendgroup=label,
                showlegend=number == 0,
                hovertemplate=f"trial %{{customdata[0]}}: {escape(name)} %{{customdata[1]}}, %{{y:.4g}}<extra></extra>",
                row=row + 1,
                col=column + 1,
            )
        settings: dict[str, object] = {"title": {"text": escape(name)}, "automargin": True}
        if axis.ticks:
            settings |= {"tickmode": "array", "tickvals": list(axis.ticks), "ticktext": list(axis.ticks.values())}
        if axis.categorical:
            settings |= {"range": [axis.low - 0.5, len(axis.ticks) - 0.5]}
        else:
            settings |= {"nticks": MOST_LOG_TICKS}
        figure.update_xaxes(settings, row=row + 1, col=column + 1)
    figure.update_yaxes(title={"text": escape(objective)}, col=1)
    return figure.update_layout(
        height=ROW_HEIGHT * n_rows + 60,
        legend={"orientation": "h", "y": -0.3 / n_rows, "yanchor": "top", "x": 0},
        hovermode="closest",
    )


def _shown(value: object) -> str:
    return f"{value:.4g}" if isinstance(value, float) else escape(str(value))
