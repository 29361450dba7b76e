"""Lanes that train together on a CPU, divided into parts that train at the same time.

A lane's numbers do not depend on the lanes beside it or on the number of threads, so they are those of one stack. Each
part reads every batch and computes the frozen streams for itself, which costs less than threads that wait for one
another after every operation.
"""

import time
from collections.abc import Callable, Sequence
from functools import partial

import torch
from torch import Tensor

from sweep.features.batches import TrainingData
from sweep.features.training_data import LiveViews
from sweep.machine.at_once import Check, at_once, n_at_once, shares
from sweep.training.engine import EpochResult, Lane, Training

FEWEST_LANES = 2
"""Fewest lanes of a part: a single lane would train beside a copy of itself."""


def n_parts(n_lanes: int, device: torch.device) -> int:
    """How many parts so many lanes make on the threads that PyTorch has here; 1 on a GPU."""
    return n_at_once(torch.get_num_threads(), n_lanes // FEWEST_LANES) if device.type == "cpu" else 1


def in_parts(lanes: Sequence[Lane], train_data: TrainingData, device: torch.device) -> list[Sequence[Lane]]:
    """Divide lanes into parts that train at the same time.

    If the features are computed batch by batch, there is one part: they are computed once, on all cores.
    """
    return shares(lanes, n_parts(len(lanes), device) if can_share_cores(train_data, device) else 1)


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
    if len(results) == 1:
        return results[0]
    return EpochResult(
        torch.cat([result.train_loss for result in results]),
        torch.cat([result.val_logits for result in results]),
        time.perf_counter() - started,
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
