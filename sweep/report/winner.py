"""The report's sections on the winner's predictions for the validation data, by kind of task."""

from collections.abc import Iterator, Sequence

import numpy as np
import torch

from sweep.records.results import Results
from sweep.report import page
from sweep.report.box_pictures import box_pictures, boxes_table
from sweep.report.evidence import Evidence
from sweep.report.figures import confusion_matrix, predicted_against_true, reliability_diagram
from sweep.report.mask_pictures import mask_pictures, overlaps_table
from sweep.report.page import Cell, Plotted
from sweep.tasks.breakdown import label_scores
from sweep.tasks.inputs import one_of
from sweep.tasks.kinds import CLASSES, DETECTION, MULTI_LABEL, SEGMENTATION
from sweep.tasks.metrics import THRESHOLD

N_CONFUSED = 24
THUMBNAIL_SIDE = 132
EXCERPT_LENGTH = 240
MOST_NAMED_LABELS = 3
CALIBRATION_NOTE = (
    "Each bar holds the {items} whose most probable class was given that probability; the number above it says how "
    "many. A bar below the line says that the model is too sure of itself. Bars of few {items} say little."
)


def winner_sections(evidence: Evidence, results: Results, winner: int, plotted: Plotted) -> Iterator[tuple[str, ...]]:
    """Yield the sections; a tuple has the sections that stand side by side.

    Args:
        evidence: The winner's outputs on the validation data.
        results: The run's tables.
        winner: The number of the winning trial.
        plotted: Turns a figure with a name into HTML.
    """
    names: list[str] = results.config["classes"]
    if results.kind is CLASSES:
        yield (
            page.heading(f"Confusion of trial {winner} on {evidence.split}")
            + plotted("confusion", confusion_matrix(evidence, names)),
            page.heading(f"Calibration of trial {winner} on {evidence.split}")
            + page.paragraph(CALIBRATION_NOTE.format(items=evidence.kind), quiet=True)
            + plotted("calibration", reliability_diagram(evidence)),
        )
        yield (_most_confused(evidence, names),)
    elif results.kind is MULTI_LABEL:
        yield (page.heading(f"Labels of trial {winner} on {evidence.split}") + labels_table(evidence, names),)
        yield (_most_wrong(evidence, names),)
    elif results.kind is SEGMENTATION:
        yield (page.heading(f"Classes of trial {winner} on val") + overlaps_table(evidence, names),)
        yield (mask_pictures(evidence, names),)
    elif results.kind is DETECTION:
        yield (page.heading(f"Classes of trial {winner} on val") + boxes_table(evidence, names),)
        yield (box_pictures(evidence, names),)
    else:
        heading = page.heading(f"Predicted and true values of trial {winner} on {evidence.split}")
        yield (heading + plotted("predicted", predicted_against_true(evidence, names)),)
        yield (_farthest(evidence, names),)


def labels_table(evidence: Evidence, names: Sequence[str]) -> str:
    """Return a table with the average precision, precision and recall (at probability 0.5) of every label."""
    rows = []
    for score in label_scores(torch.from_numpy(evidence.values), torch.from_numpy(evidence.labels), tuple(names)):
        shares = [score.average_precision, score.precision, score.recall]
        cells = [Cell("" if np.isnan(share) else f"{share:.3f}", share) for share in shares]
        rows.append([Cell(score.name), Cell(str(score.n), float(score.n)), *cells])
    item = one_of(evidence.kind)
    note = (
        f"Precision and recall at probability {THRESHOLD}. A label that no {evidence.adjective} {item} has is left out "
        f"of the mean."
    )
    columns = ["label", evidence.kind, "average precision", "precision", "recall"]
    return page.paragraph(note, quiet=True) + page.table(columns, rows, sortable=True)


def _most_confused(evidence: Evidence, class_names: Sequence[str]) -> str:
    indices = evidence.most_confused(N_CONFUSED)
    n_wrong = int((evidence.predicted != evidence.labels).sum())
    pictures = []
    for index in indices:
        said, true = int(evidence.predicted[index]), int(evidence.labels[index])
        p = evidence.probabilities[index]
        lines = (
            f"true: {class_names[true]} ({p[true]:.0%})",
            f"predicted: {class_names[said]} ({p[said]:.0%})",
        )
        pictures.append(_shown(evidence, index, lines))
    note = (
        f"{n_wrong} of {len(evidence.labels)} {evidence.adjective} {evidence.kind} are misclassified; "
        f"those where the winner is most confident come first."
    )
    return page.heading(f"Most confused {evidence.kind}") + page.paragraph(note, quiet=True) + page.images(pictures)


def _most_wrong(evidence: Evidence, names: Sequence[str]) -> str:
    """Multi-label images with a wrong label, in order of the winner's confidence in the wrong label."""
    has = evidence.labels == 1
    wrong = has != (evidence.values >= THRESHOLD)
    distance = np.where(wrong, np.abs(evidence.values - THRESHOLD), -1.0)
    at_fault = np.flatnonzero(wrong.any(-1))
    order = at_fault[np.argsort(-distance[at_fault].max(-1), kind="stable")]
    pictures = []
    for index in order[:N_CONFUSED].tolist():
        labels = np.argsort(-distance[index], kind="stable")
        shown = [label for label in labels.tolist() if wrong[index, label]]
        lines = [
            f"{'has' if has[index, label] else 'has no'} {names[label]} ({evidence.values[index, label]:.0%})"
            for label in shown[:MOST_NAMED_LABELS]
        ]
        if len(shown) > MOST_NAMED_LABELS:
            lines.append(f"and {len(shown) - MOST_NAMED_LABELS} more")
        pictures.append(_shown(evidence, index, lines))
    note = (
        f"{len(at_fault)} of {len(has)} {evidence.adjective} {evidence.kind} have a label that was predicted wrongly "
        f"at probability {THRESHOLD}; those about which the winner is most certain come first. The probability is that "
        f"of the label."
    )
    return page.heading("Largest errors") + page.paragraph(note, quiet=True) + page.images(pictures)


def _farthest(evidence: Evidence, names: Sequence[str]) -> str:
    """Show the images with the largest errors, each target scaled by its standard deviation on the validation data."""
    errors = np.abs(evidence.values - evidence.labels) / evidence.labels.std(0)
    pictures = []
    for index in np.argsort(-errors.mean(-1), kind="stable")[:N_CONFUSED].tolist():
        lines = [
            f"{name}: true {true:.4g}, predicted {said:.4g}"
            for name, true, said in zip(names, evidence.labels[index], evidence.values[index], strict=True)
        ]
        pictures.append(_shown(evidence, index, lines))
    note = "The largest errors come first, in standard deviations of the targets."
    return page.heading("Largest errors") + page.paragraph(note, quiet=True) + page.images(pictures)


def _shown(evidence: Evidence, index: int, lines: Sequence[str]) -> str:
    """One image or text of the validation set, with its caption and its file, if it has one."""
    item, lines = evidence.val.open(index), [*lines, f"{evidence.adjective} {one_of(evidence.kind)} {index}"]
    path = evidence.val.source(index) if evidence.val.source else None
    if evidence.kind == "texts":
        return page.quotation(_excerpt(item), lines, path)
    return page.image(page.picture(item, THUMBNAIL_SIDE), lines, path)


def _excerpt(text: str) -> str:
    return text if len(text) <= EXCERPT_LENGTH else f"{text[:EXCERPT_LENGTH].rsplit(maxsplit=1)[0]} …"
