"""Divide the time of a training step of `sweep` into its parts."""

import os
from collections.abc import Callable
from dataclasses import dataclass

import torch

from sweep.bench.rows import BATCH, GRADIENTS, OPTIMIZER, SweepInParts
from sweep.bench.workload import LAST
from sweep.side_networks.cpu.stream_trunk import FEWEST_RANKS
from sweep.side_networks.cpu.trunk import is_compiled

SHARED_PRODUCTS = ("aten::mm", "aten::addmm_")
"""Products with frozen streams, which all lanes share. Products of single lanes are batched products instead."""

TASKS = ("_PooledTrunk", "_PooledStreams")
"""Our `autograd.Function`s. Time that they spend outside PyTorch is that of the compiled tasks."""


@dataclass(frozen=True)
class Part:
    """A part of a training step.

    Attributes:
        name: What the part does.
        seconds: Seconds per configuration.
        flops: FLOPs per configuration if the part has matrix products only; else None.
    """

    name: str
    seconds: float
    flops: float | None = None


def profile_step(row: SweepInParts) -> list[Part]:
    """Profile one training step: that of the first part, beside which the other parts train.

    Args:
        row: The row, which must have taken a step before.

    Returns:
        The parts, which together make up the step. Empty unless compiled rank space runs: in plain PyTorch the same
        operators occur in all parts, and on a GPU the host's clock cannot separate them.
    """
    workload = row.workload
    if (
        workload.spec.family != LAST
        or workload.spec.form != "rank space"
        or not is_compiled(workload.sizes.rank, workload.device, torch.float32)
    ):
        return []
    os.environ.setdefault("KINETO_LOG_LEVEL", "99")  # a missing GPU is not an error
    with torch.profiler.profile(activities=[torch.profiler.ProfilerActivity.CPU]) as profiler:
        row.step()
    events = profiler.key_averages()

    def total(name: str) -> float:
        return 1e-6 / row.n_lanes * sum(float(event.cpu_time_total) for event in events if event.key == name)

    def own(is_meant: Callable[[str], bool]) -> float:
        meant = (float(event.self_cpu_time_total) for event in events if is_meant(event.key))
        return 1e-6 / row.n_lanes * sum(meant)

    products, tasks = own(lambda name: name in SHARED_PRODUCTS), own(lambda name: name.startswith(TASKS))
    compiled = [
        Part("products with frozen streams", products, row.parts[0].shared_product_flops),
        Part("compiled attention and LayerNorm", tasks),
    ]
    if workload.sizes.rank >= FEWEST_RANKS:  # nothing is shared, and the tasks have all products
        products, compiled = 0.0, [Part("compiled modules", tasks)]
    return [
        *compiled,
        Part("weights, frozen streams, head and loss", total(GRADIENTS) - products - tasks),
        Part("reading the batch", total(BATCH)),
        Part("optimizer", total(OPTIMIZER)),
    ]
