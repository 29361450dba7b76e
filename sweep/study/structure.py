"""The declarations that choose a study's side-networks: the family and the parts that it may have.

Whether a family works with a backbone is checked later, by `sweep.side_networks.families.check_family`.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from sweep.errors import UsageError

SIDE_NETWORKS = ("last", "ladder", "convolution", "mixer", "multi_stage", "probe")
READ_OUTS = ("pooled", "tokens", "compact", "both")
OWN_NETWORK = "a side-network of the study file"
"""The text that a run's record has in place of a side-network of the study's own."""

CLASS = "class"
"""A declared read-out: pooled from the class token, whatever `pool` says."""

DENSE = "dense"
"""The read-out of segmentation: outputs of every patch token. The data choose it, and it cannot be declared."""

BOXES = "boxes"
"""The read-out of detection: outputs of every patch token for its cells, see `sweep.tasks.boxes`. Likewise."""

UNDECLARED: Mapping[str, Any] = {"side_network": "last", "attention": False, "mlp": True, "read_out": "pooled"}
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


def check_structure(side_network: object, attention: object, mlp: object, read_out: object) -> None:
    """Check the declarations that choose the side-network.

    Raises:
        UsageError: There is no such family or read-out, or `attention` or `mlp` is not a boolean.
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
