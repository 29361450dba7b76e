"""The cost of a study whose lanes have several shapes: of each shape, and of the whole search."""

import math
from collections import Counter
from dataclasses import dataclass, replace

from sweep.errors import SweepError
from sweep.features.cache import n_images_missing
from sweep.running.memory_model import lane_cost
from sweep.running.planner import Plan, cache_bytes, costly_steps, splits_to_cache
from sweep.running.preparation import Prepared
from sweep.running.rehearsed_search import ShapeCost, rehearsed_seconds
from sweep.running.settings import ShapeSettings
from sweep.running.timing import seconds_per_image, step_seconds
from sweep.search.samplers import sampler_of
from sweep.search.shape_space import ShapeSpace
from sweep.search.trainer import UnusableShapeError
from sweep.side_networks.cost import enough_lanes
from sweep.study.rehearsal import rehearse, surveyed_configs
from sweep.study.shape import FeatureSource, Shape, shape_of

FEW_LANES = 4
"""Lanes in the calibration of the shape with the costliest lanes."""

LEAST_RATIO = 2
"""The costliest lanes are timed if they are so many times as much work as the baseline's, by the cost model."""

EXPONENTS = (0.5, 1.5)
"""Bounds of the power of a lane's work with which its time may grow. Measurements are noisy."""


@dataclass(frozen=True, kw_only=True)
class ShapePlan:
    """The cost of lanes of one shape.

    Attributes:
        shape: The shape in words.
        share: Share of the trials that have it, if the sampler spreads evenly over the space.
        cache_bytes: Size on disk of the features of all splits.
        n_images_missing: Number of images, or views of them, whose features are not in the cache.
        feature_wall_seconds: Time to compute these features. Shapes that read the same features share it.
        bytes_per_lane: Memory that each lane takes.
        lane_epoch_seconds: Time of one epoch of one lane in a stack with enough lanes.
        error: Why no lane can have this shape; empty if lanes can have it.
    """

    shape: str
    share: float
    cache_bytes: int = 0
    n_images_missing: int = 0
    feature_wall_seconds: float = 0.0
    bytes_per_lane: int = 0
    lane_epoch_seconds: float = 0.0
    error: str = ""


class ShapePlanner:
    """Plans a study for all shapes that random draws from its space have.

    `plan_study` measures the baseline's shape. Here the shape with the costliest lanes is measured too, and the times
    of the others lie between these two, by the cost model. A stack's own part takes at least as long as the baseline's,
    since much of it is not arithmetic.

    Args:
        settings: The backbones and features of the study's shapes.
        plan: The plan of the baseline's shape.

    Attributes:
        counts: Number of draws by shape.
        errors: Why no lane can have a shape, by shape.
        costs: Costs of the other shapes.
    """

    def __init__(self, settings: ShapeSettings, plan: Plan):
        self.settings, self.plan, self.prepared = settings, plan, settings.prepared
        study = self.study = settings.prepared.study
        self.counts = Counter(shape_of(study, config) for config in surveyed_configs(study))
        self.errors: dict[Shape, str] = {}
        self.costs: dict[Shape, ShapeCost] = {}
        if self.varies:
            self._find_costs()

    @property
    def varies(self) -> bool:
        """Whether there are several shapes."""
        return len(self.counts) > 1

    def whole(self) -> Plan:
        """The plan with `search_wall_seconds` for all shapes; unchanged if there is one."""
        if not self.varies:
            return self.plan
        given = [rehearse(self.study, params, seed=0) for params in (self.study.baseline, *self.study.enqueue)]
        training_seconds, feature_seconds = rehearsed_seconds(
            self.study,
            self.plan.n_parallel,
            self.costs,
            [shape_of(self.study, config) for config in given],
            list(self.counts.elements()),
            follows=ShapeSpace(self.study).varies and not sampler_of(self.study).enumerates,
            cores=self.prepared.device if self.prepared.shares_cores else None,
        )
        return replace(self.plan, search_wall_seconds=training_seconds + feature_seconds, n_shapes=len(self.counts))

    def shapes(self) -> list[ShapePlan]:
        """A plan for each shape, the most frequent first; empty if there is only one."""
        planned = []
        sizes: dict[FeatureSource, int] = {}  # counting the tokens of all texts takes a while
        for shape, count in self.counts.most_common() if self.varies else []:
            words, share = shape.described(list(self.counts)), count / self.counts.total()
            if shape in self.errors:
                planned.append(ShapePlan(shape=words, share=share, error=self.errors[shape]))
                continue
            own, cost = self.settings.looked_at(shape), self.costs[shape]
            if shape.source not in sizes:
                sizes[shape.source] = cache_bytes(own)
            planned.append(
                ShapePlan(
                    shape=words,
                    share=share,
                    cache_bytes=sizes[shape.source],
                    n_images_missing=self._n_missing(own),
                    feature_wall_seconds=self._feature_seconds(cost),
                    bytes_per_lane=lane_cost(own)[0],
                    lane_epoch_seconds=cost.lane_seconds + cost.stack_seconds / cost.enough_lanes,
                )
            )
        return planned

    def _find_costs(self) -> None:
        owns: dict[Shape, Prepared] = {}
        for shape in self.counts:
            try:
                owns[shape] = self.settings.looked_at(shape)
            except UnusableShapeError as error:
                self.errors[shape] = str(error)
        work = {shape: own.spec.lane_work(own.backbone.tokens) for shape, own in owns.items()}
        exponent = self._exponent(owns[max(work, key=work.__getitem__)])
        passes = {self._features(self.prepared): 0.0}  # the plan has the pass for the baseline's shape
        stack_work, lane_work = _work(self.prepared)
        for shape, own in owns.items():
            features = self._features(own)
            if features not in passes:
                n_missing = self._n_missing(own)
                passes[features] = n_missing * seconds_per_image(own, n_missing)
            own_stack_work = own.spec.stack_work(own.backbone.tokens)
            stack_step = self._stack_step_seconds(own_stack_work / stack_work)
            lane_step = self.plan.lane_step_seconds * (work[shape] / lane_work) ** exponent
            n_steps = costly_steps(own)
            self.costs[shape] = ShapeCost(
                stack_seconds=n_steps * stack_step + self.plan.live_wall_seconds,
                lane_seconds=n_steps * lane_step,
                enough_lanes=enough_lanes(own_stack_work, work[shape]),
                features=features,
                feature_seconds=passes[features],
            )

    def _exponent(self, costliest: Prepared) -> float:
        """The power of a lane's work with which its time grows, from a measurement of the costliest lanes."""
        stack_work, work = _work(self.prepared)
        costliest_stack_work, costliest_work = _work(costliest)
        if self.plan.lane_step_seconds <= 0 or costliest_work < LEAST_RATIO * work:
            return 1.0
        try:
            seconds = step_seconds(costliest, FEW_LANES).of(FEW_LANES)
        except SweepError:  # it does not fit in memory; the search would halve its stack
            return 1.0
        of_lanes = seconds - self._stack_step_seconds(costliest_stack_work / stack_work)
        if of_lanes <= 0:
            return 1.0
        exponent = math.log(of_lanes / FEW_LANES / self.plan.lane_step_seconds) / math.log(costliest_work / work)
        return min(max(exponent, EXPONENTS[0]), EXPONENTS[1])

    def _stack_step_seconds(self, ratio: float) -> float:
        """Time of a step of a stack without its lanes, from its work divided by that of a stack of the baseline's."""
        return self.plan.stack_step_seconds * max(1.0, ratio)

    def _features(self, own: Prepared) -> FeatureSource:
        """What a run computes for a shape: all stages that shapes with the same backbone and input read."""
        return replace(own.shape.source, stages=self.settings.with_all_stages(own).stage_indices, group_size=1)

    def _feature_seconds(self, cost: ShapeCost) -> float:
        """Time to compute the missing features of a shape. The plan has that of the baseline's."""
        same = cost.features == self._features(self.prepared)
        return self.plan.feature_wall_seconds if same else cost.feature_seconds

    def _n_missing(self, own: Prepared) -> int:
        """Number of images whose features are not in the cache."""
        backbone = self.settings.with_all_stages(own)
        return sum(n_images_missing(backbone, split, self.settings.cache_dir) for split in splits_to_cache(own))


def _work(prepared: Prepared) -> tuple[float, float]:
    """Multiply-adds per image of a stack and of each lane, by the cost model."""
    tokens = prepared.backbone.tokens
    return prepared.spec.stack_work(tokens), prepared.spec.lane_work(tokens)
