"""Label images or texts with an exported model, batch by batch."""

import math
import os
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from PIL import Image
from torch import Tensor

from backbones.protocol import Transform
from sweep.data.decoding import UnreadableImageError, decode
from sweep.data.formats import is_image
from sweep.data.table_files import texts_of
from sweep.data.walk import files_below
from sweep.errors import SweepError, UsageError
from sweep.export.detections import MIN_SCORE, found_in_image
from sweep.export.masks import mask_of
from sweep.export.model import AdaptedModel
from sweep.tasks.boxes import Detections
from sweep.tasks.kinds import DETECTION, SEGMENTATION

DECODING_THREADS = 4
TABLES, LINES = (".csv", ".tsv", ".parquet"), ".txt"
DIGITS_OF_DEVIATION, MOST_DIGITS = 7, 15
"""Number of significant digits of a standard deviation that are written, and number of digits of any fp64 number."""


@dataclass(frozen=True)
class Prediction:
    """The model's output for one image or text.

    Attributes:
        item: The image's path, or the text.
        values: Probabilities of the classes or labels, or the predicted numbers, `(C,)`, on the CPU. For segmentation,
            the share of the image's pixels that each class has, and for detection the number of boxes of each class.
        mask: For segmentation, the class of every pixel; see `mask_of`.
        boxes: For detection, what was found, in pixels of the image.
        size: For detection, width and height of the image in pixels.
    """

    item: str
    values: Tensor
    mask: Image.Image | None = None
    boxes: Detections | None = None
    size: tuple[int, int] = (0, 0)


@dataclass(frozen=True)
class Unreadable:
    """An image that could not be read, or a text without tokens.

    Attributes:
        item: The image's path, or the text.
        reason: Why, in words for the user.
    """

    item: str
    reason: str


def find_images(paths: Sequence[Path]) -> list[str]:
    """Find the images that paths name: files, and all images below folders, in order of their paths.

    Raises:
        UsageError: A path does not exist, or a folder has no image.
    """
    found: list[Path] = []
    for path in paths:
        if path.is_dir():
            inside = [inner for inner in files_below(path) if is_image(inner)]
            if not inside:
                raise UsageError(f"{path} has no image")
            found += inside
        elif path.exists():
            found.append(path)
        else:
            raise UsageError(f"{path} does not exist")
    return list(map(str, found))


def find_texts(paths: Sequence[Path]) -> list[str]:
    """Read the texts in files: the column `text` of a table, or the lines of a `.txt` that are not empty.

    Raises:
        UsageError: A file does not exist, is of another kind, or has no text.
        SweepError: A table is damaged.
    """
    found: list[str] = []
    for path in paths:
        if not path.is_file():
            raise UsageError(
                f"{path} is not a file. The model reads texts: give a {LINES} file with one text per line, or a table"
            )
        if path.suffix.lower() in TABLES:
            texts = texts_of(path)
        elif path.suffix.lower() == LINES:
            try:
                lines = path.read_text(encoding="utf-8").splitlines()
            except UnicodeDecodeError as error:
                raise UsageError(f"{path} is not UTF-8 text: {error}; save it as UTF-8") from error
            texts = [line.strip() for line in lines if line.strip()]
        else:
            raise UsageError(f"{path}: the model reads texts; give a {LINES} file with one text per line, or a table")
        if not texts:
            raise UsageError(f"{path} has no text")
        found += texts
    return found


@torch.no_grad()
def predict(
    model: AdaptedModel,
    items: Sequence[str],
    *,
    batch_size: int,
    on_progress: Callable[[int], None],
    min_score: float = MIN_SCORE,
) -> Iterator[Prediction | Unreadable]:
    """Label images or texts, in the order given.

    Args:
        model: The model; inputs are sent to its device.
        items: Paths of image files, or texts, depending on what the model reads.
        batch_size: `B`, the number of items in one forward pass.
        on_progress: Called after every batch with the number of its items.
        min_score: For detection, the score that a box must exceed.

    Yields:
        A result for every item. An item that cannot be read does not stop the others.
    """
    device = next(model.parameters()).device
    opened: Callable[[str], Any] = _image if model.backbone.kind == "images" else str
    sizes: dict[str, tuple[int, int]] = {}
    kind, of_tokens = model.target.kind, model.target.kind in (SEGMENTATION, DETECTION)

    def read(item: str) -> Tensor | Unreadable:
        try:
            content = opened(item)
            if isinstance(content, Image.Image):
                sizes[item] = content.size
            return model.transform(content)
        except UnreadableImageError as error:
            return Unreadable(item, f"{error.name}: {error.reason}")
        except (SweepError, OSError, ValueError) as error:
            return Unreadable(item, str(error))

    with ThreadPoolExecutor(DECODING_THREADS, thread_name_prefix="decode") as pool:
        for start in range(0, len(items), batch_size):
            batch = items[start : start + batch_size]
            inputs = list(pool.map(read, batch))
            readable = [x for x in inputs if isinstance(x, Tensor)]
            rows: Iterator[Tensor] = iter(())
            if readable:
                outputs = model.outputs(torch.stack(readable).to(device)).cpu()
                rows = iter(outputs if of_tokens else model.target.probabilities(outputs))
            for item, found in zip(batch, inputs, strict=True):
                if isinstance(found, Unreadable):
                    yield found
                elif kind is SEGMENTATION:
                    yield _with_mask(model, item, next(rows), sizes[item])
                elif kind is DETECTION:
                    yield _with_boxes(model, item, next(rows), sizes[item], min_score)
                else:
                    yield Prediction(item, next(rows))
            on_progress(len(batch))


def _with_mask(model: AdaptedModel, item: str, outputs: Tensor, size: tuple[int, int]) -> Prediction:
    """The prediction for an image from the outputs for its tokens, `(P, C)`."""
    assert isinstance(model.transform, Transform)
    mask = mask_of(outputs, model.transform, size)
    n_classes = len(model.class_names)
    n_pixels = torch.from_numpy(np.bincount(np.asarray(mask).ravel(), minlength=n_classes)[:n_classes])
    return Prediction(item, n_pixels / n_pixels.sum(), mask)


def _with_boxes(model: AdaptedModel, item: str, outputs: Tensor, size: tuple[int, int], min_score: float) -> Prediction:
    """The prediction for an image from the outputs for its tokens, `(P, K)`."""
    assert isinstance(model.transform, Transform)
    n_classes = len(model.class_names)
    found = found_in_image(outputs, n_classes, model.transform, size, min_score=min_score)
    return Prediction(item, torch.bincount(found.classes, minlength=n_classes), boxes=found, size=size)


def names_below(images: Sequence[str]) -> dict[str, str]:
    """The path of each image below the folder that all of them share, with `/` between folders.

    Args:
        images: Paths of image files.
    """
    shared = os.path.commonpath([os.path.dirname(os.path.abspath(image)) for image in images])
    return {image: Path(os.path.relpath(os.path.abspath(image), shared)).as_posix() for image in images}


def mask_paths(images: Sequence[str], folder: Path) -> dict[str, Path]:
    """Where the masks of images go: under their paths below the folder that all images share, as PNG.

    Args:
        images: Paths of image files.
        folder: Folder of the masks.

    Raises:
        UsageError: Two masks would have the same path.
    """
    taken: dict[Path, str] = {}
    for image, name in names_below(images).items():
        path = folder / Path(name).with_suffix(".png")
        if path in taken:
            raise UsageError(f"the masks of {taken[path]} and {image} would both be {path}; rename one of the images")
        taken[path] = image
    return {image: path for path, image in taken.items()}


def written(number: float, std: float) -> str:
    """A predicted number as text, rounded to a millionth of the target's standard deviation.

    Args:
        number: The number in the units of the data.
        std: The target's standard deviation in the training set.
    """
    if not math.isfinite(number):
        return str(number)
    digits = math.ceil(math.log10(max(abs(number), std)) - math.log10(std)) + DIGITS_OF_DEVIATION
    return repr(number) if digits > MOST_DIGITS else f"{number:.{digits}g}"


def _image(item: str) -> Any:
    """A decoded image file."""
    return decode(Path(item))
