"""Plot a run's trials, as an HTML file that opens without a network."""

from html import escape
from pathlib import Path
from typing import Any

import pandas as pd
import plotly.graph_objects as go
from plotly.subplots import make_subplots

from sweep.errors import SweepError, UsageError
from sweep.machine.paths import write_atomically
from sweep.records.results import Results, parameter_columns

FRONT, OTHERS = "Pareto front", "other trials"


def trials_figure(results: Results) -> go.Figure:
    """Plot the complete trials of a run.

    With several objectives, the figure shows the trials by their first two or three objectives, with the Pareto front
    marked, and the hypervolume over time. With one objective, it shows its value for each trial and the best so far.
    Error bars are one standard deviation over replicates.
    """
    if len(results.objectives) == 1:
        return history_figure(results)
    figure = make_subplots(
        rows=1, cols=2, column_widths=[0.65, 0.35], horizontal_spacing=0.25, subplot_titles=("trials", "hypervolume")
    )
    for column, part in enumerate((pareto_figure(results), hypervolume_figure(results)), start=1):
        for trace in part.data:
            figure.add_trace(trace, row=1, col=column)
        figure.update_xaxes(title=part.layout.xaxis.title, row=1, col=column)
        figure.update_yaxes(title=part.layout.yaxis.title, row=1, col=column)
    if figure.data[0].marker.colorbar.title.text:
        figure.update_traces(marker={"colorbar": {"x": 0.53}}, selector={"name": OTHERS})
    return figure.update_layout(template="plotly_white", legend={"orientation": "h", "y": -0.2})


def pareto_figure(results: Results) -> go.Figure:
    """Complete trials by their first two objectives, coloured by the third; stars are the Pareto front."""
    objectives = list(results.objectives)
    x, y = objectives[:2]
    complete = _complete(results)
    third = objectives[2] if len(objectives) > 2 else None
    figure = go.Figure()
    on_front = complete["front"] == 0
    for name, mask, symbol, size in ((OTHERS, ~on_front, "circle", 9), (FRONT, on_front, "star", 13)):
        own = complete[mask]
        marker: dict[str, Any] = {"size": size, "symbol": symbol, "line": {"width": 1, "color": "#444"}}
        if third is not None:
            limits = {"cmin": float(complete[third].min()), "cmax": float(complete[third].max())}
            bar = {"title": {"text": escape(third), "side": "right"}, "thickness": 14}
            marker |= {"color": own[third], "colorscale": "Viridis", **limits}
            marker |= {"colorbar": bar, "showscale": name == OTHERS}
        figure.add_trace(
            go.Scatter(
                x=own[x],
                y=own[y],
                error_x=_bars(own, x),
                mode="markers",
                marker=marker,
                text=_texts(own, objectives),
                hoverinfo="text",
                name=name,
            )
        )
    return figure.update_layout(
        template="plotly_white",
        xaxis_title=_goal(results, x),
        yaxis_title=_goal(results, y),
        legend={"orientation": "h", "y": -0.2, "yanchor": "top", "x": 0},
    )


def hypervolume_figure(results: Results) -> go.Figure:
    """The hypervolume that the Pareto front encloses, after every complete trial."""
    history = (results.summary.get("hypervolume") or {}).get("after_trial", [])
    line = go.Scatter(
        x=[n for n, _ in history],
        y=[v for _, v in history],
        line={"shape": "hv", "color": "#d1495b"},
        showlegend=False,
        name="hypervolume",
    )
    return go.Figure(line).update_layout(
        template="plotly_white", xaxis_title="trial", yaxis_title="hypervolume", yaxis_rangemode="tozero"
    )


def history_figure(results: Results) -> go.Figure:
    """The first objective by trial, and the best so far."""
    objective, direction = next(iter(results.objectives.items()))
    complete = _complete(results)
    values = complete[objective]
    best = values.cummax() if direction == "maximize" else values.cummin()
    figure = go.Figure()
    trials = complete["trial"]
    figure.add_trace(
        go.Scatter(
            x=trials,
            y=values,
            error_y=_bars(complete, objective),
            mode="markers",
            text=_texts(complete, [objective]),
            hoverinfo="text",
            name="trials",
        )
    )
    figure.add_trace(go.Scatter(x=trials, y=best, line={"shape": "hv"}, name="best so far"))
    return figure.update_layout(template="plotly_white", xaxis_title="trial", yaxis_title=escape(objective))


def _complete(results: Results) -> pd.DataFrame:
    return results.trials[results.trials["state"] == "COMPLETE"].sort_values("trial")


def _goal(results: Results, objective: str) -> str:
    """An objective and which end of its axis is the good one."""
    return f"{escape(objective)} ({'more' if results.objectives[objective] == 'maximize' else 'less'} is better)"


def _texts(trials: pd.DataFrame, objectives: list[str]) -> list[str]:
    names = ["trial", *objectives, *parameter_columns(trials)]
    return ["<br>".join(escape(f"{name}: {row[name]}") for name in names) for row in trials.to_dict("records")]


def _bars(complete: pd.DataFrame, objective: str) -> dict[str, Any] | None:
    """Spread over replicates, where there are some."""
    spread = f"{objective}_std"
    if spread not in complete or complete[spread].isna().all():
        return None
    return {"type": "data", "array": complete[spread]}


def write_figure(path: Path, figure: go.Figure) -> None:
    """Write a figure as one HTML file.

    Raises:
        UsageError: The file's name ends as that of another kind of file.
        SweepError: The file cannot be written.
    """
    if path.suffix.lower() not in ("", ".html", ".htm"):
        raise UsageError(f"--plot {path}: plots are HTML files; give {path.with_suffix('.html')}")
    try:
        html = figure.to_html(include_plotlyjs=True, config={"showSendToCloud": False})  # no upload button
        write_atomically(path, lambda partial: partial.write_text(html, encoding="utf-8", errors="backslashreplace"))
    except OSError as error:
        raise SweepError(f"cannot write {path}: {error.strerror}; choose another file") from error
