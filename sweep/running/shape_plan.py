"""What the lanes of each shape cost, where a study has several."""

from collections import Counter
from dataclasses import dataclass
from pathlib import Path

from sweep.errors import SweepError, UsageError
from sweep.features.cache import n_images_missing
from sweep.features.entry import DTYPE
from sweep.running.memory_model import lane_cost
from sweep.running.planner import Plan
from sweep.running.preparation import Prepared
from sweep.side_networks.cost import enough_lanes
from sweep.study.rehearsal import surveyed_configs
from sweep.study.shape import shape_of


@dataclass(frozen=True, kw_only=True)
class ShapePlan:
    """What the lanes of one shape cost.

    Attributes:
        shape: In words.
        share: Of the trials, if the sampler spreads evenly over the space.
        cache_bytes: What the features of all splits take on disk.
        n_images_missing: Images whose features are not in the cache.
        bytes_per_lane: What every lane takes of the memory.
        lane_epoch_seconds: Of an epoch of one lane in a stack with enough lanes.
        error: Why there can be no such lane; empty if there can be.
    """

    shape: str
    share: float
    cache_bytes: int = 0
    n_images_missing: int = 0
    bytes_per_lane: int = 0
    lane_epoch_seconds: float = 0.0
    error: str = ""


def plan_shapes(prepared: Prepared, plan: Plan, cache_dir: Path) -> list[ShapePlan]:
    """Plan each shape that random draws from the study's space have; nothing where all lanes have one.

    The baseline's shape is measured by `plan_study`; the others are scaled from it by the cost model.

    Args:
        prepared: The study.
        plan: Of the baseline's shape.
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
        splits = (*own.views.cached(own.data.train), own.data.val, own.data.test)
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
    """Multiply-adds per image of a lane in a stack with enough lanes, its part of the stack's own work included."""
    tokens = prepared.backbone.tokens
    stack, lane = prepared.spec.stack_work(tokens), prepared.spec.lane_work(tokens)
    return lane + stack / enough_lanes(stack, lane)


def bytes_per_image(prepared: Prepared) -> int:
    """What the features of one image take on disk."""
    return prepared.backbone.tokens * sum(prepared.backbone.widths) * DTYPE.itemsize
