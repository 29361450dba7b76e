"""The report's pictures of a segmentation: images with their true and their predicted masks."""

from collections.abc import Sequence

import numpy as np
import torch
from PIL import Image

from backbones.grid import LabelMap
from backbones.protocol import Transform, to_rgb
from sweep.export.masks import class_colour, coloured
from sweep.report import page
from sweep.report.evidence import Evidence
from sweep.report.page import Cell
from sweep.tasks.breakdown import class_overlaps
from sweep.tasks.label_maps import IGNORED, interpolated

N_PICTURES = 18
SIDE, GAP = 132, 4


def overlaps_table(evidence: Evidence, names: Sequence[str]) -> str:
    """A table with the intersection over union, precision and recall of every class."""
    rows = []
    scores = class_overlaps(torch.from_numpy(evidence.values), torch.from_numpy(evidence.labels), tuple(names))
    for score in scores:
        shares = [score.iou, score.precision, score.recall]
        cells = [Cell("" if np.isnan(share) else f"{share:.3f}", share) for share in shares]
        rows.append([Cell(score.name), Cell(f"{score.n_pixels:,}", float(score.n_pixels)), *cells])
    note = "Pixels are counted over all val images together. Those without a label are left out."
    columns = ["class", "pixels", "IoU", "precision", "recall"]
    return page.paragraph(note, quiet=True) + page.table(columns, rows, sortable=True)


def mask_pictures(evidence: Evidence, names: Sequence[str]) -> str:
    """Show images beside their true and predicted masks, those with the lowest pixel accuracy first."""
    labels = evidence.labels.astype(np.uint8)
    values = torch.from_numpy(evidence.values)
    predicted = interpolated(values, labels.shape[-1]).argmax(1).numpy().astype(np.uint8)
    labelled = labels != IGNORED
    accuracy = ((predicted == labels) & labelled).sum((1, 2)) / np.maximum(labelled.sum((1, 2)), 1)
    pictures = []
    for index in np.argsort(accuracy, kind="stable")[:N_PICTURES].tolist():
        shown = _side_by_side(seen(evidence, index, SIDE), labels[index], predicted[index])
        lines = [f"{accuracy[index]:.1%} of the pixels correct", f"val image {index}"]
        path = evidence.val.source(index) if evidence.val.source else None
        pictures.append(page.image(page.picture(shown, shown.width), lines, path, wide=True))
    note = (
        "Each picture shows an image as the backbone sees it, its true mask, and the predicted one. White pixels have "
        "no label. Images with the fewest correct pixels come first."
    )
    return (
        page.heading("True and predicted masks")
        + page.paragraph(note, quiet=True)
        + page.legend({name: class_colour(number) for number, name in enumerate(names)})
        + page.images(pictures)
    )


def seen(evidence: Evidence, index: int, side: int) -> Image.Image:
    """What the backbone sees of an image, as a square of `side` pixels."""
    image, transform = to_rgb(evidence.val.open(index)), evidence.transform
    assert isinstance(transform, Transform)
    return image.resize((side, side), box=transform.seen_box(*image.size))


def _side_by_side(image: Image.Image, *masks: LabelMap) -> Image.Image:
    shown = (coloured(mask).convert("RGB").resize((SIDE, SIDE), Image.Resampling.NEAREST) for mask in masks)
    return side_by_side([image, *shown])


def side_by_side(squares: Sequence[Image.Image]) -> Image.Image:
    """Squares of one size in a row."""
    side = squares[0].width
    whole = Image.new("RGB", (len(squares) * (side + GAP) - GAP, side), "white")
    for place, square in enumerate(squares):
        whole.paste(square, (place * (side + GAP), 0))
    return whole
