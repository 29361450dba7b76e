"""Augmentation as a study declares it: recipes by name, the number of cached views, and whether views are cached.

PyTorch is only imported when a recipe is made, so that a study can be checked without it.
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Literal

from sweep.errors import UsageError

if TYPE_CHECKING:
    import numpy as np
    import numpy.typing as npt
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
    if cache == "off":
        raise UsageError(
            f"views is {views} but cache is off, so every epoch makes new views; leave --views out, or give --cache on"
        )


def same_views(views: int) -> UsageError:
    """The error for a number of views where nothing augments the images."""
    return UsageError(
        f"views is {views} but the study does not augment, so all views would be the same; give --augment "
        f"flip-crop, or leave --views out"
    )


@dataclass(frozen=True, eq=False)
class Move:
    """Where the pixels of an image are in a view of it.

    Attributes:
        matrix: maps (x, y, 1) in pixels of the image, from its upper left corner, to the same of the view, (3, 3).
        size: width and height of the view in pixels.
    """

    matrix: "npt.NDArray[np.float64]"
    size: tuple[int, int]

    def then(self, other: "Move") -> "Move":
        """This move followed by another."""
        return Move(other.matrix @ self.matrix, other.size)


@dataclass(frozen=True)
class Change:
    """What a part of a recipe has drawn for one image.

    Attributes:
        changed: Changes the image.
        move: Where its pixels go.
    """

    changed: Augment
    move: Move


Part = Callable[[tuple[int, int]], Change]
"""Draws a change for an image of that width and height."""


@dataclass(frozen=True)
class Recipe:
    """Parts that change an image one after the other. What they draw depends on its size and not on its content.

    Attributes:
        parts: The parts in order.
    """

    parts: Sequence[Part]

    def __call__(self, image: "Image.Image") -> "Image.Image":
        """The changed image."""
        for part in self.parts:
            image = part(image.size).changed(image)
        return image

    def moves(self, size: tuple[int, int]) -> tuple[Move, ...]:
        """Where the pixels of an image go, if it is changed from the same random state: a move for every part.

        Args:
            size: Width and height of the image.
        """
        moves: list[Move] = []
        for part in self.parts:
            moves.append(part(size).move)
            size = moves[-1].size
        return tuple(moves)


def recipe(name: str, side: int, interpolation: str) -> Recipe:
    """Make the recipe of that name from torchvision's transforms.

    Args:
        name: Parts of the recipe joined by hyphens, such as `"flip-crop"`.
        side: Pixels to which the backbone's transform resizes an image's shorter side. A crop is resampled once, to a
            square of this size.
        interpolation: Interpolation of the backbone's transform, such as `"bicubic"`.

    Raises:
        UsageError: There is no such recipe.
    """
    from sweep.study.augmentation_parts import part_named

    return Recipe([part_named(part, side, interpolation) for part in _parts_of(name)])


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
