"""What a study will cost, before it is run: seconds from a short calibration, bytes from formulas.

Symbols: `N` lanes, `B` images of a batch, `L` tokens, `D` width, `r` the stack's rank, `S` stages, `K` modules.
"""

import time
from collections import Counter
from collections.abc import Callable
from dataclasses import asdict, dataclass, replace
from pathlib import Path

import numpy as np
import torch
from optuna.trial import FixedTrial
from torch import Tensor

from sweep.errors import SweepError, UsageError
from sweep.features.batches import StageData, n_batches, stored_shape
from sweep.features.cache import n_images_missing, stored_tokens
from sweep.features.entry import DTYPE
from sweep.machine.memory import available_bytes, is_out_of_memory
from sweep.running.preparation import Prepared
from sweep.side_networks.cost import Form, enough_lanes
from sweep.side_networks.cpu.trunk import GROUPS, is_compiled
from sweep.side_networks.spec import SideNetworkSpec
from sweep.study.lane_config import LaneConfig
from sweep.study.rehearsal import surveyed_configs
from sweep.study.shape import shape_of
from sweep.tasks.losses import LaneLosses
from sweep.training.engine import EVALUATION_BATCH_SIZE, Stack
from sweep.training.lane_cost import measured_cost
from sweep.training.optim import LaneOptimizers

FP32_BYTES = 4
MEMORY_SHARE = 0.8
"""Of the available memory, what a stack may take; the rest is for what the formulas leave out."""

PARAMETER_COPIES = 4
"""A lane's weights, their gradient, and AdamW's two moments."""

RANK_SPACE_COPIES = 8
"""Of a lane's weights in rank space: those, and what its products take instead, scaled and centred, with gradients.
Measured at 384 and 768 x 12 modules: 7.3."""

DIRECT_STREAMS = 5
"""Of `(B, L, D)` that a module of the direct form keeps for its backward pass; measured at 768 x 12 modules: 4.85."""

KEPT_COPIES = 1.5
"""Of what a lane keeps for its backward pass, where that is measured: the rest is for gradients on their way."""

EVALUATED_SHARE = 0.5
"""Of what as many images would keep in training, what an evaluation holds at a time, likewise."""

STREAM_COPIES = 2.5
"""Of a batch's stages in fp32: as read, in half precision, as stages, and centred."""

RUNTIME_BYTES = 96 * 2**20
"""Threads, compiled code and the matrix library's own buffers; measured: 60 to 90 MiB."""

CALIBRATION_IMAGES = 8
CALIBRATION_LANES = 16
"""At most, and at most a full stack: what a lane adds is lost in the noise of a step of a few."""

CALIBRATION_STEPS = 8
CALIBRATION_SECONDS = 1.0
"""Steps of either stack are timed until there are `CALIBRATION_STEPS`, or two and this time is over."""

EVALUATION_SHARE = 1 / 3
"""Time of an image that is only measured, against one that is trained on: a forward pass without its backward."""


@dataclass(frozen=True, kw_only=True)
class FeaturePlan:
    """The feature pass of a study.

    Attributes:
        n_images: Whose features the cache is to hold: of all splits, and of every view of train.
        n_images_missing: Those of them that are not in the cache.
        feature_wall_seconds: Of the pass over the missing ones.
        cache_bytes: What their features take on disk, those already there included.
        live_wall_seconds: Of the pass over the train images that every epoch makes if the cache does not hold them.
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
        shared_bytes: What is taken whatever the number of lanes, most of it by the frozen streams of a batch.
        bytes_per_lane: What every lane takes on top.
        lanes_that_fit: The largest stack within `MEMORY_SHARE` of the available memory; may be zero.
        n_parallel: Lanes of a full stack.
        n_epochs: Of a trial that no rung stops.
        steps_per_epoch: Optimizer steps.
        lane_epochs: Of all trials and replicates; with rungs, if one trial in `eta` passes each.
        search_wall_seconds: Training and evaluation, `live_wall_seconds` included, freed lanes filled at once.
        form: In which the lanes are computed.
        multiply_adds: Of a training step, for a lane and an image: estimated for LAST, else counted.
        direct_work_ratio: Of LAST, estimated work of the direct form against that of rank space.
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
    form: Form
    multiply_adds: int
    direct_work_ratio: float | None


def plan_features(prepared: Prepared, cache_dir: Path) -> FeaturePlan:
    """Count the images that the cache lacks, and time the backbone on a few if there are any."""
    backbone, data = prepared.backbone, prepared.data
    splits = (*prepared.views.cached(data.train), data.val, data.test)
    n_images = sum(split.n_images for split in splits)
    n_tokens = sum(stored_tokens(backbone, split) for split in splits)
    n_missing = sum(n_images_missing(backbone, split, cache_dir) for split in splits)
    n_live = 0 if prepared.views.n_cached else data.train.n_images
    n_timed = min(CALIBRATION_IMAGES, n_missing + n_live)
    seconds_per_image = _seconds_per_image(prepared, n_timed) if n_timed else 0.0
    return FeaturePlan(
        n_images=n_images,
        n_images_missing=n_missing,
        feature_wall_seconds=n_missing * seconds_per_image,
        cache_bytes=n_tokens * sum(backbone.widths) * DTYPE.itemsize,
        live_wall_seconds=n_live * seconds_per_image,
    )


def plan_study(features: FeaturePlan, prepared: Prepared) -> Plan:
    """Plan the search.

    Args:
        features: The feature pass, planned before it ran.
        prepared: The study; `n_parallel` of None becomes as many lanes as fit, at most one a trial.

    Raises:
        SweepError: The calibration itself does not fit in memory.
    """
    study, spec, tokens = prepared.study_of_shape, prepared.spec, prepared.backbone.tokens
    free_bytes = available_bytes(prepared.device)
    shared = shared_bytes(spec, tokens, study.batch_size)
    per_lane, multiply_adds = _lane_cost(prepared)
    fitting = lanes_that_fit(free_bytes, shared, per_lane)
    n_lanes = study.trials * study.seeds
    n_parallel = max(study.seeds, min(n_lanes, fitting if prepared.n_parallel is None else prepared.n_parallel))
    n_epochs = float(study.epochs) if study.halving is None else study.halving.expected_epochs(study.epochs)
    n_train, n_val = prepared.data.train.n_images, prepared.data.val.n_images
    costly_steps = (n_train + EVALUATION_SHARE * n_val) / min(study.batch_size, n_train)
    step_seconds = _step_seconds(prepared, min(CALIBRATION_LANES, n_parallel))
    if study.halving is None:  # all lanes of a stack end together
        n_full, n_left_over = divmod(n_lanes, n_parallel)
        n_stacks: float = n_full + bool(n_left_over)
        stack_seconds = n_full * step_seconds(n_parallel) + (step_seconds(n_left_over) if n_left_over else 0.0)
    else:  # freed lanes are filled at once
        n_stacks = n_lanes / n_parallel
        stack_seconds = n_stacks * step_seconds(n_parallel)
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
        search_wall_seconds=n_epochs * (costly_steps * stack_seconds + n_stacks * features.live_wall_seconds),
        form=spec.form,
        multiply_adds=multiply_adds,
        direct_work_ratio=spec.work["direct"] / spec.work["rank space"] if spec.family == "last" else None,
    )


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
                bytes_per_lane=_lane_cost(own)[0],
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


def _lane_cost(prepared: Prepared) -> tuple[int, int]:
    """Bytes that one more lane takes, and multiply-adds of its training step for an image."""
    study, spec, tokens = prepared.study_of_shape, prepared.spec, prepared.backbone.tokens
    if spec.family == "last":
        compiled = is_compiled(spec.max_rank, prepared.device, torch.float32)
        n_bytes = bytes_per_lane(spec, tokens, study.batch_size, compiled=compiled)
        return n_bytes, spec.work[spec.form] * tokens
    data, indices = _random_data(prepared)
    config = _calibrated_config(prepared)
    lanes = [spec.lane(config.rank, seed, config).to(prepared.device) for seed in range(3)]
    stages, _ = data.batch(indices, next(lanes[0].parameters()))
    cost = measured_cost(lanes, stages)
    n_parameters = sum(p.numel() for p in lanes[0].parameters())
    evaluated = EVALUATED_SHARE * cost.kept_bytes * EVALUATION_BATCH_SIZE / len(indices)
    n_bytes = PARAMETER_COPIES * FP32_BYTES * n_parameters + round(max(KEPT_COPIES * cost.kept_bytes, evaluated))
    return n_bytes, cost.multiply_adds // len(indices)


def _calibrated_config(prepared: Prepared) -> LaneConfig:
    """What a lane is measured with: the largest rank, and for a side-network of the study's own its baseline."""
    spec, study = prepared.spec, prepared.study
    if spec.is_own:
        return study.lane_config(FixedTrial(dict(study.baseline)))
    return LaneConfig(lr=1e-3, rank=spec.max_rank)


def _random_data(prepared: Prepared) -> tuple[StageData, Tensor]:
    """A batch of random features and labels, and its indices."""
    study, spec, tokens = prepared.study_of_shape, prepared.spec, prepared.backbone.tokens
    n_images = min(study.batch_size, prepared.data.train.n_images)
    shape = (n_images, *stored_shape(spec.stage_widths, tokens))
    stages = np.random.default_rng(0).standard_normal(shape, dtype=np.float32).astype(DTYPE)
    lengths = torch.full((n_images,), tokens) if prepared.data.kind == "texts" else None
    labels = torch.arange(n_images) % spec.n_classes
    data = StageData(stages, labels, spec.n_classes, widths=spec.widths, lengths=lengths)
    return data, torch.arange(n_images)


def parameter_bytes(spec: SideNetworkSpec) -> int:
    """One copy of a lane's parameters, padded to the stack's rank."""
    with torch.device("meta"):
        return FP32_BYTES * sum(p.numel() for p in spec.plain(spec.max_rank).parameters())


def kept_bytes(spec: SideNetworkSpec, n_tokens: int, *, compiled: bool) -> int:
    """What the trunk's forward pass returns for one lane to be kept: what the backward pass reads.

    Per token, in `_PooledTrunk.forward`: attended `K·r`, qkv `3K·r`, inverse `K`, log_sum `K`. In `_Trunk.forward` the
    same, and streams `K·r` and products `r·K(K−1)/2`.

    Args:
        spec: Shape of the lane.
        n_tokens: `B·L`.
        compiled: Whether `cpu/trunk.py` computes it, and not `rank_space_trunk.py`.
    """
    k, r = spec.n_modules, spec.max_rank
    return FP32_BYTES * n_tokens * (4 * k * r + 2 * k + (0 if compiled else k * r + r * k * (k - 1) // 2))


def pyramid_floats(k: int, r: int) -> tuple[int, int]:
    """What `RankSpacePyramidLAST` keeps of a token for its backward pass, and what a module takes while it runs.

    A module after `j` others keeps their outputs and what these are multiplied with, and its own `LN(x) W` and output.
    How often is measured, at 7 and 14 modules of ranks 2 and 8: within 10%.
    """
    return round(sum((4.5 * j + 8) * r for j in range(k))), (7 * k + 16) * r


def bytes_per_lane(spec: SideNetworkSpec, tokens: int, batch_size: int, *, compiled: bool) -> int:
    """What one more lane takes: the larger of a training step and of the evaluation's batch.

    A training step has what is kept. In the backward pass the compiled kernels have, for each of `GROUPS` groups of
    images and for their sum, the gradients of `W_γ Ũᵀ`, `Ũ Ũᵀ` and `Ũ`; and once `W_γ Ũᵀ` (`3K²r²`), `Ũ Ũᵀ` (`K²r²`)
    and two copies of its gradient. Plain PyTorch has the gradient of attended as it arrives and its copy (`2K·r` a
    token), d_products (`K·r`), d_qkv (`3r`) and d_stream (`r`).

    The evaluation keeps one module's part. Compiled, that is of a `K`th of the images all modules'; else attended and
    products (`2K·r`), and qkv, stream, inverse and log_sum (`4r + 2`).

    Args:
        spec: Shape of the lane.
        tokens: `L`.
        batch_size: `B` of training.
        compiled: As of `kept_bytes`.
    """
    k, r = spec.n_modules, spec.max_rank
    n_tokens, n_evaluated = batch_size * tokens, EVALUATION_BATCH_SIZE * tokens
    if spec.form == "direct":
        trained = n_tokens * spec.modules_per_block * sum(spec.stage_widths[1:])
        streams = DIRECT_STREAMS * max(trained, n_evaluated * max(spec.stage_widths))
        return PARAMETER_COPIES * parameter_bytes(spec) + FP32_BYTES * streams
    if spec.widths:
        kept, transient = pyramid_floats(k, r)
        streams = max(n_tokens * (kept + transient), n_evaluated * transient)
        return RANK_SPACE_COPIES * parameter_bytes(spec) + FP32_BYTES * streams
    training = kept_bytes(spec, n_tokens, compiled=compiled)
    if compiled:
        training += FP32_BYTES * k * r * ((GROUPS + 1) * (4 * k * r + spec.width) + 6 * k * r)
        evaluation = kept_bytes(spec, -(-EVALUATION_BATCH_SIZE // k) * tokens, compiled=True)
    else:
        training += FP32_BYTES * n_tokens * (3 * k * r + 4 * r)
        evaluation = FP32_BYTES * n_evaluated * (2 * k * r + 4 * r + 2)
    return RANK_SPACE_COPIES * parameter_bytes(spec) + max(training, evaluation)


def shared_bytes(spec: SideNetworkSpec, tokens: int, batch_size: int) -> int:
    """The frozen streams of a batch, of training or evaluation, whichever is the larger, and `RUNTIME_BYTES`."""
    n_images = max(batch_size, EVALUATION_BATCH_SIZE)
    return RUNTIME_BYTES + int(STREAM_COPIES * n_images * tokens * sum(spec.stage_widths) * FP32_BYTES)


def lanes_that_fit(free_bytes: int, shared: int, per_lane: int) -> int:
    """The largest `N` within `MEMORY_SHARE` of the memory, after the shared part."""
    return max(0, int(MEMORY_SHARE * free_bytes - shared) // per_lane)


def _seconds_per_image(prepared: Prepared, n_images: int) -> float:
    """Of the bare backbone forward, the faster of two passes over one batch."""
    inputs = prepared.backbone.empty_inputs(n_images)
    return min(_timed(lambda: prepared.backbone.stages(inputs), prepared.device) for _ in range(2)) / n_images


def _step_seconds(prepared: Prepared, n_lanes: int) -> Callable[[int], float]:
    """Seconds of a step as a function of `N`: a straight line through stacks of `n_lanes` and of half as many."""
    more = max(4, n_lanes)
    few = more // 2
    try:
        few_seconds, more_seconds = (_measured_step_seconds(prepared, n) for n in (few, more))
    except (RuntimeError, MemoryError) as error:
        if not is_out_of_memory(error):
            raise
        raise SweepError(
            f"the plan's calibration, {more} lanes of batch size {prepared.study_of_shape.batch_size}, does not fit "
            f"in the memory of {prepared.device}; lower --batch-size or the ranks"
        ) from error
    per_lane = max(0.0, (more_seconds - few_seconds) / (more - few))
    shared = max(0.0, few_seconds - few * per_lane)
    return lambda n_lanes: shared + n_lanes * per_lane


def _measured_step_seconds(prepared: Prepared, n_lanes: int) -> float:
    """Of one training step on random features, the fastest of a few after a warm-up."""
    spec, (data, indices) = prepared.spec, _random_data(prepared)
    config = _calibrated_config(prepared)
    stack = Stack([spec.lane(config.rank, seed, config).to(prepared.device) for seed in range(n_lanes)])
    configs = [replace(config, dropout=0.0)] * n_lanes
    losses_of = LaneLosses(configs, data.class_counts.to(prepared.device), stack.like.dtype)
    optimizers = LaneOptimizers(stack.params, configs)
    factors = torch.ones(n_lanes, device=prepared.device)

    def step() -> None:
        batch, labels = data.batch(indices, stack.like)
        _, grads = stack.gradients(batch, labels, losses_of)
        optimizers.step(grads, factors)

    _timed(step, prepared.device)
    seconds: list[float] = []
    while len(seconds) < 2 or (len(seconds) < CALIBRATION_STEPS and sum(seconds) < CALIBRATION_SECONDS):
        seconds.append(_timed(step, prepared.device))
    return min(seconds)


def _timed(work: Callable[[], object], device: torch.device) -> float:
    if device.type == "cuda":
        torch.cuda.synchronize(device)
    started = time.perf_counter()
    work()
    if device.type == "cuda":
        torch.cuda.synchronize(device)
    return time.perf_counter() - started
