"""Plot a run's trials, as an HTML file that opens without a network."""

from html import escape
from pathlib import Path
from typing import Any

import plotly.graph_objects as go
from plotly.subplots import make_subplots

from sweep.errors import SweepError, UsageError
from sweep.machine.paths import write_atomically
from sweep.records.results import Results, parameter_columns


def trials_figure(results: Results) -> go.Figure:
    """Plot the complete trials of a run.

    With several objectives, the figure shows the trials by their first two or three objectives, with the Pareto front
    marked, and the hypervolume over time. With one objective, it shows its value for each trial and the best so far.
    Error bars are one standard deviation over replicates.
    """
    objectives = list(results.objectives)
    complete = results.trials[results.trials["state"] == "COMPLETE"].sort_values("trial")
    texts = [
        "<br>".join(escape(f"{name}: {row[name]}") for name in ["trial", *objectives, *parameter_columns(complete)])
        for row in complete.to_dict("records")
    ]
    if len(objectives) == 1:
        return _history(complete, objectives[0], results.objectives[objectives[0]], texts)
    figure = make_subplots(
        rows=1, cols=2, column_widths=[0.65, 0.35], horizontal_spacing=0.2, subplot_titles=("trials", "hypervolume")
    )
    x, y = objectives[:2]
    front = (complete["front"] == 0).to_list()
    third = complete[objectives[2]] if len(objectives) > 2 else None
    marker: dict[str, Any] = {"size": 10, "symbol": ["star" if on else "circle" for on in front]}
    if third is not None:
        marker |= {
            "color": third,
            "colorbar": {"title": {"text": objectives[2], "side": "right"}, "x": 0.53},
            "colorscale": "Viridis",
        }
    figure.add_trace(
        go.Scatter(
            x=complete[x],
            y=complete[y],
            error_x=_bars(complete, x),
            mode="markers",
            marker=marker,
            text=texts,
            hoverinfo="text",
        ),
        row=1,
        col=1,
    )
    history = (results.summary.get("hypervolume") or {}).get("after_trial", [])
    figure.add_trace(
        go.Scatter(x=[n for n, _ in history], y=[v for _, v in history], line={"shape": "hv"}), row=1, col=2
    )
    figure.update_xaxes(title=x, row=1, col=1)
    figure.update_yaxes(title=y, row=1, col=1)
    figure.update_xaxes(title="trial", row=1, col=2)
    return figure.update_layout(template="plotly_white", showlegend=False, title="stars: the Pareto front")


def _history(complete: Any, objective: str, direction: str, texts: list[str]) -> go.Figure:
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
            text=texts,
            hoverinfo="text",
            name="trials",
        )
    )
    figure.add_trace(go.Scatter(x=trials, y=best, line={"shape": "hv"}, name="best so far"))
    return figure.update_layout(template="plotly_white", xaxis_title="trial", yaxis_title=objective)


def _bars(complete: Any, objective: str) -> dict[str, Any] | None:
    """Return error bars with the spread over replicates, if there are several."""
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
        write_atomically(path, lambda partial: partial.write_text(html))
    except OSError as error:
        raise SweepError(f"cannot write {path}: {error.strerror}; choose another file") from error
