"""Augmentation as a study declares it: recipes by name, how many views are cached, and whether any are.

PyTorch is imported only where a recipe is made, so that a study can be checked without it.
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
PARTS = ("flip", "crop", "colour")
OWN_FUNCTION = "a function of the study file"
"""What stands for a function in a run's record."""

DEFAULT_VIEWS = 4
"""Cached views of a training image where a study augments and says no number."""

UNDECLARED: Mapping[str, Any] = {"augment": NONE, "views": None, "cache": "on"}
"""What a study has that declares none of these, and a run's record from before there were any."""

CROP_SCALE = (0.5, 1.0)
COLOUR_CHANGE = 0.2


def check_declared(augment: object, views: object, cache: object) -> None:
    """Refuse a declaration that cannot be carried out.

    Raises:
        UsageError: There is no such recipe, or the three do not go together.
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
        raise UsageError(f"views is {views} and nothing augments, so all would be the same; give --augment flip-crop")
    if cache == "off":
        raise UsageError(
            f"views is {views} and cache is off, where every epoch has views of its own; leave --views out, "
            f"or give --cache on"
        )


def recipe(name: str, side: int, interpolation: str) -> Augment:
    """Make the recipe of that name, out of torchvision's parts.

    Args:
        name: See `check_declared`.
        side: Pixels to which the backbone's transform resizes an image's shorter side; a crop is resampled once, to a
            square of this size.
        interpolation: How the backbone's transform resamples, such as `"bicubic"`.

    Raises:
        UsageError: There is no such recipe.
    """
    from torchvision.transforms import InterpolationMode, v2

    parts = {
        "flip": v2.RandomHorizontalFlip(),
        "crop": v2.RandomResizedCrop(side, scale=CROP_SCALE, interpolation=InterpolationMode(interpolation)),
        "colour": v2.ColorJitter(COLOUR_CHANGE, COLOUR_CHANGE, COLOUR_CHANGE),
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
    """What trials learn from, in words; empty where that is the plain images out of the cache.

    Args:
        declared: A study's declarations, or a run's record.
    """
    augment, views, cache = (declared.get(name, default) for name, default in UNDECLARED.items())
    if cache == "off":
        images = "train images as they are" if augment == NONE else f"{augment}, fresh views in every epoch"
        return f"{images}; cache off"
    return "" if augment == NONE else f"{augment}, {views or DEFAULT_VIEWS} cached views of every train image"
