"""Measures what a plan needs on this machine: seconds of a training step, and of a backbone's forward pass."""

import time
from collections.abc import Callable
from dataclasses import dataclass, replace

import torch
from torch import Tensor

from sweep.errors import SweepError
from sweep.features.batches import StageData
from sweep.features.side_by_side import passes
from sweep.machine.at_once import Check, at_once, n_at_once, shares
from sweep.machine.memory import is_out_of_memory
from sweep.running.memory_model import calibrated_config, random_data
from sweep.running.preparation import Prepared
from sweep.tasks.lane_losses import LaneLosses
from sweep.training.optim import LaneOptimizers
from sweep.training.parts import n_parts
from sweep.training.stack import Stack

CALIBRATION_IMAGES = 8
CALIBRATION_LANES = 16
"""Largest number of lanes in the calibration, which never exceeds a full stack. With only a few lanes, the cost of one
more lane would be lost in the noise."""

CALIBRATION_STEPS = 8
CALIBRATION_SECONDS = 1.0
"""Steps of each stack are timed until there are `CALIBRATION_STEPS` of them, or at least two and this time is over."""


@dataclass(frozen=True)
class StepSeconds:
    """Wall time of a training step.

    Attributes:
        stack: Seconds, whatever the number of lanes.
        lane: Seconds that each lane adds.
    """

    stack: float
    lane: float

    def of(self, n_lanes: int) -> float:
        """Seconds of a step of a stack of so many lanes."""
        return self.stack + n_lanes * self.lane


def parts_at_once(prepared: Prepared, n_lanes: int) -> int:
    """In how many parts so many lanes will train at the same time."""
    return n_parts(n_lanes, prepared.device) if prepared.shares_cores else 1


def seconds_per_image(prepared: Prepared, n_images: int) -> float:
    """Seconds per image of the backbone's forward passes: the faster of two rounds with a batch for each pass.

    Args:
        prepared: The study, with the backbone to time.
        n_images: Number of images to compute; at most `CALIBRATION_IMAGES` are timed. Nothing is, if there are none.
    """
    if not n_images:
        return 0.0
    n_images = min(CALIBRATION_IMAGES, n_images)
    n_passes = n_at_once(torch.get_num_threads()) if prepared.device.type == "cpu" else 1
    batches = [(number, prepared.backbone.empty_inputs(n_images)) for number in range(n_passes)]

    def compute() -> None:
        for _ in passes(prepared.backbone, batches, lambda backbone, inputs: backbone.stages(inputs), prepared.device):
            pass

    return min(_timed(compute, prepared.device) for _ in range(2)) / (n_passes * n_images)


def step_seconds(prepared: Prepared, n_lanes: int) -> StepSeconds:
    """Measure steps of lanes of the prepared shape: a straight line through the times for `n_lanes` and half as many.

    Raises:
        SweepError: The lanes do not fit in memory.
    """
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
    return StepSeconds(max(0.0, few_seconds - few * per_lane), per_lane)


def _measured_step_seconds(prepared: Prepared, n_lanes: int) -> float:
    """Seconds of one training step on random features: the fastest of a few steps after a warm-up."""
    data = random_data(prepared)
    parts = shares(range(n_lanes), parts_at_once(prepared, n_lanes))
    steps = [_step_of(prepared, len(part), *data) for part in parts]

    def step() -> None:
        at_once(steps)

    _timed(step, prepared.device)
    seconds: list[float] = []
    while len(seconds) < 2 or (len(seconds) < CALIBRATION_STEPS and sum(seconds) < CALIBRATION_SECONDS):
        seconds.append(_timed(step, prepared.device))
    return min(seconds)


def _step_of(prepared: Prepared, n_lanes: int, data: StageData, indices: Tensor) -> Callable[[Check], None]:
    """A training step of some lanes on random features."""
    spec, config = prepared.spec, calibrated_config(prepared)
    stack = Stack([spec.lane(config.rank, seed, config).to(prepared.device) for seed in range(n_lanes)])
    configs = [replace(config, dropout=0.0)] * n_lanes
    losses_of = LaneLosses(configs, data.class_counts.to(prepared.device), stack.like.dtype, len(data))
    optimizers = LaneOptimizers(stack.params, configs)
    factors = torch.ones(n_lanes, device=prepared.device)

    def step(_: Check) -> None:
        batch, labels = data.batch(indices, stack.like)
        grads = stack.gradients(batch, labels, losses_of)[1]
        optimizers.step(grads, factors)

    return step


def _timed(work: Callable[[], object], device: torch.device) -> float:
    if device.type == "cuda":
        torch.cuda.synchronize(device)
    started = time.perf_counter()
    work()
    if device.type == "cuda":
        torch.cuda.synchronize(device)
    return time.perf_counter() - started
