"""What all side-networks of a study share, and how a lane's own is drawn from it."""

import re
from collections.abc import Mapping
from dataclasses import MISSING, asdict, dataclass, fields
from typing import Any

import torch
from torch import Tensor

from sweep.machine.precision import Precision, product_dtype
from sweep.machine.seeds import drawing_from
from sweep.side_networks.cost import (
    FEATURE_WORK,
    SCORE_WORK,
    Form,
    cheaper_form,
    pyramid_work_per_token,
    work_per_token,
)
from sweep.side_networks.last import LAST
from sweep.side_networks.linear_probe import LinearProbe
from sweep.side_networks.pyramid import PyramidLAST
from sweep.side_networks.pyramid_rank_space import RankSpacePyramidLAST
from sweep.side_networks.rank_space import RankSpaceLAST
from sweep.study.lane_config import Pool

SideNetwork = LAST | PyramidLAST


@dataclass(frozen=True)
class SideNetworkSpec:
    """Shape of a study's side-networks.

    Attributes:
        width: Backbone width `D`, of the last stage.
        n_stages: `m + 1`.
        n_classes: `C`.
        n_prefix_tokens: Class and register tokens in front of the patch tokens.
        modules_per_block: `T`.
        pool: The head reads the `"mean"` of the patch tokens or of a text's, the `"class"`, or the `"last"` token.
        max_rank: Rank that lanes are padded to.
        precision: Of products with frozen streams; the direct form knows fp32 only.
        widths: `D` of every stage if they differ, and side-networks are `PyramidLAST`; else empty.
        causal: Whether a token attends to itself and those before it alone; not of `PyramidLAST`.
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

    def __post_init__(self) -> None:
        for name in ("width", "n_stages", "n_classes", "n_prefix_tokens", "modules_per_block", "max_rank"):
            if not isinstance(getattr(self, name), int):
                raise TypeError(f"{name} must be a whole number, not {getattr(self, name)!r}")
        if not all(isinstance(width, int) and width > 0 for width in self.widths):
            raise TypeError(f"widths must be positive whole numbers, not {self.widths!r}")
        object.__setattr__(self, "widths", tuple(self.widths))  # a list, as JSON has it

    @classmethod
    def of_metadata(cls, metadata: Mapping[str, str]) -> "SideNetworkSpec":
        """What `metadata` told.

        Raises:
            KeyError: An entry is missing.
            TypeError: One is no whole number, and should be.
            ValueError: Likewise.
        """
        values: dict[str, Any] = {
            f.name: metadata[f.name] if f.default is MISSING else metadata.get(f.name, str(f.default))
            for f in fields(cls)
        }
        widths = re.findall(r"\d+", values.pop("widths"))
        causal = values.pop("causal") == str(True)
        numbers: dict[str, Any] = {name: int(value) if value.isdigit() else value for name, value in values.items()}
        return cls(**numbers, widths=tuple(map(int, widths)), causal=causal)

    @property
    def stage_widths(self) -> tuple[int, ...]:
        """`D` of every stage."""
        return self.widths or (self.width,) * self.n_stages

    @property
    def described_widths(self) -> str:
        """For the user: the width, or the widths in turn."""
        return "-".join(map(str, dict.fromkeys(self.stage_widths)))

    @property
    def n_modules(self) -> int:
        """`K`."""
        return (self.n_stages - 1) * self.modules_per_block

    @property
    def form(self) -> Form:
        """How a stack of these computes: all lanes padded to `max_rank`, by the form that costs less."""
        return cheaper_form(self.work)

    @property
    def work(self) -> dict[Form, int]:
        """Multiply-adds of a training step per token and lane, by form; see `cost.py`."""
        if not self.widths:
            return work_per_token(self.width, self.max_rank, self.n_modules)
        module_widths = [width for width in self.widths[1:] for _ in range(self.modules_per_block)]
        return pyramid_work_per_token(module_widths, self.max_rank)

    def lane_work(self, tokens: int) -> float:
        """Multiply-adds of a training step per image that one more lane costs; see `cost.py`."""
        return tokens * (min(self.work.values()) + SCORE_WORK * self.n_modules * tokens)

    def stack_work(self, tokens: int) -> float:
        """Multiply-adds of a training step per image that a stack costs, however many lanes it has."""
        return float(FEATURE_WORK * tokens * sum(self.stage_widths))

    def lane(self, rank: int, seed: int) -> SideNetwork:
        """A freshly initialised LAST for a lane, padded to `max_rank`; the global random state is not used."""
        in_rank_space = self.form == "rank space"
        with drawing_from(seed):
            module = self._in_rank_space(rank) if in_rank_space else self._direct(rank, self.max_rank)
        if isinstance(module, RankSpaceLAST):
            module.product_dtype = product_dtype(self.precision)
        return module

    def plain(self, rank: int) -> SideNetwork:
        """An unpadded LAST in its direct form, to load a trained lane's weights into."""
        return self._direct(rank, rank)

    def trained(self, rank: int, state: Mapping[str, Tensor]) -> SideNetwork:
        """An unpadded LAST in its direct form with weights that were read from a file.

        Raises:
            ValueError: They are not those of such a LAST.
        """
        try:
            with torch.device("meta"):  # a file may name any size: memory is taken only for weights that are there
                expected = self.plain(rank).state_dict() if self.n_modules <= len(state) else {}
            if {name: x.shape for name, x in state.items()} != {name: x.shape for name, x in expected.items()}:
                raise ValueError(f"the weights are not those of a LAST of rank {rank} and {self.n_modules} modules")
            module = self.plain(rank)
            module.load_state_dict(state)
        except (RuntimeError, TypeError, OverflowError) as error:
            raise ValueError(f"there is no LAST of rank {rank!r} with these weights: {error}") from error
        return module

    def _direct(self, rank: int, padded_rank: int) -> SideNetwork:
        options = self._options(padded_rank)
        if self.widths:
            return PyramidLAST(self.widths, self.n_classes, rank, **options)
        return LAST(self.width, self.n_stages, self.n_classes, rank, causal=self.causal, **options)

    def _in_rank_space(self, rank: int) -> SideNetwork:
        options = self._options(self.max_rank)
        if self.widths:
            return RankSpacePyramidLAST(self.widths, self.n_classes, rank, **options)
        return RankSpaceLAST(self.width, self.n_stages, self.n_classes, rank, causal=self.causal, **options)

    def _options(self, padded_rank: int) -> dict[str, Any]:
        return {
            "modules_per_block": self.modules_per_block,
            "pool": self.pool,
            "n_prefix_tokens": self.n_prefix_tokens,
            "padded_rank": padded_rank,
        }

    def pooled_probe(self, stage: int, seed: int) -> LinearProbe:
        """A freshly initialised linear probe on one stage whose tokens are already pooled to one."""
        with drawing_from(seed):
            return LinearProbe(self.stage_widths[stage], self.n_classes, stage=stage)

    def trainable_parameters(self, rank: int) -> int:
        """Of a side-network of a rank; padding is not counted."""
        with torch.device("meta"):
            return sum(p.numel() for p in self.plain(rank).parameters())

    def metadata(self, rank: int) -> dict[str, str]:
        """The shape of one lane's module as strings, to travel with its weights."""
        return {name: str(value) for name, value in {**asdict(self), "rank": rank}.items()}
