"""What a backbone reads, and what a data set holds."""

from collections.abc import Mapping
from typing import Any, Literal

Kind = Literal["images", "texts"]


def one_of(kind: Kind) -> str:
    """What one of them is called."""
    return kind.removesuffix("s")


def kind_of(config: Mapping[str, Any]) -> Kind:
    """What a run was on, by its record."""
    return "texts" if config.get("kind") == "texts" else "images"
