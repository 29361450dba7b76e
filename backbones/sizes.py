"""The size of a backbone's input as a run records it: pixels of an image, or tokens of a text."""

from collections.abc import Mapping
from typing import Any, TypedDict

from sweep.errors import SweepError


class Size(TypedDict, total=False):
    """What `load_backbone` takes: one of the two."""

    image_size: int
    max_tokens: int


def recorded_size(transform: Mapping[str, Any]) -> Size:
    """The argument of `load_backbone` that gives a backbone the input of a recorded transform.

    Raises:
        SweepError: The record has neither size.
    """
    pixels, tokens = (transform.get(name) for name in ("image_size", "max_tokens"))
    if isinstance(pixels, int) and pixels > 0:
        return {"image_size": pixels}
    if isinstance(tokens, int) and tokens > 0:
        return {"max_tokens": tokens}
    raise SweepError(f"the recorded transform {str(transform)[:60]} has no size of an image or a text")


def shown_size(transform: Mapping[str, Any]) -> str:
    """The size with its unit, for the user; raises as `recorded_size`."""
    size = recorded_size(transform)
    return f"{size['image_size']} px" if "image_size" in size else f"{size['max_tokens']} tokens"
