"""The work of a training step in FLOPs, by formula or as PyTorch counts it."""

from collections.abc import Callable

import torch
import torch.nn.functional as F
from torch.utils.flop_counter import FlopCounterMode

from sweep.bench.workload import LAST, N_CLASSES, Workload


def last_step_flops(workload: Workload) -> float:
    """Return the useful FLOPs of one LAST training step of one lane in the direct form.

    Projections count three times: forward, for the gradient of their weights, and for that of their input. That
    includes the first module, whose norm is trained. Attention has two products forward and four backward.
    """
    B, L, D, r = workload.sizes.batch_size, workload.shape.tokens, workload.shape.width, workload.sizes.rank
    K = workload.shape.n_stages - 1
    projections = 3 * 2 * B * L * D * 4 * r * K
    attention = K * 6 * 2 * B * L * L * r
    head = 3 * 2 * B * D * N_CLASSES
    return float(projections + attention + head)


def step_flops(workload: Workload) -> float:
    """Return the useful FLOPs of one training step of one lane: of LAST by a formula, of other families as counted.

    What is counted is a step of the family's definition. Its frozen inputs need no gradient.
    """
    if workload.spec.family == LAST:
        return last_step_flops(workload)
    module = workload.spec.plain(workload.sizes.rank)
    stages, labels = workload.features.batch(torch.arange(len(workload.features)), next(module.parameters()))
    return flops_of(lambda: F.cross_entropy(module(stages), labels).backward())


def flops_of(function: Callable[[], object]) -> float:
    """Return the FLOPs of everything that a function computes, as PyTorch counts them."""
    with FlopCounterMode(display=False) as counter:
        function()
    return float(counter.get_total_flops())
