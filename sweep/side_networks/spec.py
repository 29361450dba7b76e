"""What all side-networks of a study share, and how a lane's own is drawn from it."""

from dataclasses import asdict, dataclass

import torch

from sweep.precision import Precision, product_dtype
from sweep.side_networks.cost import Form, cheaper_form
from sweep.side_networks.head import Pool
from sweep.side_networks.last import LAST
from sweep.side_networks.linear_probe import LinearProbe
from sweep.side_networks.rank_space import RankSpaceLAST


@dataclass(frozen=True)
class SideNetworkSpec:
    """Shape of a study's side-networks.

    Attributes:
        width: Backbone width `D`.
        n_stages: `m + 1`.
        n_classes: `C`.
        n_prefix_tokens: Class and register tokens in front of the patch tokens.
        modules_per_block: `T`.
        pool: The head reads the `"mean"` of the patch tokens, or the `"class"` token.
        max_rank: Rank that lanes are padded to.
        precision: Of products with frozen streams; the direct form knows fp32 only.
    """

    width: int
    n_stages: int
    n_classes: int
    n_prefix_tokens: int
    modules_per_block: int
    pool: Pool
    max_rank: int
    precision: Precision = "fp32"

    @property
    def n_modules(self) -> int:
        """`K`."""
        return (self.n_stages - 1) * self.modules_per_block

    @property
    def form(self) -> Form:
        """How a stack of these computes: all lanes padded to `max_rank`, by the form that costs less."""
        return cheaper_form(self.width, self.max_rank, self.n_modules)

    def lane(self, rank: int, seed: int) -> LAST:
        """A freshly initialised LAST for a lane, padded to `max_rank`; global random state stays as it is."""
        with torch.random.fork_rng(devices=[]):
            torch.default_generator.manual_seed(seed)
            module = self._last(RankSpaceLAST if self.form == "rank space" else LAST, rank, self.max_rank)
        if isinstance(module, RankSpaceLAST):
            module.product_dtype = product_dtype(self.precision)
        return module

    def plain(self, rank: int) -> LAST:
        """An unpadded LAST in its direct form, to load a trained lane's weights into."""
        return self._last(LAST, rank, rank)

    def _last(self, kind: type[LAST], rank: int, padded_rank: int) -> LAST:
        return kind(
            self.width,
            self.n_stages,
            self.n_classes,
            rank,
            modules_per_block=self.modules_per_block,
            pool=self.pool,
            n_prefix_tokens=self.n_prefix_tokens,
            padded_rank=padded_rank,
        )

    def pooled_probe(self, stage: int, seed: int) -> LinearProbe:
        """A freshly initialised linear probe on one stage whose tokens are already pooled to one."""
        with torch.random.fork_rng(devices=[]):
            torch.default_generator.manual_seed(seed)
            return LinearProbe(self.width, self.n_classes, stage=stage)

    def metadata(self, rank: int) -> dict[str, str]:
        """The shape of one lane's module as strings, to travel with its weights."""
        return {name: str(value) for name, value in {**asdict(self), "rank": rank}.items()}
