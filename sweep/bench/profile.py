"""Where a training step of `sweep` goes."""

import os
from collections.abc import Callable
from dataclasses import dataclass

import torch

from sweep.bench.rows import BATCH, GRADIENTS, OPTIMIZER, SweepRow
from sweep.side_networks.cpu.trunk import is_compiled

SHARED_PRODUCTS = ("aten::mm", "aten::addmm_")
"""Products with frozen streams, one for all lanes; what lanes multiply of their own are batched products."""

TASKS = "_PooledTrunk"
"""Our `autograd.Function`: what it does itself, and not by PyTorch, are the compiled tasks."""


@dataclass(frozen=True)
class Part:
    """A part of a training step.

    Attributes:
        name: What is done in it.
        seconds: Of one configuration.
        flops: Of one configuration, where the part is matrix products alone; else None.
    """

    name: str
    seconds: float
    flops: float | None = None


def profile_step(row: SweepRow) -> list[Part]:
    """Take one training step apart.

    Args:
        row: Has taken a step before.

    Returns:
        The parts, which together are the step. Empty where it is not compiled rank space that runs: plain PyTorch's
        operators are mixed in all parts, and a GPU's are not told apart by the host's clock.
    """
    workload = row.workload
    if workload.spec.form != "rank space" or not is_compiled(
        workload.sizes.rank, workload.device, row.stack.like.dtype
    ):
        return []
    os.environ.setdefault("KINETO_LOG_LEVEL", "99")  # that there is no GPU is no error
    with torch.profiler.profile(activities=[torch.profiler.ProfilerActivity.CPU]) as profiler:
        row.step()
    events = profiler.key_averages()

    def total(name: str) -> float:
        return 1e-6 / row.n_lanes * sum(float(event.cpu_time_total) for event in events if event.key == name)

    def own(is_meant: Callable[[str], bool]) -> float:
        meant = (float(event.self_cpu_time_total) for event in events if is_meant(event.key))
        return 1e-6 / row.n_lanes * sum(meant)

    products, tasks = own(lambda name: name in SHARED_PRODUCTS), own(lambda name: name.startswith(TASKS))
    return [
        Part("products with frozen streams", products, row.shared_product_flops),
        Part("compiled attention and LayerNorm", tasks),
        Part("weights, frozen streams, head and loss", total(GRADIENTS) - products - tasks),
        Part("reading the batch", total(BATCH)),
        Part("optimizer", total(OPTIMIZER)),
    ]
