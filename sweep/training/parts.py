"""Lanes that train together on a CPU, divided into parts that train at the same time.

A search has a stack of lanes for each shape. Stacks train at the same time, too, and a stack that takes longer than the
others has several parts. So a stack has as few parts as keep all cores busy, because every part repeats some work.

A lane's numbers do not depend on the lanes beside it or on the number of threads, so they are those of one stack. Each
part reads every batch and computes the frozen streams for itself, which costs less than threads that wait for one
another after every operation.
"""

import math
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from functools import partial
from typing import TypeVar

import torch
from torch import Tensor

from sweep.features.batches import TrainingData
from sweep.features.training_data import LiveViews
from sweep.machine.at_once import Check, at_once, n_at_once, shares
from sweep.training.engine import EpochResult, Lane, Training

FEWEST_LANES = 2
"""Fewest lanes of a part: a single lane would train beside a copy of itself."""

LARGER = 1.25
"""A stack is divided if its work is more than this multiple of an equal share of all work, because parts cost more."""

Key = TypeVar("Key")


def n_parts(n_lanes: int, device: torch.device) -> int:
    """How many parts so many lanes make on the threads that PyTorch has here; 1 on a GPU."""
    return n_at_once(torch.get_num_threads(), n_lanes // FEWEST_LANES) if device.type == "cpu" else 1


def in_parts(lanes: Sequence[Lane], train_data: TrainingData, device: torch.device) -> list[Sequence[Lane]]:
    """Divide lanes into parts that train at the same time.

    If the features are computed batch by batch, there is one part: they are computed once, on all cores.
    """
    return shares(lanes, n_parts(len(lanes), device) if can_share_cores(train_data, device) else 1)


def parts_of_stacks(n_lanes: Mapping[Key, int], work: Mapping[Key, float], device: torch.device) -> dict[Key, int]:
    """In how many parts each of several stacks trains, if all of them train at the same time.

    Args:
        n_lanes: Number of lanes of every stack.
        work: Seconds that an epoch of every stack takes on one core, or numbers in proportion to them.
        device: Device that all of them train on.
    """
    most = {key: n_parts(n, device) for key, n in n_lanes.items()}
    share = sum(work.values()) / n_at_once(torch.get_num_threads(), sum(most.values())) or 1.0
    return {key: min(n, max(1, math.ceil(work[key] / (LARGER * share)))) for key, n in most.items()}


def can_share_cores(train_data: TrainingData, device: torch.device) -> bool:
    """Whether it is faster to train several parts or stacks at the same time than one after the other."""
    return device.type == "cpu" and not isinstance(train_data, LiveViews)


def train_epoch(parts: Sequence[Training], order: int, on_step: Callable[[], None] = lambda: None) -> EpochResult:
    """Train and measure all parts for one epoch at the same time.

    Args:
        parts: The parts, which have trained for the same data orders.
        order: Number of the data order to follow.
        on_step: Called after every optimizer step of the first part, in the caller's thread.

    Returns:
        The result of all lanes, as one stack of them would give it.
    """
    started = time.perf_counter()
    results = at_once([partial(_epoch, part, order, on_step if part is parts[0] else None) for part in parts])
    return joined(results, time.perf_counter() - started)


def joined(results: Sequence[EpochResult], wall_seconds: float) -> EpochResult:
    """The result of all parts, as one stack of them would give it.

    Args:
        results: The results of the parts, in their order.
        wall_seconds: Time that all of them took.
    """
    if len(results) == 1:
        return replace(results[0], wall_seconds=wall_seconds)
    return EpochResult(
        torch.cat([result.train_loss for result in results]),
        torch.cat([result.val_logits for result in results]),
        wall_seconds,
        _joined([result.held_out for result in results]),
        _joined([result.effective_rank for result in results]),
    )


def _epoch(part: Training, order: int, on_step: Callable[[], None] | None, check: Check) -> EpochResult:
    """An epoch of one part."""

    def after_step() -> None:
        check()
        if on_step is not None:
            on_step()

    return part.epoch(order, after_step)


def _joined(of_parts: Sequence[Tensor | None]) -> Tensor | None:
    """Join what all parts have, or none."""
    tensors = [tensor for tensor in of_parts if tensor is not None]
    return torch.cat(tensors) if tensors else None
