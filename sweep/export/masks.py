"""Masks of an exported model: the class of every pixel of an image, and colours to look at them."""

import math

import numpy as np
import torch
import torch.nn.functional as F
from PIL import Image
from torch import Tensor

from backbones.grid import LabelMap, grid_side
from backbones.protocol import Transform
from sweep.tasks.label_maps import IGNORED

NO_ANSWER = IGNORED
"""Value of a pixel that the backbone does not see, because the transform cuts it off."""

STEPS_OF_HUE = 0.381966
"""Fraction of the colour circle between two classes; whole turns never come close to it."""


def mask_of(outputs: Tensor, transform: Transform, size: tuple[int, int]) -> Image.Image:
    """The predicted class of every pixel of an image.

    Args:
        outputs: The model's outputs for the patch tokens, `(P, C)`.
        transform: What the image went through.
        size: Width and height of the image, in pixels.

    Returns:
        A palette image of that size. Pixels that the backbone did not see have the value `NO_ANSWER`.
    """
    left, top, right, bottom = transform.seen_box(*size)
    first_column, first_row = round(left), round(top)
    columns, rows = max(1, round(right) - first_column), max(1, round(bottom) - first_row)
    of_classes = grid_of(outputs)  # (C, g, g)
    best = torch.full((rows, columns), -math.inf)
    classes = np.zeros((rows, columns), dtype=np.uint8)
    for number, of_class in enumerate(of_classes):  # one by one: a large image with many classes would be gigabytes
        values = F.interpolate(of_class[None, None], (rows, columns), mode="bilinear")[0, 0]
        classes[(values > best).numpy()] = number
        best = torch.maximum(best, values)
    width, height = size
    whole: LabelMap = np.full((height, width), NO_ANSWER, dtype=np.uint8)
    whole[first_row : first_row + rows, first_column : first_column + columns] = classes
    return coloured(whole)


def grid_of(outputs: Tensor) -> Tensor:
    """Outputs of the patch tokens, `(..., P, C)`, as maps on the grid of tokens, `(..., C, g, g)`."""
    side = grid_side(outputs.shape[-2], 0)
    return outputs.mT.unflatten(-1, (side, side))


def coloured(classes: LabelMap) -> Image.Image:
    """A palette image whose values are classes: the first is black, the others have different hues."""
    image = Image.fromarray(classes)
    image.putpalette([part for number in range(256) for part in class_colour(number)])
    return image


def class_colour(number: int) -> tuple[int, int, int]:
    """The colour of a class, red, green and blue from 0 to 255."""
    if number in (0, NO_ANSWER):
        return (0, 0, 0) if number == 0 else (255, 255, 255)
    hue = number * STEPS_OF_HUE % 1
    value = 230 if number % 2 else 170
    parts = (abs(6 * ((hue + shift) % 1) - 3) - 1 for shift in (0, 2 / 3, 1 / 3))
    red, green, blue = (round(value * min(1.0, max(0.15, part))) for part in parts)
    return red, green, blue
