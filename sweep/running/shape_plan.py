"""The cost of lanes of each shape, if a study has several shapes."""

from collections import Counter
from dataclasses import dataclass
from pathlib import Path

from sweep.errors import SweepError, UsageError
from sweep.features.cache import n_images_missing
from sweep.features.entry import DTYPE
from sweep.running.memory_model import lane_cost
from sweep.running.planner import Plan, splits_to_cache
from sweep.running.preparation import Prepared
from sweep.side_networks.cost import enough_lanes
from sweep.study.rehearsal import surveyed_configs
from sweep.study.shape import shape_of


@dataclass(frozen=True, kw_only=True)
class ShapePlan:
    """The cost of lanes of one shape.

    Attributes:
        shape: The shape in words.
        share: Share of the trials that have it, if the sampler spreads evenly over the space.
        cache_bytes: Size on disk of the features of all splits.
        n_images_missing: Number of images whose features are not in the cache.
        bytes_per_lane: Memory that each lane takes.
        lane_epoch_seconds: Time of one epoch of one lane in a stack with enough lanes.
        error: Why no lane can have this shape; empty if lanes can have it.
    """

    shape: str
    share: float
    cache_bytes: int = 0
    n_images_missing: int = 0
    bytes_per_lane: int = 0
    lane_epoch_seconds: float = 0.0
    error: str = ""


def plan_shapes(prepared: Prepared, plan: Plan, cache_dir: Path) -> list[ShapePlan]:
    """Plan each shape that random draws from the study's space have. The list is empty if all lanes have one shape.

    `plan_study` measures the baseline's shape. The times of the others are scaled from it by the cost model.

    Args:
        prepared: The study.
        plan: The plan of the baseline's shape.
        cache_dir: Root of the feature cache.
    """
    study = prepared.study
    counts = Counter(shape_of(study, config) for config in surveyed_configs(study))
    if len(counts) == 1:
        return []
    seconds_per_work = plan.search_wall_seconds / plan.lane_epochs / _full_lane_work(prepared)
    planned = []
    for shape, count in counts.most_common():
        words, share = shape.described(list(counts)), count / counts.total()
        try:
            own = prepared.of_shape(shape, cache_dir)
        except (SweepError, UsageError) as error:
            planned.append(ShapePlan(shape=words, share=share, error=str(error)))
            continue
        splits = splits_to_cache(own)
        planned.append(
            ShapePlan(
                shape=words,
                share=share,
                cache_bytes=sum(split.n_images for split in splits) * bytes_per_image(own),
                n_images_missing=sum(n_images_missing(own.backbone, split, cache_dir) for split in splits),
                bytes_per_lane=lane_cost(own)[0],
                lane_epoch_seconds=seconds_per_work * _full_lane_work(own),
            )
        )
    return planned


def _full_lane_work(prepared: Prepared) -> float:
    """Multiply-adds per image of a lane in a stack with enough lanes, including its share of the stack's own work."""
    tokens = prepared.backbone.tokens
    stack, lane = prepared.spec.stack_work(tokens), prepared.spec.lane_work(tokens)
    return lane + stack / enough_lanes(stack, lane)


def bytes_per_image(prepared: Prepared) -> int:
    """Size on disk of the features of one image."""
    return prepared.backbone.tokens * sum(prepared.backbone.widths) * DTYPE.itemsize
