"""The size of a backbone's input in a run's record: pixels of an image, or tokens of a text."""

from collections.abc import Mapping
from typing import Any, TypedDict

from sweep.errors import SweepError


class Size(TypedDict, total=False):
    """The size argument of `load_backbone`: one of the two."""

    image_size: int
    max_tokens: int


def recorded_size(transform: Mapping[str, Any]) -> Size:
    """Return the argument of `load_backbone` for the size of a recorded transform.

    Raises:
        SweepError: The record has neither size.
    """
    pixels, tokens = (transform.get(name) for name in ("image_size", "max_tokens"))
    if isinstance(pixels, int) and pixels > 0:
        return {"image_size": pixels}
    if isinstance(tokens, int) and tokens > 0:
        return {"max_tokens": tokens}
    raise SweepError(f"the recorded transform {str(transform)[:60]} has neither image_size nor max_tokens")


def shown_size(transform: Mapping[str, Any]) -> str:
    """Return the size with its unit, for the user. Raises the same errors as `recorded_size`."""
    size = recorded_size(transform)
    return f"{size['image_size']} px" if "image_size" in size else f"{size['max_tokens']} tokens"
