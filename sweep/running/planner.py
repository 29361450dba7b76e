"""Estimates the cost of a study before it runs: seconds from a short calibration, bytes from formulas.

Symbols: `N` lanes, `B` images of a batch, `L` tokens, `D` width, `r` the stack's rank, `S` stages, `K` modules.
"""

from dataclasses import asdict, dataclass
from pathlib import Path

from sweep.data import Split
from sweep.features.batches import n_batches
from sweep.features.cache import n_images_missing, stored_tokens
from sweep.features.entry import DTYPE
from sweep.machine.memory import available_bytes
from sweep.running.memory_model import lane_cost, lanes_that_fit, shared_bytes
from sweep.running.preparation import Prepared
from sweep.running.timing import CALIBRATION_LANES, parts_at_once, seconds_per_image, step_seconds
from sweep.side_networks.cost import Form

EVALUATION_SHARE = 1 / 3
"""Time of an image in evaluation, as a share of its time in training: evaluation has no backward pass."""


@dataclass(frozen=True, kw_only=True)
class FeaturePlan:
    """The cost of a study's feature pass.

    Attributes:
        n_images: Images whose features the cache will hold: those of all splits, and every view of a training image.
        n_images_missing: How many of them are not in the cache yet.
        feature_wall_seconds: Time to compute the missing features.
        cache_bytes: Size on disk of all these features, including those already in the cache.
        live_wall_seconds: Time per epoch to compute the features of training images that are not cached.
    """

    n_images: int
    n_images_missing: int
    feature_wall_seconds: float
    cache_bytes: int
    live_wall_seconds: float


@dataclass(frozen=True, kw_only=True)
class Plan(FeaturePlan):
    """A study's cost.

    Attributes:
        available_bytes: Memory of the device that can still be allocated.
        shared_bytes: Memory that does not depend on the number of lanes, mostly for the frozen streams of a batch.
        bytes_per_lane: Memory that each lane takes in addition.
        lanes_that_fit: Lanes of the largest stack that fits in `MEMORY_SHARE` of the available memory; may be zero.
        n_parallel: Lanes of a full stack.
        n_epochs: Epochs of a trial that no rung stops.
        steps_per_epoch: Optimizer steps per epoch.
        lane_epochs: Epochs of all trials and replicates together. With rungs, one trial in `eta` passes each rung.
        search_wall_seconds: Time of training and evaluation, including `live_wall_seconds`, if freed lanes are filled
            at once. If lanes have several shapes, it also includes the feature passes of shapes other than the
            baseline's; see `sweep.running.shape_plan`.
        stack_step_seconds: Measured time of a training step of the baseline's shape that does not depend on the number
            of lanes.
        lane_step_seconds: Measured time that each lane of this shape adds.
        n_shapes: Number of shapes that `search_wall_seconds` allows for.
        form: Form in which the lanes are computed.
        multiply_adds: Multiply-adds of a training step per lane and image: estimated for LAST, counted for others.
        direct_work_ratio: For LAST, estimated work of the direct form divided by that of rank space; else None.
    """

    available_bytes: int
    shared_bytes: int
    bytes_per_lane: int
    lanes_that_fit: int
    n_parallel: int
    n_epochs: int
    steps_per_epoch: int
    lane_epochs: float
    search_wall_seconds: float
    stack_step_seconds: float
    lane_step_seconds: float
    form: Form
    multiply_adds: int
    direct_work_ratio: float | None
    n_shapes: int = 1


def plan_features(prepared: Prepared, cache_dir: Path) -> FeaturePlan:
    """Count the images that are missing in the cache. If there are any, time the backbone on a few images."""
    backbone, data = prepared.backbone, prepared.data
    splits = splits_to_cache(prepared)
    n_images = sum(split.n_images for split in splits)
    n_missing = sum(n_images_missing(backbone, split, cache_dir) for split in splits)
    n_live = 0 if prepared.views.n_cached else data.train.n_images + (data.val.n_images if prepared.study.folds else 0)
    per_image = seconds_per_image(prepared, n_missing + n_live)
    return FeaturePlan(
        n_images=n_images,
        n_images_missing=n_missing,
        feature_wall_seconds=n_missing * per_image,
        cache_bytes=cache_bytes(prepared),
        live_wall_seconds=n_live * per_image,
    )


def cache_bytes(prepared: Prepared) -> int:
    """Size on disk of the features of all splits for lanes of a shape. It turns all texts into tokens to count them."""
    backbone = prepared.backbone
    n_tokens = sum(stored_tokens(backbone, split) for split in splits_to_cache(prepared))
    return n_tokens * sum(backbone.widths) * DTYPE.itemsize


def splits_to_cache(prepared: Prepared) -> list[Split]:
    """All splits, and views of them, whose features the cache will hold for lanes of a shape."""
    data, views, study = prepared.data, prepared.views, prepared.study
    test = [data.test] if study.test else []
    if study.folds and (views.augmentation or not views.n_cached):  # images are learned from as views, and measured
        return [*views.cached(data.train), *views.cached(data.val), data.train, data.val, *test]
    return [*views.cached(data.train), data.val, *test]


def plan_study(features: FeaturePlan, prepared: Prepared) -> Plan:
    """Plan the search as if all lanes had the baseline's shape.

    Args:
        features: The plan of the feature pass, made before it ran.
        prepared: The study. If its `n_parallel` is None, the plan has as many lanes as fit, at most one per trial and
            replicate.

    Raises:
        SweepError: The calibration itself does not fit in memory.
    """
    study, spec, tokens = prepared.study_of_shape, prepared.spec, prepared.backbone.tokens
    free_bytes = available_bytes(prepared.device)
    most_lanes = study.trials * study.lanes_per_trial if prepared.n_parallel is None else prepared.n_parallel
    shared = shared_bytes(spec, tokens, study.batch_size, n_parts=parts_at_once(prepared, most_lanes))
    per_lane, multiply_adds = lane_cost(prepared)
    fitting = lanes_that_fit(free_bytes, shared, per_lane)
    of_trial = study.lanes_per_trial
    n_lanes = study.trials * of_trial
    n_parallel = max(of_trial, min(n_lanes, fitting if prepared.n_parallel is None else prepared.n_parallel))
    n_epochs = float(study.epochs) if study.halving is None else study.halving.expected_epochs(study.epochs)
    n_train, _ = images_of_a_lane(prepared)
    step = step_seconds(prepared, min(CALIBRATION_LANES, n_parallel))
    if study.halving is None:  # all lanes of a stack end together
        n_full, n_left_over = divmod(n_lanes, n_parallel)
        n_stacks: float = n_full + bool(n_left_over)
        stack_seconds = n_full * step.of(n_parallel) + (step.of(n_left_over) if n_left_over else 0.0)
    else:  # freed lanes are filled at once
        n_stacks = n_lanes / n_parallel
        stack_seconds = n_stacks * step.of(n_parallel)
    return Plan(
        **asdict(features),
        available_bytes=free_bytes,
        shared_bytes=shared,
        bytes_per_lane=per_lane,
        lanes_that_fit=fitting,
        n_parallel=n_parallel,
        n_epochs=study.epochs,
        steps_per_epoch=n_batches(n_train, study.batch_size),
        lane_epochs=n_lanes * n_epochs,
        search_wall_seconds=n_epochs * (costly_steps(prepared) * stack_seconds + n_stacks * features.live_wall_seconds),
        stack_step_seconds=step.stack,
        lane_step_seconds=step.lane,
        form=spec.form,
        multiply_adds=multiply_adds,
        direct_work_ratio=spec.work["direct"] / spec.work["rank space"] if spec.has_rank_space else None,
    )


def images_of_a_lane(prepared: Prepared) -> tuple[int, int]:
    """Numbers of images that a lane learns from in an epoch, and that it is measured on."""
    n_train, n_val, folds = prepared.data.train.n_images, prepared.data.val.n_images, prepared.study.folds
    return (n_train + n_val, (n_train + n_val) // folds) if folds else (n_train, n_val)


def costly_steps(prepared: Prepared) -> float:
    """Time of an epoch with its evaluation, as a multiple of the time of a training step."""
    n_train, n_val = images_of_a_lane(prepared)
    return (n_train + EVALUATION_SHARE * n_val) / min(prepared.study_of_shape.batch_size, n_train)
