"""A lane's shape: what must be equal for all lanes of a stack, so that each shape needs its own stack."""

from collections.abc import Sequence
from dataclasses import dataclass, fields, replace
from typing import TYPE_CHECKING, Any

from sweep.study.augmentation import NONE, OWN_FUNCTION, same_views
from sweep.study.lane_config import SHAPE_FIELDS, LaneConfig

if TYPE_CHECKING:
    from sweep.machine.precision import Precision
    from sweep.study.declaration import Study


@dataclass(frozen=True)
class FeatureSource:
    """The declarations that decide which features a lane reads; see `Study` for their meanings.

    Attributes:
        backbone: Name or path of the backbone.
        image_size: Side of the input in pixels; None for the backbone's own.
        stages: Number of stages or the blocks to tap; None if `group_size` decides.
        group_size: Blocks between two stages.
        augment: A recipe's name, or `OWN_FUNCTION` for the study's own function.
        views: Number of cached views.
    """

    backbone: str
    image_size: int | None
    stages: int | tuple[int, ...] | None
    group_size: int
    augment: str
    views: int | None


@dataclass(frozen=True)
class Shape:
    """What all lanes of a stack have in common.

    Attributes:
        source: Source of the features that they read.
        structure: Names and values of the declarations that decide the structure of the side-network.
        batch_size: Images or texts per step.
        precision: Precision of products with frozen features.
        padded_rank: Rank that all lanes are padded to.
    """

    source: FeatureSource
    structure: tuple[tuple[str, Any], ...]
    batch_size: int
    precision: "Precision"
    padded_rank: int

    def described(self, among: "list[Shape]") -> str:
        """The shape in words.

        Args:
            among: The shapes of the study. Only what differs between them is named.
        """
        own, others = _flat(self), [_flat(shape) for shape in among]
        varying = [name for name in own if len({repr(other.get(name)) for other in others}) > 1]
        return ", ".join(_word(name, own[name]) for name in varying)


WORDS = {
    "image_size": "{} px",
    "padded_rank": "rank up to {}",
    "batch_size": "batches of {}",
    "backbone": "{}",
    "side_network": "{}",
}
STRUCTURE = (
    *("modules_per_block", "pool", "side_network", "attention", "mlp", "read_out", "parts"),
    *("head_stages", "head_cells"),
)
"""Declarations that decide the structure of the side-networks, in addition to rank and backbone."""


def _flat(shape: Shape) -> dict[str, Any]:
    source = {f.name: getattr(shape.source, f.name) for f in fields(FeatureSource)}
    rest = {"batch_size": shape.batch_size, "precision": shape.precision, "padded_rank": shape.padded_rank}
    return {**source, **dict(shape.structure), **rest}


def _word(name: str, value: Any) -> str:
    if name in WORDS:
        return WORDS[name].format("own size" if value is None else value)
    return f"{name.replace('_', ' ')} {value}"


def shape_values(config: LaneConfig) -> dict[str, Any]:
    """The shape fields that a configuration sets, by name of the study's declaration. The rank is not among them."""
    return {name: value for name in SHAPE_FIELDS if (value := getattr(config, name)) is not None}


def study_of_lane(study: "Study", config: LaneConfig) -> "Study":
    """The study with the declarations that a lane's configuration replaces.

    A number of views that the study declares is for those lanes whose images are augmented.

    Raises:
        UsageError: The configuration's declarations contradict each other.
    """
    given = shape_values(config)
    own = study.override(**given) if given else study
    if own.augment != NONE or own.views is None:
        return own
    if config.views is not None:
        raise same_views(config.views)
    return replace(own, views=None)


def shape_of(study: "Study", config: LaneConfig) -> Shape:
    """The shape of a lane.

    Args:
        study: The study to search.
        config: The lane's configuration. The study's declarations hold for fields that are None.

    Raises:
        UsageError: The configuration's declarations contradict each other.
    """
    own = study_of_lane(study, config)
    source = FeatureSource(
        own.backbone,
        own.image_size,
        own.stages if isinstance(own.stages, int | None) else tuple(own.stages),
        own.group_size,
        own.augment if isinstance(own.augment, str) else OWN_FUNCTION,
        own.views,
    )
    structure = tuple((name, getattr(own, name)) for name in STRUCTURE)
    return Shape(source, structure, own.batch_size, own.precision, padded_rank(config.rank, study.rank_buckets))


def study_of_shape(study: "Study", shape: Shape) -> "Study":
    """The study with all declarations that a shape decides."""
    source = shape.source
    return replace(
        study,
        backbone=source.backbone,
        image_size=source.image_size,
        stages=source.stages,
        group_size=source.group_size,
        augment=study.augment if source.augment == OWN_FUNCTION else source.augment,
        views=source.views,
        batch_size=shape.batch_size,
        precision=shape.precision,
        **dict(shape.structure),
    )


def padded_rank(rank: int, buckets: Sequence[int]) -> int:
    """The rank that a lane is padded to: the smallest bucket that it fits into.

    A rank above all buckets is padded to the next power of two.
    """
    return min((bucket for bucket in buckets if bucket >= rank), default=1 << (rank - 1).bit_length())
