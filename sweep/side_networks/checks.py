"""Checks of a side-network's structure: of its values, and whether its family works with a backbone."""

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

from backbones.grid import grid_side
from sweep.errors import UsageError
from sweep.side_networks.families import FAMILIES, family_of
from sweep.study.structure import BOXES, CLASS, DENSE, FULL_CONVOLUTION, HEAD_CELLS, READ_OUTS
from sweep.tasks.kinds import DETECTION, SEGMENTATION

if TYPE_CHECKING:
    from sweep.side_networks.spec import SideNetworkSpec


def check_values(spec: "SideNetworkSpec") -> None:
    """Check the values of a spec, which may come from a file.

    Raises:
        TypeError: A value has the wrong type.
        ValueError: A number is out of its range, or there is no such family or read-out.
    """
    for name in (
        *("width", "n_stages", "n_classes", "n_prefix_tokens", "modules_per_block", "max_rank"),
        *("n_tokens", "parts", "head_stages", "head_cells"),
    ):
        if not isinstance(getattr(spec, name), int):
            raise TypeError(f"{name} must be a whole number, not {getattr(spec, name)!r}")
    if spec.parts < 1:
        raise ValueError(f"parts must be at least 1, not {spec.parts}")
    most = max(1, spec.n_stages - 1)
    if not 1 <= spec.head_stages <= most:
        raise ValueError(f"head_stages must be between 1 and {most}, not {spec.head_stages}")
    if spec.head_cells not in HEAD_CELLS:
        raise ValueError(f"head_cells must be one of {HEAD_CELLS}, not {spec.head_cells}")
    if not all(isinstance(width, int) and width > 0 for width in spec.widths):
        raise TypeError(f"widths must be positive whole numbers, not {spec.widths!r}")
    for name in ("causal", "attention", "mlp"):
        if not isinstance(getattr(spec, name), bool):
            raise TypeError(f"{name} must be true or false, not {getattr(spec, name)!r}")
    for name, known in (("family", tuple(FAMILIES)), ("read_out", (*READ_OUTS, DENSE, BOXES))):
        if getattr(spec, name) not in known and not (name == "family" and spec.is_own):
            raise ValueError(f"{name} must be one of {', '.join(known)}, not {getattr(spec, name)!r}")


DEFAULTS: dict[str, Any] = {"attention": False, "mlp": True, "modules_per_block": 1, "parts": 1}
"""Default values of the options."""


def lacks(family: str, declared: Mapping[str, Any]) -> list[str]:
    """Names of those declarations that a family cannot have with their values.

    Args:
        family: Name of the family.
        declared: Values of declarations by name. Those that every family has are ignored.
    """
    known = family_of(family)
    options = [name for name, default in DEFAULTS.items() if declared.get(name) not in (None, default)]
    read_outs = {None, CLASS, *known.read_outs}
    return [
        *(name for name in options if name not in known.options),
        *(["read_out"] if declared.get("read_out") not in read_outs else []),
    ]


def _check_dense(spec: "SideNetworkSpec", backbone: str) -> None:
    """Check that a family can answer for every token of a backbone; errors as `check_family`."""
    task = DETECTION.name if spec.read_out == BOXES else SEGMENTATION.name
    if spec.read_out not in family_of(spec.family).read_outs:
        fitting = [name for name, family in FAMILIES.items() if spec.read_out in family.read_outs]
        name = "the study's own" if spec.is_own else spec.family
        raise UsageError(
            f"{task} needs a side-network that answers for every token: {', '.join(fitting)}. The side-network "
            f"is {name}; give another --side-network"
        )
    if spec.family == "last" and spec.widths:
        raise UsageError(
            f"for {task}, --side-network last needs stages of one width, but those of {backbone} are "
            f"{spec.described_widths} wide; give another one: ladder is one that works"
        )
    try:
        grid_side(spec.n_tokens, spec.n_prefix_tokens)
    except ValueError as error:
        raise UsageError(
            f"{task} needs a square grid of tokens, but the {error} in {backbone}; give another --backbone"
        ) from error


def _check_head(spec: "SideNetworkSpec") -> None:
    """Check that a head is one of every token if it has declarations for such heads; errors as `check_family`."""
    if spec.head_stages > 1 and not spec.dense:
        raise UsageError(
            f"head_stages = {spec.head_stages} is for segmentation and detection, where every token has an answer; "
            f"leave it out (--head-stages), or give another --task"
        )
    if spec.head_cells > 1 and spec.read_out != DENSE:
        raise UsageError(
            f"head_cells = {spec.head_cells} is for segmentation, where every token answers for a part of a mask; "
            f"leave it out (--head-cells), or give another --task"
        )


def check_family(spec: "SideNetworkSpec", backbone: str, *, texts: bool) -> None:
    """Check that a family has the options of a spec, and works with the backbone.

    Args:
        spec: Structure of the side-network.
        backbone: Name of the backbone, for error messages.
        texts: Whether the backbone reads texts.

    Raises:
        UsageError: The family does not have an option, or does not work with the backbone.
    """
    name, family = spec.family, family_of(spec.family)
    if spec.dense:
        _check_dense(spec, backbone)
    if spec.read_out not in family.read_outs:
        fitting = [other for other, f in FAMILIES.items() if spec.read_out in f.read_outs]
        raise UsageError(
            f"--read-out {spec.read_out} is for {' and '.join(fitting)}, but the side-network is {name}; "
            f"give --read-out pooled, or another --side-network"
        )
    _check_head(spec)
    for option, default in DEFAULTS.items():
        value = getattr(spec, option)
        if option not in family.options and value != default:
            fitting = [other for other, f in FAMILIES.items() if option in f.options]
            raise UsageError(
                f"{option} = {value} is for {' and '.join(fitting)}, but the side-network is {name}; "
                f"leave it out, or give another --side-network"
            )
    others = "ladder is one that works"
    if spec.widths and not family.several_widths:
        raise UsageError(
            f"--side-network {name} needs stages of one width, but those of {backbone} are "
            f"{spec.described_widths} wide; give another one: {others}"
        )
    if spec.width % spec.parts:
        raise UsageError(
            f"--parts {spec.parts} does not divide the width of {backbone}, which is {spec.width}; give another number"
        )
    if spec.causal and not family.causal:
        raise UsageError(
            f"--side-network {name} mixes every token with later ones, but {backbone} is a decoder, whose tokens must "
            f"not see later ones; give another one: {others}"
        )
    if texts and not family.texts:
        raise UsageError(
            f"--side-network {name} needs the grid of an image's patches, but {backbone} reads texts; "
            f"give another one: {others}"
        )
    if name in ("convolution", FULL_CONVOLUTION):
        try:
            grid_side(spec.n_tokens, spec.n_prefix_tokens)
        except ValueError as error:
            raise UsageError(
                f"--side-network {name} needs a square grid of patches, but the {error} in {backbone}; give another "
                f"one: {others}"
            ) from error
    if spec.precision == "bf16" and not family.bf16:
        fitting = [other for other, f in FAMILIES.items() if f.bf16]
        raise UsageError(
            f"--precision bf16 is for {', '.join(fitting)}, but the side-network is {name}; leave --precision out"
        )
