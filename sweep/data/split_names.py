"""Names of the three splits, and other usual names for them."""

SPLIT_NAMES = ("train", "val", "test")
ALIASES = {
    "train": "train",
    "training": "train",
    "val": "val",
    "valid": "val",
    "validation": "val",
    "dev": "val",
    "test": "test",
    "testing": "test",
}
TAKEN = "train or training; val, valid, validation or dev; test or testing; in any case"
"""The usual names of splits, for messages."""


def split_named(name: str) -> str | None:
    """The split that a folder, a column's value or an array's name means; None if it is not a name of a split."""
    return ALIASES.get(name.strip().casefold())
