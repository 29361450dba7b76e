"""A backbone's transform as a run records it, and the size of its input: pixels of an image, or tokens of a text."""

from collections.abc import Mapping
from dataclasses import asdict
from typing import Any, Literal, TypedDict

from backbones.protocol import Transform
from backbones.text_transform import TextInput
from sweep.errors import SweepError

Resize = Literal["centre", "crop", "squash"]
"""How an image that is not square is resized. `centre` takes its central square; `crop` takes somewhat less, the share
that the network's authors used, as timm does; `squash` squashes the whole image. See `Transform.crop_pct`."""


class Size(TypedDict, total=False):
    """Arguments of `load_backbone` for the size of the input: pixels and how to resize, or tokens."""

    image_size: int
    resize: Resize
    max_tokens: int


def transform_record(transform: Transform | TextInput) -> dict[str, Any]:
    """A transform as JSON can hold it. One that squashes is recorded in the format of versions without a crop."""
    record = asdict(transform)
    if record.get("crop_pct", 0) is None:
        del record["crop_pct"]
    return record


def recorded_size(transform: Mapping[str, Any]) -> Size:
    """The arguments of `load_backbone` that give a backbone the input of a recorded transform.

    Raises:
        SweepError: The record has neither size.
    """
    pixels, tokens = (transform.get(name) for name in ("image_size", "max_tokens"))
    if isinstance(pixels, int) and pixels > 0:
        return {"image_size": pixels, "resize": _resize_of(transform.get("crop_pct"))}
    if isinstance(tokens, int) and tokens > 0:
        return {"max_tokens": tokens}
    raise SweepError(f"the recorded transform {str(transform)[:60]} has neither image_size nor max_tokens")


def _resize_of(crop_pct: object) -> Resize:
    if crop_pct is None:
        return "squash"
    return "centre" if crop_pct == 1 else "crop"


def shown_size(transform: Mapping[str, Any]) -> str:
    """Return the size with its unit, for the user. Raises the same errors as `recorded_size`."""
    size = recorded_size(transform)
    return f"{size['image_size']} px" if "image_size" in size else f"{size['max_tokens']} tokens"
