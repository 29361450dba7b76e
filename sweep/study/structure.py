"""The declarations that choose a study's side-networks: the family and the parts that it may have.

Whether a family works with a backbone is checked later, by `sweep.side_networks.families.check_family`.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from sweep.errors import UsageError
from sweep.tasks.kinds import DETECTION, SEGMENTATION

GRANULAR = "granular_last"
GATED = "gated_last"
FULL_CONVOLUTION = "full_convolution"
SIDE_NETWORKS = ("last", GRANULAR, GATED, "ladder", "convolution", FULL_CONVOLUTION, "mixer", "multi_stage", "probe")
ATTENTION = "attention"
"""The read-out that takes the mean of the stream with learned weights."""

READ_OUTS = ("pooled", ATTENTION, "tokens", "compact", "both")
OWN_NETWORK = "a side-network of the study file"
"""The text that a run's record has in place of a side-network of the study's own."""

MOST_IN_TWO = 32
"""The largest rank that `granular_last` divides into two parts, if no number of parts is declared."""

CLASS = "class"
"""A declared read-out: pooled from the class token, whatever `pool` says."""

DENSE = "dense"
"""The read-out of segmentation: outputs of every patch token. The data choose it, and it cannot be declared."""

BOXES = "boxes"
"""The read-out of detection: outputs of every patch token for its cells, see `sweep.tasks.boxes`. Likewise."""

HEAD_CELLS = (1, 2, 4)
"""Rows, and columns, of places that a token may answer for in segmentation: divisors of the labels that it has."""

OF_TOKENS = {SEGMENTATION.name: DENSE, DETECTION.name: BOXES}
"""By the kind of task, the read-out of side-networks that answer for every token."""

UNDECLARED: Mapping[str, Any] = {
    **{"side_network": "last", "attention": False, "mlp": True, "read_out": "pooled"},
    "parts": None,
    **{"head_stages": 1, "head_cells": 1},
    "label_words": False,
}
"""Defaults of these declarations; also for the records of versions that did not have them."""


@dataclass(frozen=True)
class Shapes:
    """The shapes of the stages, for a side-network of the study's own.

    Attributes:
        widths: Width `D` of every stage.
        n_tokens: Largest number of tokens `L` that an input has.
        n_prefix_tokens: Number of class and register tokens before the patch tokens.
    """

    widths: tuple[int, ...]
    n_tokens: int
    n_prefix_tokens: int


def default_parts(rank: int) -> int:
    """The number of parts of `granular_last` at a rank, if none is declared: as GraLoRA's authors advise."""
    return 2 if rank <= MOST_IN_TWO else 4


def check_parts(parts: int, rank: int) -> None:
    """Check that a lane's rank can be divided into the parts of `granular_last`.

    Raises:
        UsageError: It cannot.
    """
    if rank % parts:
        raise UsageError(
            f"the side-network {GRANULAR} divides the rank into {parts} parts, but the study's suggest asked for rank "
            f"{rank}; give ranks that are multiples of {parts}, or another number of parts (--parts)"
        )


def check_structure(side_network: object, attention: object, mlp: object, read_out: object, parts: object) -> None:
    """Check the declarations that choose the side-network.

    Raises:
        UsageError: There is no such family or read-out, `attention` or `mlp` is not a boolean, or `parts` is not a
            whole number of at least 1.
    """
    if side_network not in SIDE_NETWORKS and not callable(side_network):
        raise UsageError(
            f"side_network must be one of {', '.join(SIDE_NETWORKS)} (--side-network), or in a study file a function "
            f"of shapes, n_classes and config, not {side_network!r}"
        )
    for name, value in (("attention", attention), ("mlp", mlp)):
        if not isinstance(value, bool):
            raise UsageError(f"{name} must be True or False, not {value!r} (--{name}, or the study file)")
    known = (*READ_OUTS, CLASS)
    if read_out not in known:
        raise UsageError(
            f"read_out must be one of {', '.join(known)}, not {read_out!r} (--read-out, or the study file)"
        )
    if parts is not None and not (isinstance(parts, int) and not isinstance(parts, bool) and parts >= 1):
        raise UsageError(f"parts must be a whole number of at least 1, not {parts!r} (--parts, or the study file)")
