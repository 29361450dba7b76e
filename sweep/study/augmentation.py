"""Augmentation as a study declares it: recipes by name, the number of cached views, and whether views are cached.

PyTorch is only imported when a recipe is made, so that a study can be checked without it.
"""

from collections.abc import Callable, Mapping
from typing import TYPE_CHECKING, Any, Literal

from sweep.errors import UsageError

if TYPE_CHECKING:
    from PIL import Image

Augment = Callable[["Image.Image"], "Image.Image"]
"""Changes an RGB image at random, drawing from the global random state of Python, NumPy or PyTorch."""

Cache = Literal["on", "off"]

NONE = "none"
PARTS = ("flip", "crop", "colour", "affine")
OWN_FUNCTION = "a function of the study file"
"""The text that a run's record has in place of a function."""

DEFAULT_VIEWS = 4
"""Number of cached views of a training image, if a study augments and does not declare the number."""

UNDECLARED: Mapping[str, Any] = {"augment": NONE, "views": None, "cache": "on"}
"""Defaults of these declarations; also for the records of versions that did not have them."""

CROP_SCALE = (0.5, 1.0)
COLOUR_CHANGE = 0.2
AFFINE_DEGREES, AFFINE_SHIFT, AFFINE_SCALE, AFFINE_SHEAR = 8, 0.07, (0.9, 1.1), 5
AFFINE_MARGIN = 0.2
"""Share of its sides by which an image's edges are repeated outwards before it is moved, to avoid empty corners."""


def check_declared(augment: object, views: object, cache: object) -> None:
    """Check the three declarations about augmentation.

    Raises:
        UsageError: There is no such recipe, or the declarations contradict each other.
    """
    if not isinstance(augment, str) and not callable(augment):
        raise UsageError(f"augment must be a recipe's name or a function of an image, not {augment!r}")
    if isinstance(augment, str) and augment != NONE:
        _parts_of(augment)
    if cache not in ("on", "off"):
        raise UsageError(f"cache must be 'on' or 'off', not {cache!r} (--cache, or the study file)")
    if views is None:
        return
    if not isinstance(views, int) or isinstance(views, bool) or views < 1:
        raise UsageError(f"views must be a whole number of at least 1, not {views!r} (--views, or the study file)")
    if augment == NONE:
        raise UsageError(
            f"views is {views} but the study does not augment, so all views would be the same; give --augment flip-crop"
        )
    if cache == "off":
        raise UsageError(
            f"views is {views} but cache is off, so every epoch makes new views; leave --views out, or give --cache on"
        )


def recipe(name: str, side: int, interpolation: str) -> Augment:
    """Make the recipe of that name from torchvision's transforms.

    Args:
        name: Parts of the recipe joined by hyphens, such as `"flip-crop"`.
        side: Pixels to which the backbone's transform resizes an image's shorter side. A crop is resampled once, to a
            square of this size.
        interpolation: Interpolation of the backbone's transform, such as `"bicubic"`.

    Raises:
        UsageError: There is no such recipe.
    """
    from torchvision.transforms import InterpolationMode, v2

    shift = AFFINE_SHIFT / (1 + 2 * AFFINE_MARGIN)  # of the image with its margin
    affine = v2.RandomAffine(
        AFFINE_DEGREES, (shift, shift), AFFINE_SCALE, AFFINE_SHEAR, interpolation=InterpolationMode.BILINEAR
    )

    def moved(image: "Image.Image") -> "Image.Image":
        margin = [round(AFFINE_MARGIN * side) for side in image.size]
        framed = affine(v2.functional.pad(image, margin, padding_mode="edge"))
        centre: Image.Image = v2.functional.center_crop(framed, [image.height, image.width])
        return centre

    parts = {
        "flip": v2.RandomHorizontalFlip(),
        "crop": v2.RandomResizedCrop(side, scale=CROP_SCALE, interpolation=InterpolationMode(interpolation)),
        "colour": v2.ColorJitter(COLOUR_CHANGE, COLOUR_CHANGE, COLOUR_CHANGE),
        "affine": moved,
    }
    composed: Augment = v2.Compose([parts[part] for part in _parts_of(name)])
    return composed


def _parts_of(name: str) -> list[str]:
    parts = name.split("-")
    if not set(parts) <= set(PARTS) or len(set(parts)) < len(parts):
        raise UsageError(
            f"no augmentation {name!r}: give {', '.join(PARTS)}, or several of them such as flip-crop, or {NONE} "
            f"(--augment); a study file may give a function"
        )
    return parts


def described(declared: Mapping[str, Any]) -> str:
    """The training images in words; empty for plain images from the cache.

    Args:
        declared: A study's declarations, or a run's record.
    """
    augment, views, cache = (declared.get(name, default) for name, default in UNDECLARED.items())
    if cache == "off":
        images = "train images as they are" if augment == NONE else f"{augment}, fresh views in every epoch"
        return f"{images}; cache off"
    return "" if augment == NONE else f"{augment}, {views or DEFAULT_VIEWS} cached views of every train image"
