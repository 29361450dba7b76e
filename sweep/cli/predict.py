"""`sweep predict`: labels for images out of an exported model."""

import csv
import sys
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

from sweep.cli import options
from sweep.cli.console import stderr
from sweep.task_kinds import CLASSES, MULTI_LABEL, REGRESSION, TaskKind

if TYPE_CHECKING:  # PyTorch takes seconds to import
    from sweep.predict import Prediction, Unreadable

STANDARD_OUTPUT = "-"


def predict(
    model: Annotated[Path, typer.Argument(help="The folder that `sweep export` made.")],
    images: Annotated[list[Path], typer.Argument(help="Image files, and folders of images at any depth.")],
    csv_file: Annotated[str, typer.Option("--csv", help="File to write; `-` for standard output.")] = STANDARD_OUTPUT,
    batch_size: Annotated[int, typer.Option(help="Images a forward pass.", min=1)] = 32,
    device: options.DeviceName = None,
) -> None:
    """Label images: path, label, its probability, then the probability of each class.

    Where an image may have several labels: path, those of probability 0.5 or more, joined by `|`, then the probability
    of each. For a regression: path and numbers.

    An image that cannot be read is named on standard error and left out; the others are labelled all the same.

        sweep predict shipped photos/ --csv labels.csv
    """
    from sweep.device import device_named
    from sweep.errors import SweepError
    from sweep.export.loading import load_model
    from sweep.paths import write_atomically
    from sweep.predict import find_images, predict_images

    paths = find_images(images)
    loaded = load_model(model, device=device_named(device))
    unreadable: list[Unreadable] = []
    with _progress() as progress:
        bar = progress.add_task("images", total=len(paths))
        outcomes = predict_images(
            loaded, paths, batch_size=batch_size, on_progress=lambda count: progress.advance(bar, count)
        )
        rows = _rows(outcomes, loaded.class_names, loaded.target.kind, unreadable)
        if csv_file == STANDARD_OUTPUT:
            csv.writer(sys.stdout).writerows(rows)
        else:
            target = Path(csv_file)
            try:
                write_atomically(target, lambda partial: _write(partial, rows))
            except OSError as error:
                raise SweepError(f"cannot write {target}: {error.strerror}; give another file with --csv") from error
    for outcome in unreadable:
        stderr.print(f"left out: {outcome.reason}", soft_wrap=True, highlight=False, markup=False)
    n_labelled = len(paths) - len(unreadable)
    where = "" if csv_file == STANDARD_OUTPUT else f" in {csv_file}"
    left_out = f", {len(unreadable)} left out" if unreadable else ""
    stderr.print(f"{n_labelled} images labelled{where}{left_out}", soft_wrap=True, highlight=False, markup=False)
    if not n_labelled:
        raise SweepError("none of the images could be read")


def _progress() -> Progress:
    columns = (TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), TimeRemainingColumn())
    return Progress(*columns, console=stderr, transient=True, disable=not stderr.is_terminal)


def _rows(
    outcomes: Iterable["Prediction | Unreadable"],
    class_names: tuple[str, ...],
    kind: TaskKind,
    unreadable: list["Unreadable"],
) -> Iterator[list[str]]:
    """The lines of the table; what could not be read is put aside."""
    from sweep.data.labels import SEPARATOR
    from sweep.metrics import THRESHOLD
    from sweep.predict import Unreadable

    probabilities = [f"p_{name}" for name in class_names]
    yield {
        CLASSES: ["path", "label", "probability", *probabilities],
        MULTI_LABEL: ["path", "labels", *probabilities],
        REGRESSION: ["path", *class_names],
    }[kind]
    for outcome in outcomes:
        if isinstance(outcome, Unreadable):
            unreadable.append(outcome)
            continue
        values = outcome.values.tolist()
        shown = [f"{value:.6g}" if kind is REGRESSION else f"{value:.6f}" for value in values]
        answer: list[str] = []
        if kind is CLASSES:
            best = int(outcome.values.argmax())
            answer = [class_names[best], shown[best]]
        elif kind is MULTI_LABEL:
            named = zip(class_names, values, strict=True)
            answer = [SEPARATOR.join(name for name, p in named if p >= THRESHOLD)]
        yield [str(outcome.path), *answer, *shown]


def _write(path: Path, rows: Iterable[list[str]]) -> None:
    with path.open("w", newline="", encoding="utf-8") as file:
        csv.writer(file).writerows(rows)
