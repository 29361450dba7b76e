"""Where a training step of `sweep` goes."""

import os
from dataclasses import dataclass

import torch

from sweep.bench.rows import BATCH, GRADIENTS, OPTIMIZER, SweepRow
from sweep.side_networks.cpu_trunk import is_compiled

SHARED_PRODUCTS = ("aten::mm", "aten::addmm", "aten::addmm_")
"""Products with frozen streams, one for all lanes; what lanes multiply of their own are batched products."""

TASKS = "_PooledTrunk"
"""Our `autograd.Function`: what it does itself, and not by PyTorch, are the compiled tasks."""


@dataclass(frozen=True)
class Part:
    """A part of a training step.

    Attributes:
        name: What is done in it.
        seconds: Of one configuration.
        flops: Of one configuration, where they are matrix products alone; else None.
    """

    name: str
    seconds: float
    flops: float | None = None


def profile_step(row: SweepRow) -> list[Part]:
    """Take one training step apart.

    Args:
        row: Has taken a step before.

    Returns:
        The parts, which together are the step. Empty where it is not the compiled form that runs: plain PyTorch's
        operators are mixed in all parts, and a GPU's are not told apart by the host's clock.
    """
    workload = row.workload
    if not is_compiled(workload.sizes.rank, workload.device, row.stack.like.dtype):
        return []
    os.environ.setdefault("KINETO_LOG_LEVEL", "99")  # that there is no GPU is no error
    with torch.profiler.profile(activities=[torch.profiler.ProfilerActivity.CPU]) as profiler:
        row.step()
    events = profiler.key_averages()

    def total(name: str) -> float:
        return 1e-6 / row.n_lanes * sum(float(event.cpu_time_total) for event in events if event.key == name)

    def own(names: tuple[str, ...]) -> float:
        of_names = (float(event.self_cpu_time_total) for event in events if event.key.startswith(names))
        return 1e-6 / row.n_lanes * sum(of_names)

    products, tasks = own(SHARED_PRODUCTS), own((TASKS,))
    return [
        Part("products with frozen streams", products, row.shared_product_flops),
        Part("compiled attention and LayerNorm", tasks),
        Part("weights, frozen streams, head and loss", total(GRADIENTS) - products - tasks),
        Part("reading the batch", total(BATCH)),
        Part("optimizer", total(OPTIMIZER)),
    ]
