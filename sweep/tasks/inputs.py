"""The kinds of input of a data set or a backbone: images or texts."""

from collections.abc import Mapping
from typing import Any, Literal

Kind = Literal["images", "texts"]


def one_of(kind: Kind) -> str:
    """The singular: `image` or `text`."""
    return kind.removesuffix("s")


def kind_of(config: Mapping[str, Any]) -> Kind:
    """The kind of input in a run's record. Records without one are of images."""
    return "texts" if config.get("kind") == "texts" else "images"
