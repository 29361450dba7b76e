"""Sizes of images that no backbone can take on this machine."""

import torch

from sweep.errors import UsageError
from sweep.machine.memory import available_bytes

BYTES_OF_A_PIXEL = 3 * 4
COPIES = 4
"""Least number of copies of one image in memory: decoded, transformed, in the batch, and the first layer's output."""


def require_room_for_an_image(name: str, image_size: int) -> None:
    """Check that a single image of a size fits in memory.

    Args:
        name: Name of the backbone.
        image_size: Side in pixels.

    Raises:
        UsageError: It does not fit.
    """
    needed_bytes, free_bytes = COPIES * BYTES_OF_A_PIXEL * image_size**2, available_bytes(torch.device("cpu"))
    if needed_bytes > free_bytes:
        raise UsageError(
            f"--image-size {image_size} is too large for {name!r}: one image takes {needed_bytes / 2**30:.0f} GiB or "
            f"more, and {free_bytes / 2**30:.0f} GiB are free; give a smaller one"
        )
