"""The report's pictures of a detection: images with their true and their predicted boxes."""

from collections.abc import Sequence

import numpy as np
import numpy.typing as npt
import torch
from PIL import Image, ImageDraw

from sweep.export.detections import MIN_SCORE
from sweep.export.masks import class_colour
from sweep.report import page
from sweep.report.evidence import Evidence
from sweep.report.mask_pictures import N_PICTURES, seen, side_by_side
from sweep.report.page import Cell
from sweep.tasks.breakdown import class_boxes
from sweep.tasks.kinds import DETECTION
from sweep.tasks.label_maps import IGNORED
from sweep.tasks.targets import Target

SIDE, LINE = 200, 2
IGNORED_COLOUR = (255, 255, 255)


def boxes_table(evidence: Evidence, names: Sequence[str]) -> str:
    """A table with the average precision and the recall of every class."""
    rows = []
    for score in class_boxes(torch.from_numpy(evidence.values), torch.from_numpy(evidence.labels), tuple(names)):
        shares = [score.ap, score.ap50, score.recall]
        cells = [Cell("" if np.isnan(share) else f"{share:.3f}", share) for share in shares]
        rows.append([Cell(score.name), Cell(f"{score.n_boxes:,}", float(score.n_boxes)), *cells])
    note = (
        "AP is the average precision of COCO, AP50 that at an intersection over union of 0.50. Recall is the share of "
        "boxes that a detection overlaps by 0.50, whatever its score. Ignored boxes are left out."
    )
    return page.paragraph(note, quiet=True) + page.table(
        ["class", "boxes", "AP", "AP50", "recall"], rows, sortable=True
    )


def box_pictures(evidence: Evidence, names: Sequence[str]) -> str:
    """Show images with their true and their predicted boxes side by side, those with the lowest score first."""
    found, labels = torch.from_numpy(evidence.values), torch.from_numpy(evidence.labels)
    (scores,) = Target(DETECTION).of_images(found[None], labels).tolist()
    pictures = []
    for index in np.argsort(scores, kind="stable")[:N_PICTURES].tolist():
        true, said = evidence.labels[index], evidence.values[index]
        true, said = true[true[:, 0] >= 0], said[(said[:, 0] >= 0) & (said[:, 5] > MIN_SCORE)]
        image = seen(evidence, index, SIDE)
        ignored = true[:, 5] > 0
        shown = side_by_side([_drawn(image, true, ignored), _drawn(image, said, np.zeros(len(said), dtype=np.bool_))])
        n_true = int((~ignored).sum())
        counts = f"AP50 {scores[index]:.2f}; true boxes: {n_true}, predicted: {len(said)}"
        lines = [counts, f"{evidence.adjective} image {index}"]
        path = evidence.val.source(index) if evidence.val.source else None
        pictures.append(page.image(page.picture(shown, shown.width), lines, path, wide=True))
    note = (
        "Each picture shows an image as the backbone sees it, on the left with its true boxes, on the right with the "
        f"predicted ones whose score is above {MIN_SCORE:g}. White boxes are ignored. Images with the lowest AP50 come "
        "first; AP50 counts boxes of lower scores too."
    )
    return (
        page.heading("True and predicted boxes")
        + page.paragraph(note, quiet=True)
        + page.legend({name: _colour(number) for number, name in enumerate(names)})
        + page.images(pictures)
    )


def _colour(number: int) -> tuple[int, int, int]:
    """The colour of a class; unlike those of masks, none is black or white."""
    return class_colour(1 + number % (IGNORED - 1))


def _drawn(image: Image.Image, boxes: npt.NDArray[np.floating], ignored: npt.NDArray[np.bool_]) -> Image.Image:
    """The image with boxes, `(k, 6)`, whose corners are fractions of it."""
    drawn = image.copy()
    pen = ImageDraw.Draw(drawn)
    for (label, *corners, _), is_ignored in zip(boxes.tolist(), ignored.tolist(), strict=True):
        left, top, right, bottom = (round(corner * (SIDE - 1)) for corner in corners)
        colour = IGNORED_COLOUR if is_ignored else _colour(int(label))
        pen.rectangle((left, top, max(left, right), max(top, bottom)), outline=colour, width=LINE)
    return drawn
