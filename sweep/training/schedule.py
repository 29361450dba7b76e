"""Lane-wise learning-rate schedules."""

import math
from collections.abc import Sequence

import torch
from torch import Tensor

from sweep.study.lane_config import LaneConfig


def schedule_factors(configs: Sequence[LaneConfig], n_steps: int, steps_per_epoch: int) -> Tensor:
    """Learning-rate factors of every lane at every step.

    The warm-up is linear, and its first factor is `1 / warm-up steps`. The cosine falls from the end of the warm-up and
    would reach zero one step after the last.

    Args:
        configs: `N` lanes.
        n_steps: Optimizer steps of the whole training.
        steps_per_epoch: Optimizer steps per epoch, for `warmup_epochs`.

    Returns:
        Factors on the peak learning rate, `(n_steps, N)`, fp64.
    """
    return torch.tensor(
        [[_factor(config, step, n_steps, steps_per_epoch) for config in configs] for step in range(n_steps)],
        dtype=torch.float64,
    )


def _factor(config: LaneConfig, step: int, n_steps: int, steps_per_epoch: int) -> float:
    warmup = min(round(config.warmup_epochs * steps_per_epoch), n_steps)
    if step < warmup:
        return (step + 1) / warmup
    if config.schedule == "constant":
        return 1.0
    return 0.5 * (1 + math.cos(math.pi * (step - warmup) / (n_steps - warmup)))
