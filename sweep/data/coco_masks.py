"""Images whose masks are in a JSON file of COCO's form, as polygons or run lengths of their objects."""

from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path

from PIL import Image

from sweep.data.annotated import AnnotatedImage, divided_images, usable_images
from sweep.data.base import DataSet, Indices, Split, digest_of
from sweep.data.coco_files import Annotation, read_coco
from sweep.data.files import ImageChecker, UnusableObjectError
from sweep.data.masks import counted_pixels, require_classes, warn_of_unseen
from sweep.data.regions import FaultyRegionError, Region, mask_of_regions
from sweep.errors import UsageError
from sweep.tasks.box_metrics import require_coco_eval
from sweep.tasks.kinds import SEGMENTATION
from sweep.tasks.label_maps import IGNORED, MOST_CLASSES

BACKGROUND = "background"
"""Class of the pixels that no object has."""


def coco_mask_folder(root: Path, *, seed: int | None, checker: ImageChecker) -> DataSet:
    """Load a folder of images with segmented objects in JSON files of COCO's form, in the layouts of `read_coco`.

    A mask has the class of its object at every pixel. Where objects overlap, the one with fewer pixels is on top, and
    of two with as many the later one. Pixels without an object are `background`, which is class 0. Regions with
    ``iscrowd`` have no label where no object is on top of them.

    Without splits, the images are split 64 / 16 / 20 %; without ``val``, 20 % of train become val.

    Args:
        root: an existing folder.
        seed: seed of the split; None to split nothing, see `sweep.data.splitting.divided`.
        checker: checks the images before they are split, and records objects that are left out. Where one of these has
            its box, pixels have no label.

    Raises:
        UsageError: as `read_coco`; the package that reads masks is not installed, there are too many classes, an image
            has no pixel with a label, no image can be used, or a split is missing.
        SweepError: as `read_coco` or `usable_images`; or an object has no segmentation, or one that cannot be used, and
            bad images are errors.
    """
    require_coco_eval("masks in annotations of COCO's form are read")
    found_names, images = read_coco(root, {})
    names = (BACKGROUND, *(name for name in found_names if name != BACKGROUND))
    if len(names) > MOST_CLASSES:
        raise UsageError(f"{root} has {len(names) - 1} categories, and a mask can have {MOST_CLASSES - 1} of them")
    found = [_Segmented(image.image, image.where, image.size, (), image.split, image.annotations) for image in images]
    kept = usable_images(root, found, checker)
    faults: list[UnusableObjectError] = []
    regions = [_in_order_of_painting(image, size, names, faults) for image, size in kept]
    checker.leave_out(faults)

    def mask(index: int) -> Image.Image:
        return mask_of_regions(regions[index], kept[index][1])

    def where(index: int) -> str:
        return f"the mask of {kept[index][0].where} ({kept[index][0].image})"

    labels = require_classes(counted_pixels(len(kept), mask), names, where)

    def with_masks(images: Split, members: Indices) -> Split:
        places = members.tolist()
        if images.name == "train" and places:
            warn_of_unseen(root, names, labels[members])
        return replace(
            images,
            fingerprinter=lambda: digest_of(
                ["regions", images.fingerprint, *(_content(regions[place]) for place in places)]
            ),
            masks=lambda index: mask(places[index]),
        )

    return divided_images(root, kept, labels, names, with_masks, seed=seed, checker=checker, task=SEGMENTATION.name)


@dataclass(frozen=True)
class _Segmented(AnnotatedImage):
    """An image with the objects that an annotation file gives for it.

    Attributes:
        objects: The objects, in the order of the file.
    """

    objects: Sequence[Annotation] = field(default=(), repr=False)


def _in_order_of_painting(
    image: _Segmented, size: tuple[int, int], names: Sequence[str], faults: list[UnusableObjectError]
) -> list[Region]:
    """The regions of an image, those without label first, and small ones last; faults are appended to `faults`."""
    unlabelled: list[Region] = []
    objects: list[Region] = []
    for note in image.objects:
        try:
            region = Region.of(
                IGNORED if note.is_crowd else names.index(note.name), note.content.get("segmentation"), size
            )
        except FaultyRegionError as error:
            faults.append(UnusableObjectError(image.where, f"{note.where} ({note.name}) {error}"))
            if (box := Region.of_box(note.content.get("bbox"), size)) is not None:
                unlabelled.append(box)
            continue
        (unlabelled if note.is_crowd else objects).append(region)
    return [*unlabelled, *sorted(objects, key=lambda region: -region.n_pixels)]


def _content(regions: Sequence[Region]) -> bytes:
    """Everything that a fingerprint depends on."""
    return digest_of(part for region in regions for part in (str(region.value), region.run_lengths)).encode()
