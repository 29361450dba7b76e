"""Which side-networks a study trains, as it declares them: the family, and what of its structure can be chosen.

What a family can do beside a backbone is checked where both are known, by `sweep.side_networks.families.check_family`.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from sweep.errors import UsageError

SIDE_NETWORKS = ("last", "ladder", "convolution", "mixer", "multi_stage", "probe")
READ_OUTS = ("pooled", "tokens", "compact", "both")
OWN_NETWORK = "a side-network of the study file"
"""What stands for a side-network of a study's own in a run's record."""

CLASS = "class"
"""A read-out as a study declares it: pooled, of the class token whatever `pool` says."""

UNDECLARED: Mapping[str, Any] = {"side_network": "last", "attention": False, "mlp": True, "read_out": "pooled"}
"""What a study has that declares none of these, and a run's record from before there were any."""


@dataclass(frozen=True)
class Shapes:
    """What a side-network of a study's own is told of the stages.

    Attributes:
        widths: `D` of every stage.
        n_tokens: `L`, the most tokens that an input has.
        n_prefix_tokens: Class and register tokens in front of the patch tokens.
    """

    widths: tuple[int, ...]
    n_tokens: int
    n_prefix_tokens: int


def check_structure(side_network: object, attention: object, mlp: object, read_out: object) -> None:
    """Refuse a declaration that names what there is not.

    Raises:
        UsageError: There is no such family or read-out, or a switch is neither on nor off.
    """
    if side_network not in SIDE_NETWORKS and not callable(side_network):
        raise UsageError(
            f"side_network must be one of {', '.join(SIDE_NETWORKS)} (--side-network), or of the study file's own a "
            f"function of shapes, n_classes and config, not {side_network!r}"
        )
    for name, value in (("attention", attention), ("mlp", mlp)):
        if not isinstance(value, bool):
            raise UsageError(f"{name} must be True or False, not {value!r} (--{name}, or the study file)")
    known = (*READ_OUTS, CLASS)
    if read_out not in known:
        raise UsageError(
            f"read_out must be one of {', '.join(known)}, not {read_out!r} (--read-out, or the study file)"
        )
