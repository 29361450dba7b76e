"""The families of side-networks that a study can choose from: what each can do, and how a spec builds it.

A new family needs a file with its definition, a builder here, and an entry in `FAMILIES`. Then
`tests/side_networks/test_families.py` tests what all families must do.
"""

from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from typing import TYPE_CHECKING, Any

from torch import nn

from sweep.machine.precision import product_dtype
from sweep.side_networks.convolution import Convolution, FullConvolution
from sweep.side_networks.gated import GatedAttention
from sweep.side_networks.granular import GranularAttention
from sweep.side_networks.ladder import Ladder
from sweep.side_networks.ladder_rows import RowsConvolution, RowsFullConvolution, RowsLadder
from sweep.side_networks.last import LAST, LowRankAttention
from sweep.side_networks.linear_probe import LinearProbe
from sweep.side_networks.mixer import Mixer
from sweep.side_networks.multi_stage import MultiStage
from sweep.side_networks.pyramid import PyramidLAST
from sweep.side_networks.pyramid_rank_space import RankSpacePyramidLAST
from sweep.side_networks.rank_space import RankSpaceLAST
from sweep.study.structure import BOXES, DENSE, FULL_CONVOLUTION, GATED, GRANULAR, READ_OUTS

if TYPE_CHECKING:
    from sweep.side_networks.spec import SideNetworkSpec

RANKS = 8
"""Lanes are padded to a rank that is a multiple of this, except for LAST, whose kernels do not need it. See
`padding.COLUMNS`."""

Build = Callable[["SideNetworkSpec", int, int], nn.Module]
"""Makes a newly initialised module from a spec, a lane's rank, and the rank to pad to."""


@dataclass(frozen=True)
class Family:
    """A family of side-networks.

    Attributes:
        described: A description for model cards.
        plain: Builds the definition, which is also the export format.
        lane: Builds the module that the engine stacks: the definition, or a faster form with the same parameters.
        has_rank: Whether its size depends on a lane's rank.
        read_outs: The read-outs that it has.
        options: Those of `attention`, `mlp`, `modules_per_block` and `parts` that it has.
        several_widths: Whether the stages of a backbone may differ in width.
        causal: Whether it works beside a decoder: it can mask later tokens, or does not mix tokens.
        texts: Whether its inputs may be texts.
        bf16: Whether its products with frozen features can be computed in bf16.
        rank_space: Whether it is LAST or a variant of it, which can be computed in rank space.
    """

    described: str
    plain: Build
    lane: Build
    has_rank: bool = True
    read_outs: tuple[str, ...] = ("pooled",)
    options: tuple[str, ...] = ()
    several_widths: bool = True
    causal: bool = True
    texts: bool = True
    bf16: bool = False
    rank_space: bool = False


def _last(spec: "SideNetworkSpec", rank: int, padded_rank: int) -> nn.Module:
    options = {**_shared(spec), "modules_per_block": spec.modules_per_block, "padded_rank": padded_rank}
    if spec.widths:
        return PyramidLAST(spec.widths, spec.n_outputs, rank, **options)
    return LAST(spec.width, spec.n_stages, spec.n_outputs, rank, **_of_width(spec), **options)


def _last_lane(spec: "SideNetworkSpec", rank: int, padded_rank: int) -> nn.Module:
    if spec.form == "direct":
        return _last(spec, rank, padded_rank)
    options = {**_shared(spec), "modules_per_block": spec.modules_per_block, "padded_rank": padded_rank}
    if spec.widths:
        return RankSpacePyramidLAST(spec.widths, spec.n_outputs, rank, **options)
    module = RankSpaceLAST(spec.width, spec.n_stages, spec.n_outputs, rank, **_of_width(spec), **options)
    module.product_dtype = product_dtype(spec.precision)
    return module


def _of_width(spec: "SideNetworkSpec") -> dict[str, Any]:
    """What only a LAST beside stages of one width can have."""
    kinds: dict[str, Any] = {GRANULAR: partial(GranularAttention, parts=spec.parts), GATED: GatedAttention}
    of_head = {"dense": spec.dense, "head_stages": spec.head_stages, "head_cells": spec.head_cells}
    return {"causal": spec.causal, **of_head, "attention": kinds.get(spec.family, LowRankAttention)}


def _ladder(kind: type[Ladder]) -> Build:
    def build(spec: "SideNetworkSpec", rank: int, padded_rank: int) -> nn.Module:
        module = kind(
            spec.stage_widths,
            spec.n_tokens,
            spec.n_outputs,
            rank,
            attention=spec.attention,
            mlp=spec.mlp,
            read_out=DENSE if spec.dense else spec.read_out,
            head_stages=spec.head_stages,
            head_cells=spec.head_cells,
            causal=spec.causal,
            padded_rank=padded_rank,
            **_shared(spec),
        )
        if isinstance(module, RowsLadder):
            module.product_dtype = product_dtype(spec.precision)
        return module

    return build


def _mixer(spec: "SideNetworkSpec", rank: int, padded_rank: int) -> nn.Module:
    sizes = spec.width, spec.n_stages, spec.n_tokens, spec.n_outputs, rank
    return Mixer(*sizes, padded_rank=padded_rank, **_shared(spec))


def _multi_stage(spec: "SideNetworkSpec", rank: int, padded_rank: int) -> nn.Module:
    return MultiStage(spec.stage_widths, spec.n_tokens, spec.n_outputs, **_shared(spec))


def _probe(spec: "SideNetworkSpec", rank: int, padded_rank: int) -> nn.Module:
    earlier = spec.head_widths[:-1]
    of_head: dict[str, Any] = {"dense": spec.dense, "earlier_widths": earlier, "cells": spec.head_cells}
    return LinearProbe(spec.width, spec.n_outputs, **of_head, **_shared(spec))


def _shared(spec: "SideNetworkSpec") -> dict[str, Any]:
    return {"pool": spec.pool, "n_prefix_tokens": spec.n_prefix_tokens}


FAMILIES: dict[str, Family] = {
    "last": Family(
        "LAST, low-rank attention side-tuning, arXiv 2402.04009",
        _last,
        _last_lane,
        read_outs=("pooled", DENSE, BOXES),
        options=("modules_per_block",),
        bf16=True,
        rank_space=True,
    ),
    GRANULAR: Family(
        "LAST with the granular blocks of GraLoRA",
        _last,
        _last_lane,
        read_outs=("pooled", DENSE, BOXES),
        options=("modules_per_block", "parts"),
        several_widths=False,
        bf16=True,
        rank_space=True,
    ),
    GATED: Family(
        "LAST with a learned rank: a gate for each rank, closed by a penalty",
        _last,
        _last_lane,
        read_outs=("pooled", DENSE, BOXES),
        options=("modules_per_block",),
        several_widths=False,
        bf16=True,
        rank_space=True,
    ),
    "ladder": Family(
        "a ladder side-network",
        _ladder(Ladder),
        _ladder(RowsLadder),
        read_outs=(*READ_OUTS, DENSE, BOXES),
        options=("attention", "mlp"),
        bf16=True,
    ),
    "convolution": Family(
        "a ladder side-network with depthwise convolutions",
        _ladder(Convolution),
        _ladder(RowsConvolution),
        read_outs=(*READ_OUTS, DENSE, BOXES),
        options=("mlp",),
        texts=False,
        bf16=True,
    ),
    FULL_CONVOLUTION: Family(
        "a ladder side-network with convolutions that mix channels",
        _ladder(FullConvolution),
        _ladder(RowsFullConvolution),
        read_outs=(*READ_OUTS, DENSE, BOXES),
        options=("mlp",),
        texts=False,
        bf16=True,
    ),
    "mixer": Family("a low-rank mixer", _mixer, _mixer, several_widths=False, causal=False),
    "multi_stage": Family("a linear probe of all stages", _multi_stage, _multi_stage, has_rank=False),
    "probe": Family("a linear probe", _probe, _probe, has_rank=False, read_outs=("pooled", DENSE, BOXES)),
}


def _from_config(spec: "SideNetworkSpec", rank: int, padded_rank: int) -> nn.Module:
    raise ValueError(f"{spec.family} is built from a lane's configuration, by the spec itself")


OWN_FAMILY = Family("a side-network of the study's own", _from_config, _from_config, has_rank=False)


def family_of(name: str) -> Family:
    """The family of that name, or `OWN_FAMILY` for a side-network of the study's own."""
    return FAMILIES.get(name, OWN_FAMILY)
