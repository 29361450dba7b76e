"""The grid of an image's patch tokens, and label maps that are laid over it."""

from math import isqrt

import numpy as np
import numpy.typing as npt
from PIL import Image

from backbones.protocol import Transform

LabelMap = npt.NDArray[np.uint8]


def grid_side(n_tokens: int, n_prefix_tokens: int) -> int:
    """Side of the square grid of patch tokens, in tokens.

    Raises:
        ValueError: The patch tokens do not make a square.
    """
    n_patches = n_tokens - n_prefix_tokens
    side = isqrt(max(0, n_patches))
    if side == 0 or side * side != n_patches:
        raise ValueError(f"{n_patches} patch tokens do not make a square grid")
    return side


def label_map(mask: Image.Image, transform: Transform, side: int) -> LabelMap:
    """The labels of a mask at the centres of a square grid over what the backbone sees of the image, `(side, side)`.

    Args:
        mask: Labels as grey values or palette indices, of the size of the image.
        transform: What the image goes through.
        side: Rows and columns of the grid.
    """
    seen = mask.resize((side, side), Image.Resampling.NEAREST, box=transform.seen_box(*mask.size))
    return np.asarray(seen, dtype=np.uint8)
