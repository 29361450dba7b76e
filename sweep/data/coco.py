"""Images whose boxes are in a JSON file of COCO's form, one for each split or one for all."""

import math
from pathlib import Path

from sweep.data.annotated import AnnotatedBox, AnnotatedImage, annotated_data
from sweep.data.base import DataSet
from sweep.data.coco_files import LONGEST_SHOWN, REMEDY, Annotation, CocoImage, read_coco
from sweep.data.files import ImageChecker
from sweep.errors import UsageError


def coco_folder(root: Path, *, seed: int | None, checker: ImageChecker) -> DataSet:
    """Load a folder of images with boxes in JSON files of COCO's form, in the layouts that `read_coco` reads.

    Without splits, the images are split 64 / 16 / 20 %; without ``val``, 20 % of train become val.

    Args:
        root: an existing folder.
        seed: seed of the split; None to split nothing, see `sweep.data.splitting.divided`.
        checker: checks the images before they are split.

    Raises:
        UsageError: as `read_coco` or `annotated_data`, or a box has no four numbers.
        SweepError: as `read_coco` or `annotated_data`.
    """
    names, images = read_coco(root, {"bbox": list})
    found = [
        AnnotatedImage(
            image.image, image.where, image.size, [_box(image, note) for note in image.annotations], image.split
        )
        for image in images
    ]
    return annotated_data(root, found, names, seed=seed, checker=checker)


def _box(image: CocoImage, note: Annotation) -> AnnotatedBox:
    numbers = note.content["bbox"]
    if len(numbers) != 4 or any(isinstance(value, bool) or not isinstance(value, int | float) for value in numbers):
        raise UsageError(
            f"{image.file}, {note.where}: its 'bbox' is {str(numbers)[:LONGEST_SHOWN]}, not four numbers: left, top, "
            f"width and height{REMEDY}"
        )
    left, top, width, height = map(_as_float, numbers)
    return AnnotatedBox(note.name, (left, top, left + width, top + height), note.is_crowd, note.where)


def _as_float(number: float) -> float:
    try:
        return float(number)
    except OverflowError:  # a whole number of hundreds of digits
        return math.inf
