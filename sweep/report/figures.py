"""The report's figures. Text from the user is escaped, because plotly interprets some HTML in labels."""

from collections.abc import Sequence
from html import escape
from typing import Any

import numpy as np
import pandas as pd
import torch
from plotly.graph_objects import Bar, Figure, Heatmap, Scatter

from sweep.records.findings import BASELINE
from sweep.report.colours import BASELINE_COLOUR, FIGURE_HEIGHT, OTHERS_COLOUR, WINNER_COLOUR
from sweep.report.evidence import Evidence
from sweep.tasks.breakdown import calibration_bins, confusion_counts
from sweep.tasks.inputs import one_of
from sweep.tasks.kinds import TASK_KINDS
from sweep.tasks.metrics import N_CALIBRATION_BINS

CURVES = {
    **{f"val_{metric}": f"{kind.metrics[metric]} on val" for kind in TASK_KINDS.values() for metric in kind.shown},
    "train_loss": "training loss",
    "effective_rank": "ranks left",
}
CURVES.pop("val_mean_class_accuracy")  # close to top-1
LEGEND_BELOW = {"orientation": "h", "y": -0.2, "yanchor": "top", "x": 0}
LARGEST_NUMBERED_MATRIX = 20
"""With at most this many classes, the cells of the confusion matrix show their counts."""


def learning_curves(curves: pd.DataFrame, winner: int, objectives: Sequence[str]) -> Figure:
    """Learning curves of all trials, with winner and baseline in colour. A list chooses the metric."""
    figure = Figure()
    labels = {name: name.replace("val_", "", 1).replace("_", " ") + " on val" for name in objectives} | CURVES
    curves = curves.groupby(["trial", "epoch", "metric"])["value"].mean().reset_index()  # mean over replicates
    shown = [metric for metric in labels if (curves["metric"] == metric).any()]
    for number, metric in enumerate(shown):
        of_metric = curves[curves["metric"] == metric].sort_values(["trial", "epoch"])
        others = of_metric[~of_metric["trial"].isin([winner, BASELINE])]
        x, y, trials = _broken_line(others)
        visible = number == 0
        figure.add_trace(
            Scatter(
                x=x,
                y=y,
                customdata=trials,
                mode="lines+markers",
                marker={"size": 3},
                line={"color": OTHERS_COLOUR, "width": 1},
                name="other trials",
                visible=visible,
                hovertemplate="trial %{customdata}, epoch %{x}: %{y:.4f}<extra></extra>",
            )
        )
        for trial, name, colour in (
            (BASELINE, f"baseline, trial {BASELINE}", BASELINE_COLOUR),
            (winner, f"winner, trial {winner}", WINNER_COLOUR),
        ):
            own = of_metric[of_metric["trial"] == trial]
            figure.add_trace(
                Scatter(
                    x=own["epoch"].tolist(),
                    y=own["value"].tolist(),
                    mode="lines+markers",
                    line={"color": colour, "width": 3},
                    name=name,
                    visible=visible,
                    hovertemplate=f"trial {trial}, epoch %{{x}}: %{{y:.4f}}<extra></extra>",
                )
            )
    buttons = [
        {
            "label": escape(labels[metric]),
            "method": "update",
            "args": [
                {"visible": [i // 3 == number for i in range(3 * len(shown))]},
                {"yaxis.title.text": escape(labels[metric])},
            ],
        }
        for number, metric in enumerate(shown)
    ]
    figure.update_layout(
        updatemenus=[_menu(buttons)],
        legend=LEGEND_BELOW,
        xaxis={"title": {"text": "epoch"}, "dtick": max(1, int(curves["epoch"].max()) // 10) if len(curves) else 1},
        yaxis={"title": {"text": escape(labels[shown[0]]) if shown else ""}},
        height=FIGURE_HEIGHT,
    )
    return figure


def _menu(buttons: list[dict[str, Any]]) -> dict[str, Any]:
    """A list above the figure to choose from. Buttons in a row would not fit on a narrow page."""
    place = {"x": 0, "xanchor": "left", "y": 1.02, "yanchor": "bottom", "pad": {"b": 4}}
    return {"type": "dropdown", "direction": "down", "buttons": buttons, **place}


def _broken_line(curves: pd.DataFrame) -> tuple[list[float | None], list[float | None], list[int | None]]:
    """Join many lines into one with gaps between trials, so that thousands of trials are one trace."""
    x: list[float | None] = []
    y: list[float | None] = []
    trials: list[int | None] = []
    for trial, own in curves.groupby("trial"):
        x += [*own["epoch"].tolist(), None]
        y += [*own["value"].tolist(), None]
        trials += [*([int(str(trial))] * len(own)), None]
    return x, y, trials


def confusion_matrix(evidence: Evidence, class_names: Sequence[str]) -> Figure:
    """Plot the images of each class (rows) by the predicted class (columns)."""
    n_classes = len(class_names)
    labels = torch.from_numpy(evidence.labels.astype(np.int64))
    counts = confusion_counts(torch.from_numpy(evidence.predicted), labels, n_classes).numpy()
    share = counts / np.maximum(counts.sum(1, keepdims=True), 1)
    names = [escape(name) for name in class_names]
    in_cells = n_classes <= LARGEST_NUMBERED_MATRIX
    figure = Figure(
        Heatmap(
            z=share.tolist(),
            x=names,
            y=names,
            customdata=counts.tolist(),
            text=counts.tolist() if in_cells else None,
            texttemplate="%{text}" if in_cells else None,
            colorscale="Blues",
            zmin=0,
            zmax=1,
            colorbar={"title": {"text": "share of<br>the class"}, "thickness": 14},
            hovertemplate=f"true %{{y}}, predicted %{{x}}: %{{customdata}} {evidence.kind}<extra></extra>",
        )
    )
    figure.update_layout(
        xaxis={"title": {"text": "predicted"}, "type": "category", "constrain": "domain"},
        yaxis={
            "title": {"text": "true"},
            "type": "category",
            "autorange": "reversed",
            "scaleanchor": "x",
            "constrain": "domain",
        },
        height=520,
    )
    return figure


def reliability_diagram(evidence: Evidence) -> Figure:
    """Accuracy against confidence over the bins of the calibration error, with the number of images in each bin.

    On the diagonal the model is right as often as it says it is.
    """
    bins = calibration_bins(torch.from_numpy(evidence.probabilities), torch.from_numpy(evidence.labels))
    figure = Figure()
    figure.add_trace(
        Bar(
            x=[(one.low + one.high) / 2 for one in bins],
            y=[one.accuracy for one in bins],
            width=0.9 / N_CALIBRATION_BINS,
            customdata=[[one.n, one.confidence] for one in bins],
            text=[one.n for one in bins],
            textposition="outside",
            textangle=0,
            cliponaxis=False,
            marker={"color": BASELINE_COLOUR, "opacity": 0.75},
            name="accuracy",
            hovertemplate="accuracy %{y:.2f}, confidence %{customdata[1]:.2f}, %{customdata[0]} "
            f"{evidence.kind}<extra></extra>",
        )
    )
    figure.add_trace(
        Scatter(x=[0, 1], y=[0, 1], mode="lines", line={"color": "#888", "dash": "dash"}, name="perfectly calibrated")
    )
    figure.update_layout(
        xaxis={"title": {"text": "confidence"}, "range": [0, 1]},
        yaxis={"title": {"text": "accuracy"}, "range": [0, 1.05], "tickvals": [0, 0.2, 0.4, 0.6, 0.8, 1]},
        legend=LEGEND_BELOW,
        height=520,
    )
    return figure


def predicted_against_true(evidence: Evidence, names: Sequence[str]) -> Figure:
    """True (horizontal) and predicted (vertical) targets of the validation set. A list chooses the target."""
    figure = Figure()
    for column, name in enumerate(names):
        true, said = evidence.labels[:, column], evidence.values[:, column]
        ends = [float(min(true.min(), said.min())), float(max(true.max(), said.max()))]
        figure.add_trace(
            Scatter(
                x=true.tolist(),
                y=said.tolist(),
                customdata=list(range(len(true))),
                mode="markers",
                marker={"color": BASELINE_COLOUR, "size": 6, "opacity": 0.6},
                name=escape(name),
                visible=column == 0,
                hovertemplate=f"{one_of(evidence.kind)} "
                + "%{customdata}: true %{x:.4g}, predicted %{y:.4g}<extra></extra>",
            )
        )
        figure.add_trace(
            Scatter(
                x=ends,
                y=ends,
                mode="lines",
                line={"color": "#888", "dash": "dash"},
                name="no error",
                visible=column == 0,
            )
        )
    buttons = [
        {
            "label": escape(name),
            "method": "update",
            "args": [{"visible": [i // 2 == column for i in range(2 * len(names))]}],
        }
        for column, name in enumerate(names)
    ]
    figure.update_layout(
        updatemenus=[_menu(buttons)] if len(names) > 1 else [],
        legend=LEGEND_BELOW,
        xaxis={"title": {"text": "true"}},
        yaxis={"title": {"text": "predicted"}},
        height=FIGURE_HEIGHT,
    )
    return figure
