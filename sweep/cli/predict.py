"""`sweep predict`: label images or texts with an exported model."""

import csv
import sys
from collections.abc import Iterable, Iterator
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from sweep.cli import recorded_options
from sweep.tasks.kinds import CLASSES, DETECTION, MULTI_LABEL, REGRESSION, SEGMENTATION
from sweep.terminal.console import printable, progress_bar, stderr

if TYPE_CHECKING:  # PyTorch takes seconds to import
    from sweep.export.predict import Prediction, Unreadable
    from sweep.tasks.targets import Target

STANDARD_OUTPUT = "-"


def predict(
    model: Annotated[Path, typer.Argument(help="The folder that `sweep export` wrote.")],
    items: Annotated[
        list[Path],
        typer.Argument(
            help="Image files and folders, which are searched for images at any depth. For a model that reads texts: "
            "tables with a column `text` (`.csv`, `.parquet`), or `.txt` files with one text per line."
        ),
    ],
    csv_file: Annotated[str, typer.Option("--csv", help="File to write; `-` for standard output.")] = STANDARD_OUTPUT,
    masks: Annotated[
        Path | None, typer.Option(help="Folder for the masks, one PNG per image; for a model of segmentation.")
    ] = None,
    boxes: Annotated[
        Path | None, typer.Option(help="File for the boxes, JSON in COCO's form; for a model of detection.")
    ] = None,
    min_score: Annotated[
        float | None,
        typer.Option(
            help="Score that a box must exceed, between 0 and 1; for a model of detection.",
            min=0,
            max=1,
            show_default="0.3",
        ),
    ] = None,
    batch_size: Annotated[int, typer.Option(help="Images, or texts, in one forward pass.", min=1)] = 32,
    backbone: recorded_options.OwnBackbone = None,
    device: recorded_options.DeviceName = None,
    study: recorded_options.OwnStudy = None,
) -> None:
    """Label images or texts, and write the labels as CSV.

    Each row has the path or text, the predicted label, its probability, and then the probability of every class. Where
    an image may have several labels, the row has all labels with a probability of at least 0.5, joined by `|`, and then
    the probability of every label. For a regression, the row has the predicted numbers. A model of segmentation writes
    a mask for every image, a PNG whose values are the classes, and the row has each class's share of the pixels. A
    model of detection writes a file with the boxes of all images, and the row has the number of boxes of every class.

    An image that cannot be read is named on standard error and left out; the others are labelled all the same, and the
    exit code is 1.

        sweep predict shipped photos/ --csv labels.csv
    """
    from sweep.errors import SweepError
    from sweep.export.detections import MIN_SCORE
    from sweep.export.loading import load_model
    from sweep.export.predict import find_images, find_texts
    from sweep.export.predict import predict as predict_items
    from sweep.machine.device import device_named
    from sweep.machine.paths import write_atomically

    loaded = load_model(model, device=device_named(device), backbone=backbone, study=study)
    kind = loaded.backbone.kind
    found = find_texts(items) if kind == "texts" else find_images(items)
    paths = _mask_paths(masks, found, loaded.target)
    _check_boxes(boxes, min_score, loaded.target)
    with_boxes: list[Prediction] = []
    unreadable: list[Unreadable] = []
    with progress_bar() as progress:
        bar = progress.add_task(kind, total=len(found))
        outcomes = predict_items(
            loaded,
            found,
            batch_size=batch_size,
            on_progress=lambda count: progress.advance(bar, count),
            min_score=MIN_SCORE if min_score is None else min_score,
        )
        heading = "text" if kind == "texts" else "path"
        rows = _rows(_saved(outcomes, paths, with_boxes), heading, loaded.class_names, loaded.target, unreadable, paths)
        if csv_file == STANDARD_OUTPUT:
            csv.writer(sys.stdout).writerows(rows)
        else:
            target = Path(csv_file)
            try:
                write_atomically(target, lambda partial: _write(partial, rows))
            except OSError as error:
                raise SweepError(f"cannot write {target}: {error.strerror}; give another file with --csv") from error
    if boxes is not None:
        _write_boxes(boxes, with_boxes, loaded.class_names)
    for outcome in unreadable:
        stderr.print(printable(f"left out: {outcome.reason}"), soft_wrap=True, highlight=False, markup=False)
    n_labelled = len(found) - len(unreadable)
    where = "" if csv_file == STANDARD_OUTPUT else f" in {csv_file}"
    if not n_labelled:
        raise SweepError(f"none of the {kind} could be read")
    stderr.print(f"{n_labelled} {kind} labelled{where}", soft_wrap=True, highlight=False, markup=False)
    if unreadable:
        raise SweepError(
            f"{len(unreadable)} of {len(found)} {kind} could not be read and were left out; they are named above"
        )


def _mask_paths(folder: Path | None, images: list[str], target: "Target") -> dict[str, Path]:
    """The path of every image's mask; empty for a model that has none."""
    from sweep.errors import UsageError
    from sweep.export.predict import mask_paths

    if target.kind is not SEGMENTATION:
        if folder is not None:
            raise UsageError(f"--masks is for segmentation, and the model was trained for {target.kind.name}")
        return {}
    if folder is None:
        raise UsageError("the model answers with masks; give a folder for them with --masks")
    return mask_paths(images, folder)


def _check_boxes(file: Path | None, min_score: float | None, target: "Target") -> None:
    """Refuse the options of boxes for other models, and a model of boxes without a file for them."""
    from sweep.errors import UsageError

    if target.kind is DETECTION and file is None:
        raise UsageError("the model answers with boxes; give a file for them with --boxes")
    given = "--boxes" if file is not None else "--min-score" if min_score is not None else None
    if target.kind is not DETECTION and given is not None:
        raise UsageError(f"{given} is for detection, and the model was trained for {target.kind.name}")


def _write_boxes(file: Path, found: list["Prediction"], class_names: tuple[str, ...]) -> None:
    """Write the boxes of all images."""
    from sweep.errors import SweepError
    from sweep.export.detections import coco_of, write_coco
    from sweep.export.predict import names_below
    from sweep.machine.paths import write_atomically

    names = names_below([one.item for one in found]) if found else {}
    images = {names[one.item]: (one.size, one.boxes) for one in found if one.boxes is not None}
    content = coco_of([(name, size, boxes) for name, (size, boxes) in images.items()], class_names)
    try:
        write_atomically(file, lambda partial: write_coco(content, partial))
    except OSError as error:
        raise SweepError(f"cannot write {file}: {error.strerror}; give another file with --boxes") from error


def _saved(
    outcomes: Iterable["Prediction | Unreadable"], paths: dict[str, Path], with_boxes: list["Prediction"]
) -> Iterator["Prediction | Unreadable"]:
    """The outcomes, after their masks were written. Those that have boxes are appended to `with_boxes`."""
    from sweep.errors import SweepError
    from sweep.export.predict import Unreadable
    from sweep.machine.paths import write_atomically

    for outcome in outcomes:
        if not isinstance(outcome, Unreadable) and outcome.mask is not None:
            path, save = paths[outcome.item], partial(outcome.mask.save, format="PNG")
            try:
                path.parent.mkdir(parents=True, exist_ok=True)
                write_atomically(path, save)
            except OSError as error:
                raise SweepError(f"cannot write {path}: {error.strerror}; give another folder with --masks") from error
        if not isinstance(outcome, Unreadable) and outcome.boxes is not None:
            with_boxes.append(outcome)
        yield outcome


def _rows(
    outcomes: Iterable["Prediction | Unreadable"],
    heading: str,
    class_names: tuple[str, ...],
    target: "Target",
    unreadable: list["Unreadable"],
    masks: dict[str, Path],
) -> Iterator[list[str]]:
    """Yield the rows of the table; what could not be read is appended to `unreadable`."""
    from sweep.data.labels import SEPARATOR
    from sweep.export.predict import Unreadable, written
    from sweep.tasks.metrics import THRESHOLD

    kind = target.kind
    probabilities = [f"p_{name}" for name in class_names]
    yield {
        CLASSES: [heading, "label", "probability", *probabilities],
        MULTI_LABEL: [heading, "labels", *probabilities],
        REGRESSION: [heading, *class_names],
        SEGMENTATION: [heading, "mask", *(f"share_{name}" for name in class_names)],
        DETECTION: [heading, *(f"n_{name}" for name in class_names)],
    }[kind]
    for outcome in outcomes:
        if isinstance(outcome, Unreadable):
            unreadable.append(outcome)
            continue
        values = outcome.values.tolist()
        if kind is REGRESSION:
            shown = [written(value, std) for value, std in zip(values, target.std, strict=True)]
        elif kind is DETECTION:
            shown = [str(value) for value in values]
        else:
            shown = [f"{value:.6f}" for value in values]
        answer: list[str] = []
        if kind is CLASSES:
            best = int(outcome.values.argmax())
            answer = [class_names[best], shown[best]]
        elif kind is MULTI_LABEL:
            named = zip(class_names, values, strict=True)
            answer = [SEPARATOR.join(name for name, p in named if p >= THRESHOLD)]
        elif kind is SEGMENTATION:
            answer = [str(masks[outcome.item])]
        yield [outcome.item, *answer, *shown]


def _write(path: Path, rows: Iterable[list[str]]) -> None:
    with path.open("w", newline="", encoding="utf-8", errors="surrogateescape") as file:
        csv.writer(file).writerows(rows)
