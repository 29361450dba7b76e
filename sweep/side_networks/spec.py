"""The structure that all side-networks of one shape share, and how a lane's side-network is made from it."""

import json
import re
from collections.abc import Mapping
from dataclasses import MISSING, dataclass, field, fields
from typing import Any

import torch
from torch import Tensor, nn

from sweep.machine.precision import Precision
from sweep.machine.seeds import drawing_from
from sweep.side_networks.checks import check_values
from sweep.side_networks.cost import (
    FEATURE_WORK,
    SCORE_WORK,
    Form,
    cheaper_form,
    pyramid_work_per_token,
    work_per_token,
)
from sweep.side_networks.families import FAMILIES, RANKS, family_of
from sweep.side_networks.gated import resize_modules, without_closed_ranks
from sweep.side_networks.head import pooled_tokens
from sweep.side_networks.head_start import HeadStart
from sweep.side_networks.own_networks import OWN, own_module
from sweep.side_networks.padding import cut_to
from sweep.study.lane_config import LaneConfig, Pool
from sweep.study.structure import ATTENTION, BOXES, DENSE, GATED, Shapes
from sweep.tasks import boxes


@dataclass(frozen=True)
class SideNetworkSpec:
    """Structure of the side-networks of one shape.

    Attributes:
        width: Width `D` of the last stage.
        n_stages: Number of stages, `m + 1`.
        n_classes: Number of classes, labels or targets `C`.
        n_prefix_tokens: Class and register tokens before the patch tokens.
        modules_per_block: Modules per block of LAST, `T`.
        pool: What the head reads: the `"mean"` of the patch tokens (or of a text's tokens), the `"class"` token, or the
            `"last"` token.
        max_rank: Rank that lanes are padded to.
        precision: Precision of products with frozen streams. The direct form of LAST only has fp32.
        widths: Width `D` of every stage, if they differ; else empty.
        causal: Whether a token only attends to itself and earlier tokens.
        family: A name in `FAMILIES`, or the result of `own_family` for a side-network of the study's own.
        attention: Whether a ladder has attention.
        mlp: Whether a ladder has MLPs.
        read_out: See `read_out.py`; `DENSE` or `BOXES` for outputs of every patch token.
        n_tokens: Largest number of tokens of an input, `L`; 0 if it is unknown, which LAST and the probe allow.
        parts: Number of parts `k` of `granular_last`; 1 for other families.
        head_stages: Number of stages that a head of every patch token reads: the last of them. 1 for other heads.
        head_cells: Rows and columns of places that a token answers for, in segmentation; 1 for other heads.
        head_start: Weights that the head of every new lane starts with; None for random numbers. It is not saved with
            a side-network's weights.
    """

    width: int
    n_stages: int
    n_classes: int
    n_prefix_tokens: int
    modules_per_block: int
    pool: Pool
    max_rank: int
    precision: Precision = "fp32"
    widths: tuple[int, ...] = ()
    causal: bool = False
    family: str = "last"
    attention: bool = False
    mlp: bool = True
    read_out: str = "pooled"
    n_tokens: int = 0
    parts: int = 1
    head_stages: int = 1
    head_cells: int = 1
    head_start: HeadStart | None = field(default=None, compare=False, repr=False)

    def __post_init__(self) -> None:
        check_values(self)
        object.__setattr__(self, "widths", tuple(self.widths))  # a list, as JSON has it

    @classmethod
    def of_metadata(cls, metadata: Mapping[str, str]) -> "SideNetworkSpec":
        """Make a spec from the result of `metadata`. Entries that earlier versions did not write have their defaults.

        Raises:
            KeyError: An entry is missing.
            TypeError: An entry that should be a whole number is not one.
            ValueError: The same, or there is no such family or read-out.
        """
        values: dict[str, Any] = {
            f.name: metadata[f.name] if f.default is MISSING else metadata.get(f.name, str(f.default))
            for f in fields(cls)
            if f.name != "head_start"
        }
        widths = re.findall(r"\d+", values.pop("widths"))
        flags = {name: values.pop(name) == str(True) for name in ("causal", "attention", "mlp")}
        numbers: dict[str, Any] = {name: int(value) if value.isdigit() else value for name, value in values.items()}
        return cls(**numbers, **flags, widths=tuple(map(int, widths)))

    @property
    def is_own(self) -> bool:
        """Whether the side-network is the study's own."""
        return isinstance(self.family, str) and self.family.startswith(OWN)

    @property
    def dense(self) -> bool:
        """Whether there are outputs for every patch token."""
        return self.read_out in (DENSE, BOXES)

    @property
    def n_outputs(self) -> int:
        """Number of outputs of the head: `C`, for segmentation of every cell, or for detection `K` of every token."""
        return boxes.n_outputs(self.n_classes) if self.read_out == BOXES else self.n_classes * self.head_cells**2

    @property
    def stage_widths(self) -> tuple[int, ...]:
        """Width `D` of every stage."""
        return self.widths or (self.width,) * self.n_stages

    @property
    def head_widths(self) -> tuple[int, ...]:
        """Width `D` of every stage that a head of every patch token reads."""
        return self.stage_widths[-self.head_stages :]

    @property
    def described_widths(self) -> str:
        """The width, or the widths joined by hyphens, for messages."""
        return "-".join(map(str, dict.fromkeys(self.stage_widths)))

    @property
    def described(self) -> str:
        """The family and its options, such as `ladder (mlp, tokens)`, for messages."""
        family = family_of(self.family)
        switches = {"attention": self.attention, "mlp": self.mlp}
        chosen = [name for name, on in switches.items() if on and name in family.options]
        read_out = "attention pooling" if self.read_out == ATTENTION else self.read_out
        chosen += [read_out] if len(family.read_outs) > 1 else []
        return f"{self.family} ({', '.join(chosen)})" if chosen else self.family

    @property
    def pooled_tokens(self) -> slice:
        """The tokens over which the pooled read-out takes the mean."""
        return pooled_tokens(self.pool, self.n_prefix_tokens)

    @property
    def n_modules(self) -> int:
        """Number of modules `K` of LAST."""
        return (self.n_stages - 1) * self.modules_per_block

    @property
    def padded_rank(self) -> int:
        """The rank that lanes are padded to."""
        multiple = self.parts if self.has_rank_space else RANKS
        return -(-self.max_rank // multiple) * multiple

    @property
    def has_rank_space(self) -> bool:
        """Whether it is LAST or a variant of it, which can be computed in rank space."""
        return family_of(self.family).rank_space

    @property
    def row_rank(self) -> int:
        """The rank with which a stack of LAST computes in rank space: that of all blocks of a module together."""
        return self.parts * self.padded_rank

    @property
    def form(self) -> Form:
        """The form in which a stack computes, with all lanes padded to `max_rank`. LAST uses the cheaper form."""
        if not self.has_rank_space:
            family = family_of(self.family)
            return "direct" if family.lane is family.plain else "shared products"
        return cheaper_form(self.work)

    @property
    def work(self) -> dict[Form, int]:
        """Multiply-adds of a training step of LAST per token and lane, by form; see `cost.py`."""
        if not self.widths:
            direct, rank_space = (
                work_per_token(self.width, rank, self.n_modules, dense=self.dense)
                for rank in (self.padded_rank, self.row_rank)
            )
            return {"rank space": rank_space["rank space"], "direct": direct["direct"]}
        module_widths = [width for width in self.widths[1:] for _ in range(self.modules_per_block)]
        return pyramid_work_per_token(module_widths, self.max_rank)

    def lane_work(self, tokens: int) -> float:
        """Multiply-adds of a training step per image that one more lane costs; see `cost.py`.

        For families other than LAST this is an estimate: three for every weight that is applied to every token.
        """
        if self.is_own:
            return float(3 * tokens * sum(self.stage_widths))
        if self.has_rank_space:
            return tokens * (min(self.work.values()) + SCORE_WORK * self.n_modules * tokens)
        with torch.device("meta"):
            named = self.plain(self.padded_rank).named_parameters()
            of_head = tokens if self.dense else 1
            return float(3 * sum(p.numel() * (of_head if name.startswith("head.") else tokens) for name, p in named))

    def stack_work(self, tokens: int) -> float:
        """Multiply-adds of a training step per image that a stack costs, whatever its number of lanes."""
        return float(FEATURE_WORK * tokens * sum(self.stage_widths))

    def lane(self, rank: int, seed: int, config: LaneConfig | None = None) -> nn.Module:
        """A newly initialised module for a lane, padded to its stack's rank. Global random states do not matter.

        Args:
            rank: The lane's own rank.
            seed: Seed of its initialisation.
            config: The lane's configuration; only a side-network of the study's own needs it.
        """
        with drawing_from(seed):
            if self.is_own:
                return self._own(config)
            return self.started(FAMILIES[self.family].lane(self, rank, self.padded_rank))

    def plain(self, rank: int, config: LaneConfig | None = None) -> nn.Module:
        """An unpadded module in the form of the definition, to load a lane's weights into; arguments as `lane`."""
        if self.is_own:
            return self._own(config)
        return FAMILIES[self.family].plain(self, rank, rank)

    def started(self, module: nn.Module) -> nn.Module:
        """A newly drawn module with `head_start`; for detection, its head starts with the prior of a class."""
        if self.head_start is not None:
            self.head_start.give(module)
        if self.read_out == BOXES:
            with torch.no_grad():
                module.get_parameter("head.bias").copy_(boxes.first_bias(self.n_classes))
        return module

    def trimmed(self, rank: int, state: Mapping[str, Tensor]) -> dict[str, Tensor]:
        """Cut a padded lane's weights, or their gradients, to its own rank, for `plain`."""
        if self.is_own:  # never padded
            return {name: tensor.clone() for name, tensor in state.items()}
        with torch.device("meta"):
            return cut_to(self.plain(rank).state_dict(), state)

    def pruned(self, state: Mapping[str, Tensor]) -> dict[str, Tensor]:
        """A lane's unpadded weights without the ranks whose gates are closed; unchanged if there are no gates."""
        return without_closed_ranks(state) if self.family == GATED else dict(state)

    def _of_size(self, rank: int, state: Mapping[str, Tensor]) -> nn.Module:
        """`plain`, without the ranks that were pruned in `state`."""
        module = self.plain(rank)
        if self.family == GATED:
            resize_modules(module, state)
        return module

    def _own(self, config: LaneConfig | None) -> nn.Module:
        shapes = Shapes(self.stage_widths, self.n_tokens, self.n_prefix_tokens)
        return own_module(self.family, shapes, self.n_classes, config)

    def trained(self, rank: int, state: Mapping[str, Tensor], config: LaneConfig | None = None) -> nn.Module:
        """An unpadded module with weights that were read from a file; `config` as in `lane`.

        Raises:
            ValueError: The weights are not those of such a module.
            UsageError: This process was not given the file of the study's own side-network.
        """
        if self.is_own:
            module = self._own(config)
            try:
                module.load_state_dict(dict(state))
            except RuntimeError as error:
                raise ValueError(f"the weights are not those of {self.family}: {error}") from error
            return module
        what = f"{self.family} of rank {rank!r}" if FAMILIES[self.family].has_rank else self.family
        try:
            with torch.device("meta"):  # a file may name any size, so memory is only allocated once the sizes agree
                expected = self._of_size(rank, state).state_dict() if self._n_built <= len(state) else {}
            if {name: x.shape for name, x in state.items()} != {name: x.shape for name, x in expected.items()}:
                raise ValueError(f"the weights are not those of a {what} and {self.n_stages} stages")
            module = self._of_size(rank, state)
            module.load_state_dict(state)
        except (RuntimeError, TypeError, OverflowError) as error:
            raise ValueError(f"there is no {what} with these weights: {error}") from error
        return module

    @property
    def _n_built(self) -> int:
        """Number of modules that the family builds in a loop; there are more weights than that."""
        n_modules = self.n_modules if self.has_rank_space else 0 if self.family == "probe" else self.n_stages - 1
        return n_modules + self.head_stages - 1

    def trainable_parameters(self, rank: int, config: LaneConfig | None = None) -> int:
        """Number of trainable parameters of a lane, without padding; arguments as `lane`."""
        with torch.device("meta"):
            return sum(p.numel() for p in self.plain(rank, config).parameters())

    def metadata(self, rank: int, config: LaneConfig | None = None) -> dict[str, str]:
        """The structure of one lane's module as strings, to be saved with its weights; arguments as `lane`."""
        own = {"lane_config": json.dumps(config.as_recorded())} if self.is_own and config is not None else {}
        return {**{name: str(value) for name, value in {**self.as_saved(), "rank": rank}.items()}, **own}

    def as_saved(self) -> dict[str, Any]:
        """The structure as JSON can hold it."""
        return {f.name: getattr(self, f.name) for f in fields(self) if f.name != "head_start"}
