"""Tries a study file's own side-network on a few random features, before anything expensive happens."""

from collections.abc import Sequence
from dataclasses import fields
from typing import Any

import torch
from torch import Tensor

from backbones.stages import Stages
from sweep.errors import UsageError
from sweep.machine.memory import is_out_of_memory
from sweep.machine.user_code import line_of
from sweep.side_networks.own_networks import given_network
from sweep.side_networks.spec import SideNetworkSpec
from sweep.study.lane_config import LaneConfig
from sweep.training.stack import Stack

N_IMAGES, N_LANES = 4, 2

MOST_TRIED = 16
"""Number of configurations whose side-networks are built, to see whether they can train together."""

IN_VMAP = "vmap runs the code once for all lanes, so it can neither branch on the values of a tensor nor draw numbers"


def check_own_network(spec: SideNetworkSpec, config: LaneConfig, tokens: int, *, texts: bool) -> None:
    """Train two lanes for one step on random features, on the CPU.

    Args:
        spec: Structure of a study's own side-network.
        config: Configuration of the lanes.
        tokens: Number of tokens `L` of the backbone.
        texts: Whether the features are of texts, which have lengths.

    Raises:
        UsageError: The side-network fails, returns something else than an output for every class, or has weights that
            it does not use.
    """
    network = given_network(spec.family)
    stages = _random_stages(spec, tokens, texts=texts)
    try:
        stack = Stack([spec.lane(config.rank, seed, config) for seed in range(N_LANES)])
        outputs = stack.logits(stages)
    except UsageError:
        raise
    except Exception as error:
        if is_out_of_memory(error):
            raise
        reason = f"{type(error).__name__}: {str(error).splitlines()[0] if str(error) else ''}"
        hint = f". {IN_VMAP}" if "vmap" in reason else ""
        raise UsageError(f"the study's side_network failed: {reason} ({line_of(network, error)}){hint}") from error
    wanted = (N_IMAGES, spec.n_classes)
    if not isinstance(outputs, Tensor) or outputs.shape != (N_LANES, *wanted):
        got = tuple(outputs.shape[1:]) if isinstance(outputs, Tensor) else type(outputs).__name__
        raise UsageError(
            f"the study's side_network must return {spec.n_classes} outputs for each of {N_IMAGES} images, a tensor of "
            f"shape {wanted}; it returned {got}"
        )
    grads = torch.autograd.grad(outputs.square().sum(), list(stack.params.values()), allow_unused=True)
    unused = [name for name, grad in zip(stack.params, grads, strict=True) if grad is None]
    if unused:
        raise UsageError(f"the outputs of the study's side_network do not depend on {', '.join(unused)}; leave it out")


def check_lanes_alike(spec: SideNetworkSpec, config: LaneConfig, others: Sequence[LaneConfig]) -> None:
    """Check that lanes of a study's own side-network can train together, whatever their configurations.

    Args:
        spec: Structure of the study's own side-network.
        config: The baseline's configuration.
        others: Configurations of the same shape. At most `MOST_TRIED` are looked at, which differ in more than
            learning rates and the like.

    Raises:
        UsageError: The weights of two lanes have other shapes, or something else than a tensor differs.
    """
    different = {tuple(_deciding(other).items()): other for other in others}
    for other in list(different.values())[:MOST_TRIED]:
        try:
            Stack([spec.lane(config.rank, 0, config), spec.lane(other.rank, 0, other)])
        except UsageError as error:
            mine, theirs = _deciding(config), _deciding(other)
            names = [name for name in mine | theirs if mine.get(name) != theirs.get(name)]
            differ = ", ".join(f"{name} ({mine.get(name)} and {theirs.get(name)})" for name in names)
            ranks = sorted({config.rank, *(other.rank for other in others)})
            remedy = ""
            if config.rank != other.rank and len(ranks) <= MOST_TRIED:
                remedy = (
                    f". If the rank decides the shapes: rank_buckets={tuple(ranks)} in the study trains ranks apart"
                )
            raise UsageError(f"{error}. The configurations differ in {differ}{remedy}") from error


def _deciding(config: LaneConfig) -> dict[str, Any]:
    """What a side-network may depend on: `extra`, and all other values but numbers such as the learning rate."""
    declared = {field.name: getattr(config, field.name) for field in fields(config) if field.name != "extra"}
    return {name: value for name, value in declared.items() if not isinstance(value, float)} | dict(config.extra)


def _random_stages(spec: SideNetworkSpec, tokens: int, *, texts: bool) -> list[Tensor]:
    """Stages `(B, L, D)` with normally distributed values."""
    generator = torch.Generator().manual_seed(0)
    stages = [torch.randn(N_IMAGES, tokens, width, generator=generator) for width in spec.stage_widths]
    if not texts:
        return stages
    lengths = torch.linspace(1, tokens, N_IMAGES).long()
    there = (torch.arange(tokens) < lengths[:, None]).unsqueeze(-1)
    return Stages([stage * there for stage in stages], lengths)
