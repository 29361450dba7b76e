"""Print how an exported model does on labelled data."""

import math
from typing import TYPE_CHECKING

from rich.console import Console
from rich.markup import escape
from rich.table import Table

from sweep.terminal.console import printable

if TYPE_CHECKING:  # PyTorch takes seconds to import
    from torch import Tensor

    from sweep.export.evaluation import Evaluation

LARGEST_MATRIX = 12
"""With more classes, the most frequent confusions are listed instead of the matrix."""

MOST_LISTED = 20


def show_evaluation(console: Console, evaluation: "Evaluation", *, of_the_run: bool) -> None:
    """Print metrics, then confusion and calibration, or scores by label or target.

    Args:
        console: The terminal to print to.
        evaluation: What was measured.
        of_the_run: Whether the data are those that the model was trained on.
    """
    _show_metrics(console, evaluation, of_the_run)
    if evaluation.confusion is not None:
        _show_confusion(console, evaluation.confusion, evaluation.class_names)
    if evaluation.by_label:
        _show_labels(console, evaluation)
    if evaluation.by_class:
        _show_overlaps(console, evaluation)
    if evaluation.by_boxes:
        _show_boxes(console, evaluation)
    if evaluation.calibration:
        _show_calibration(console, evaluation)
    if len(evaluation.by_target) > 1:
        _show_targets(console, evaluation)


def _show_metrics(console: Console, evaluation: "Evaluation", of_the_run: bool) -> None:
    kind, items = evaluation.target.kind, evaluation.kind
    part = "" if evaluation.part == "all" else f", {evaluation.part} split"
    run = " of the model's own run" if of_the_run else ""
    title = f"{evaluation.data}{part}{run}: {evaluation.n_items} {items}; ± is the standard error over {items}"
    table = Table(title=_name(title), title_justify="left")
    table.add_column("")
    for heading in kind.metrics.values():
        table.add_column(heading, justify="right", no_wrap=True)
    for name, values in evaluation.metrics.items():
        score, *others = (f"{values[metric]:.3f}" for metric in kind.metrics)
        error = values[f"{kind.score}_error"]
        table.add_row(name, score + ("" if math.isnan(error) else f" ± {error:.3f}"), *others)
    console.print(table)


def _show_confusion(console: Console, confusion: "Tensor", names: tuple[str, ...]) -> None:
    if len(names) <= LARGEST_MATRIX:
        table = Table(title="confusion: a row for each true class, a column for each answer", title_justify="left")
        table.add_column("")
        for name in names:
            table.add_column(_name(name), justify="right", max_width=12)
        for name, row in zip(names, confusion.tolist(), strict=True):
            table.add_row(_name(name), *(str(count) if count else "·" for count in row))
        console.print(table)
        return
    wrong = confusion.clone().fill_diagonal_(0)
    order = wrong.flatten().argsort(descending=True, stable=True)[:MOST_LISTED].tolist()
    table = Table(title="the most frequent confusions", title_justify="left")
    for heading in ("true class", "answer"):
        table.add_column(heading)
    table.add_column("number", justify="right")
    for place in order:
        true, answer = divmod(place, len(names))
        if wrong[true, answer]:
            table.add_row(_name(names[true]), _name(names[answer]), str(wrong[true, answer].item()))
    console.print(table)


def _show_labels(console: Console, evaluation: "Evaluation") -> None:
    scores = evaluation.by_label
    several = evaluation.confusion is None
    listed = scores
    title = f"each {'label, at a probability of 0.5' if several else 'class'}"
    if len(scores) > MOST_LISTED:
        found = [score for score in scores if not math.isnan(score.recall)]
        listed = sorted(found, key=lambda score: score.recall)[:MOST_LISTED]
        title += f": the {len(listed)} of {len(scores)} with the lowest recall"
    table = Table(title=title, title_justify="left")
    table.add_column("label" if several else "class")
    for heading in (evaluation.kind, "predicted", "precision", "recall", *(["average precision"] if several else [])):
        table.add_column(heading, justify="right")
    for score in listed:
        cells = [score.precision, score.recall, *([score.average_precision] if several else [])]
        table.add_row(_name(score.name), str(score.n), str(score.n_predicted), *map(_share, cells))
    console.print(table)


def _show_overlaps(console: Console, evaluation: "Evaluation") -> None:
    table = Table(title="each class, over the labelled pixels of all images", title_justify="left")
    table.add_column("class")
    for heading in ("pixels", "predicted", "IoU", "precision", "recall"):
        table.add_column(heading, justify="right")
    for one in evaluation.by_class:
        shares = map(_share, (one.iou, one.precision, one.recall))
        table.add_row(_name(one.name), str(one.n_pixels), str(one.n_predicted), *shares)
    console.print(table)


def _show_boxes(console: Console, evaluation: "Evaluation") -> None:
    table = Table(title="each class, over the boxes of all images", title_justify="left")
    table.add_column("class")
    for heading in ("boxes", "AP", "AP50", "recall"):
        table.add_column(heading, justify="right")
    for one in evaluation.by_boxes:
        table.add_row(_name(one.name), str(one.n_boxes), *map(_share, (one.ap, one.ap50, one.recall)))
    console.print(table)


def _show_calibration(console: Console, evaluation: "Evaluation") -> None:
    table = Table(title="calibration: is the model right as often as it says?", title_justify="left")
    for heading in ("probability", evaluation.kind, "mean probability", "accuracy"):
        table.add_column(heading, justify="right")
    for one in evaluation.calibration:
        table.add_row(f"{one.low:.2f} to {one.high:.2f}", str(one.n), f"{one.confidence:.3f}", f"{one.accuracy:.3f}")
    console.print(table)


def _show_targets(console: Console, evaluation: "Evaluation") -> None:
    metrics = evaluation.target.kind.metrics
    table = Table(title="each target", title_justify="left")
    table.add_column("target")
    for heading in metrics.values():
        table.add_column(heading, justify="right")
    for name, values in evaluation.by_target.items():
        table.add_row(_name(name), *(f"{values[metric]:.3f}" for metric in metrics))
    console.print(table)


def _name(name: str) -> str:
    return escape(printable(name))


def _share(value: float) -> str:
    return "-" if math.isnan(value) else f"{value:.3f}"
