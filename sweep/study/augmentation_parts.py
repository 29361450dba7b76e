"""The parts of augmentation recipes: each draws with torchvision, and knows where the pixels of an image go."""

from math import cos, radians, sin, tan
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
from PIL import Image
from torchvision.transforms import InterpolationMode, v2

from sweep.study.augmentation import Change, Move, Part

CROP_SCALE = (0.5, 1.0)
COLOUR_CHANGE = 0.2
AFFINE_DEGREES, AFFINE_SHIFT, AFFINE_SCALE, AFFINE_SHEAR = 8, 0.07, (0.9, 1.1), 5
AFFINE_MARGIN = 0.2
"""Share of its sides by which an image's edges are repeated outwards before it is moved, to avoid empty corners."""


def part_named(name: str, side: int, interpolation: str) -> Part:
    """The part of that name, one of `sweep.study.augmentation.PARTS`; the other arguments are as for `recipe`."""
    crop = v2.RandomResizedCrop(side, scale=CROP_SCALE, interpolation=InterpolationMode(interpolation))
    colour = v2.ColorJitter(COLOUR_CHANGE, COLOUR_CHANGE, COLOUR_CHANGE)
    shift = AFFINE_SHIFT / (1 + 2 * AFFINE_MARGIN)  # of the image with its margin
    affine = v2.RandomAffine(
        AFFINE_DEGREES, (shift, shift), AFFINE_SCALE, AFFINE_SHEAR, interpolation=InterpolationMode.BILINEAR
    )

    def cropped(size: tuple[int, int]) -> Change:
        drawn = _drawn(crop, size)
        zoom = side / drawn["width"], side / drawn["height"]
        move = _shift(-drawn["left"], -drawn["top"]).then(Move(np.diag([*zoom, 1.0]), (side, side)))
        return Change(lambda image: crop.transform(image, drawn), move)

    def recoloured(size: tuple[int, int]) -> Change:
        drawn = _drawn(colour, size)
        return Change(lambda image: colour.transform(image, drawn), Move(np.eye(3), size))

    def moved(size: tuple[int, int]) -> Change:
        margin = [round(AFFINE_MARGIN * side) for side in size]
        framed = size[0] + 2 * margin[0], size[1] + 2 * margin[1]
        drawn = _drawn(affine, framed)

        def changed(image: Image.Image) -> Image.Image:
            with_margin = v2.functional.pad(image, margin, padding_mode="edge")
            centre: Image.Image = v2.functional.center_crop(affine.transform(with_margin, drawn), [size[1], size[0]])
            return centre

        move = _shift(*margin).then(Move(_affine_matrix(framed, **drawn), framed)).then(_shift(-margin[0], -margin[1]))
        return Change(changed, Move(move.matrix, size))

    return {"flip": _flipped, "crop": cropped, "colour": recoloured, "affine": moved}[name]


def _flipped(size: tuple[int, int]) -> Change:
    """A mirrored image or the image as it is, drawn as torchvision's `RandomHorizontalFlip` draws."""
    if bool(torch.rand(1) >= 0.5):
        return Change(lambda image: image, Move(np.eye(3), size))
    mirrored = np.array([[-1.0, 0, size[0]], [0, 1, 0], [0, 0, 1]])
    return Change(v2.functional.horizontal_flip, Move(mirrored, size))


def _drawn(transform: v2.Transform, size: tuple[int, int]) -> dict[str, Any]:
    """What a transform of torchvision draws for an image of that width and height."""
    drawn: dict[str, Any] = transform.make_params([torch.empty((3, size[1], size[0]), device="meta")])
    return drawn


def _shift(x: float, y: float) -> Move:
    """A move by some pixels, as a part of another move; it has no size of its own."""
    return Move(np.array([[1.0, 0, x], [0, 1, y], [0, 0, 1]]), (0, 0))


def _affine_matrix(
    size: tuple[int, int], angle: float, translate: tuple[float, float], scale: float, shear: tuple[float, float]
) -> npt.NDArray[np.float64]:
    """The matrix of torchvision's `RandomAffine` about the centre of an image, from what it has drawn."""
    turn, shear_x, shear_y = radians(angle), radians(shear[0]), radians(shear[1])
    a, c = cos(turn - shear_y) / cos(shear_y), sin(turn - shear_y) / cos(shear_y)
    b, d = -a * tan(shear_x) - sin(turn), -c * tan(shear_x) + cos(turn)
    about_centre = Move(np.array([[scale * a, scale * b, 0], [scale * c, scale * d, 0], [0, 0, 1]]), size)
    x, y = size[0] / 2, size[1] / 2
    return _shift(-x, -y).then(about_centre).then(_shift(x + translate[0], y + translate[1])).matrix
