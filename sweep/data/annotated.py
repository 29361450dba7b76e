"""Images with boxes, as readers of annotation files find them: checks them, and makes a data set of them."""

import math
import os
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field, replace
from itertools import compress
from pathlib import Path
from typing import TypeVar

import numpy as np

from sweep.data.base import AnyLabels, DataSet, Indices, Split, digest_of
from sweep.data.boxes import Boxes
from sweep.data.decoding import UnreadableImageError, upright_size
from sweep.data.files import ImageChecker, UnusableBoxError, file_split
from sweep.data.splitting import divided
from sweep.errors import UsageError
from sweep.tasks.kinds import DETECTION

FourNumbers = tuple[float, float, float, float]


@dataclass(frozen=True)
class AnnotatedBox:
    """A box as an annotation file gives it.

    Attributes:
        name: name of its class.
        corners: left, top, right and bottom, in pixels of the image.
        ignored: whether it counts neither as found nor as missed.
        what: what it is called in messages, such as `object 3`.
    """

    name: str
    corners: FourNumbers
    ignored: bool
    what: str

    @property
    def described(self) -> str:
        """The box for messages: where it is in the file, its class and its corners."""
        left, top, right, bottom = (f"{corner:g}" for corner in self.corners)
        return f"{self.what} ({self.name}, {left} {top} to {right} {bottom})"


@dataclass(frozen=True)
class AnnotatedImage:
    """An image and the boxes that an annotation file gives for it.

    Attributes:
        image: the image's file, which may be missing.
        where: the annotation file, and the place in it if it has several images, for messages.
        size: width and height of the image in pixels, as the file says; None if it does not.
        boxes: its boxes; an image may have none.
        split: `"train"`, `"val"` or `"test"`; None if images are not in splits.
    """

    image: Path
    where: str
    size: tuple[int, int] | None = None
    boxes: Sequence[AnnotatedBox] = field(default=(), repr=False)
    split: str | None = None


AnyImage = TypeVar("AnyImage", bound=AnnotatedImage)


def annotated_data(
    root: Path, found: Sequence[AnnotatedImage], names: tuple[str, ...], *, seed: int | None, checker: ImageChecker
) -> DataSet:
    """Make a data set for detection.

    Boxes that reach over the edge of an image are cut off there.

    Args:
        root: the folder of the data.
        found: the images with their boxes; all have a split, or none has.
        names: names of the classes, in order of label.
        seed: seed of the split; None to split nothing, see `sweep.data.splitting.divided`.
        checker: checks the images, and records boxes that are left out.

    Raises:
        UsageError: a box has a class that is not among `names`, no image can be used, or a split is missing or has no
            box.
        SweepError: an image is missing or cannot be read, is not of the size that its annotation says, or has a box
            without area or twice, and bad images are errors.
    """
    _require_known(found, names)
    kept = usable_images(root, found, checker)
    faults: list[UnusableBoxError] = []
    boxes = [_boxes(image, size, names, faults) for image, size in kept]
    checker.leave_out(faults)
    labels = np.stack([own.counts(len(names)) for own in boxes])
    most_boxes = max(map(len, boxes))

    def with_boxes(images: Split, members: Indices) -> Split:
        own = [boxes[index] for index in members]
        return replace(
            images,
            fingerprinter=lambda: digest_of(["boxes", images.fingerprint, *(each.content() for each in own)]),
            boxes=own.__getitem__,
            most_boxes=most_boxes,
        )

    return divided_images(root, kept, labels, names, with_boxes, seed=seed, checker=checker, task=DETECTION.name)


def divided_images(
    root: Path,
    kept: Sequence[tuple[AnnotatedImage, tuple[int, int]]],
    labels: AnyLabels,
    names: tuple[str, ...],
    annotate: Callable[[Split, Indices], Split],
    *,
    seed: int | None,
    checker: ImageChecker,
    task: str,
) -> DataSet:
    """Make a data set of annotated images, in the splits that the annotations give if they give any.

    Args:
        root: the folder of the data.
        kept: the images, as `usable_images` returns them; all have a split, or none has.
        labels: their labels, by which the images are divided.
        names: names of the classes, in order of label.
        annotate: adds the annotations to a split of images; it is given the split and the indices of its images among
            those kept.
        seed: seed of the split; None to split nothing, see `sweep.data.splitting.divided`.
        checker: what left images out, for messages.
        task: name of the kind of task.

    Raises:
        UsageError: a split is missing.
    """
    given = [image.split for image, _ in kept if image.split is not None]

    def split_of(name: str, members: Indices) -> Split:
        files = [kept[index][0].image for index in members.tolist()]
        return annotate(file_split(name, root, files, labels[members]), members)

    return divided(
        labels,
        names,
        given or None,
        split_of,
        name=root.resolve().name,
        what=f"folder {root}",
        seed=seed,
        checker=checker,
        task=task,
    )


def usable_images(
    root: Path, found: Sequence[AnyImage], checker: ImageChecker
) -> list[tuple[AnyImage, tuple[int, int]]]:
    """The images of a folder that can be used, with their sizes in pixels.

    Raises:
        UsageError: no image can be used.
        SweepError: an image is missing or cannot be read, or is not of the size that its annotation says, and bad
            images are errors.
    """

    def require_file(index: int) -> None:
        if not os.path.isfile(found[index].image):
            raise UnreadableImageError(found[index].where, f"its image {found[index].image} does not exist")

    there = list(compress(found, checker.usable(len(found), require_file)))
    readable = list(compress(there, checker.readable([image.image for image in there])))
    sizes = [(0, 0)] * len(readable)

    def measure(index: int) -> None:
        image = readable[index]
        sizes[index] = size = upright_size(image.image)
        if image.size is not None and image.size != size:
            turned = image.size == size[::-1] and size[0] != size[1]
            hint = "; if an EXIF orientation turns it, annotate the upright image" if turned else ""
            raise UnreadableImageError(
                image.where,
                f"it says that {image.image} has {image.size[0]} x {image.size[1]} pixels, but the image has "
                f"{size[0]} x {size[1]}{hint}",
            )

    usable = checker.usable(len(readable), measure)
    kept = list(compress(zip(readable, sizes, strict=True), usable))
    if not kept:
        raise UsageError(f"no image of {root} can be used{checker.remark()}")
    return kept


def _require_known(found: Sequence[AnnotatedImage], names: tuple[str, ...]) -> None:
    known = set(names)
    for image in found:
        for box in image.boxes:
            if box.name not in known:
                raise UsageError(
                    f"{image.where}: {box.described} has a class that is not among those named, "
                    f"{', '.join(names[:12])}{', …' if len(names) > 12 else ''}; correct the name, or add it to them"
                )


def _boxes(
    image: AnnotatedImage, size: tuple[int, int], names: tuple[str, ...], faults: list[UnusableBoxError]
) -> Boxes:
    """The boxes that can be used; faults of the others are appended to `faults`."""
    kept = list(_without_faults(image, size, faults))
    return Boxes(
        size,
        np.array([names.index(name) for name, _, _ in kept], dtype=np.int64),
        np.array([corners for _, corners, _ in kept], dtype=np.float64).reshape(-1, 4),
        np.array([ignored for _, _, ignored in kept], dtype=np.bool_),
    )


def _without_faults(
    image: AnnotatedImage, size: tuple[int, int], faults: list[UnusableBoxError]
) -> Iterator[tuple[str, FourNumbers, bool]]:
    """Class name, corners inside the image, and whether the box is ignored."""
    width, height = size
    seen: dict[tuple[str, FourNumbers], str] = {}
    for box in image.boxes:
        left, top, right, bottom = box.corners
        inside = (max(left, 0.0), max(top, 0.0), min(right, float(width)), min(bottom, float(height)))
        first = seen.setdefault((box.name, box.corners), box.what)
        if not all(map(math.isfinite, box.corners)):
            fault = "has corners that are not finite numbers"
        elif not (right > left and bottom > top):
            fault = "has no area"
        elif not (inside[2] > inside[0] and inside[3] > inside[1]):
            fault = f"is outside of its image {image.image}, which has {width} x {height} pixels"
        elif first != box.what:
            fault = f"is there twice: {first} is the same"
        else:
            yield box.name, inside, box.ignored
            continue
        faults.append(UnusableBoxError(image.where, f"{box.described} {fault}"))
