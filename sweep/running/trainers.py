"""Where the lanes of a run train: in this process, or on worker processes of this machine."""

import platform
from collections.abc import Iterator
from contextlib import contextmanager

import torch

from sweep.errors import UsageError
from sweep.features.resident import room_on
from sweep.machine.settings import computing_on
from sweep.records.reporter import Reporter
from sweep.running.planner import Plan
from sweep.running.preparation import Prepared
from sweep.running.settings import RESIDENT_SHARE, ShapeSettings
from sweep.search.trainer import Trainer
from sweep.search.training_here import TrainingHere
from sweep.workers.local_pool import LocalPool
from sweep.workers.training import TrainingOnWorkers

MOST_THREADS = 1024
"""Largest number of threads that a run's record may ask for, since the record may come from anybody."""


def check_workers(n_workers: int, prepared: Prepared) -> None:
    """Refuse a number of workers that a run cannot have.

    Raises:
        UsageError: With the reason.
    """
    if n_workers < 0:
        raise UsageError(f"--workers must be at least 1, or 0 to train in this process, not {n_workers}")
    if n_workers and platform.system() == "Windows":
        raise UsageError("--workers needs Linux or macOS; leave it out")
    if n_workers and prepared.views.n_cached == 0:
        raise UsageError(
            "--workers cannot be combined with --cache off: every worker would run the backbone in each of its steps. "
            "Leave one of them out"
        )


def threads_of(n_workers: int) -> int:
    """Threads that lanes of a new run are computed on: all of PyTorch's, or a worker's share of them."""
    return max(1, torch.get_num_threads() // max(1, n_workers))


def worker_devices(device: torch.device, n_workers: int) -> list[str]:
    """Device of every worker: one GPU after the other, unless the user has named one."""
    if str(device) != "cuda":  # another device, or a GPU with a number
        return [str(device)] * n_workers
    return [f"cuda:{worker % torch.cuda.device_count()}" for worker in range(n_workers)]


def lanes_of(prepared: Prepared, plan: Plan, n_workers: int) -> int:
    """Lanes to train at a time: as planned for one device, or as many as fit on the GPUs of all workers."""
    n_devices = len(set(worker_devices(prepared.device, n_workers)))
    if prepared.n_parallel is not None or n_devices < 2:
        return plan.n_parallel
    return min(n_devices * plan.n_parallel, prepared.study.trials * prepared.study.lanes_per_trial)


@contextmanager
def trainer_of(
    settings: ShapeSettings, plan: Plan, reporter: Reporter, *, n_parallel: int, n_workers: int, n_threads: int
) -> Iterator[Trainer]:
    """Yield the trainer of a run, and end its workers afterwards.

    Args:
        settings: What the lanes of every shape train with.
        plan: The plan, with the memory of the device.
        reporter: Receives progress events.
        n_parallel: Lanes to train at a time.
        n_workers: Worker processes; 0 to train in this process.
        n_threads: Threads that lanes are computed on, in each process.
    """
    device = settings.prepared.device
    devices = worker_devices(device, n_workers) or [str(device)]
    most_on_one = -(-n_parallel // len(devices)) * max(devices.count(name) for name in devices)
    left_bytes = plan.available_bytes - plan.shared_bytes - most_on_one * plan.bytes_per_lane
    resident_bytes = round(RESIDENT_SHARE * max(0, left_bytes)) // max(devices.count(name) for name in devices)
    if not n_workers:
        settings.room = room_on(device, resident_bytes)
        with computing_on(n_threads):
            yield TrainingHere(settings, device)
        return
    settings.room = None
    on_each = f"{n_threads} thread{'s' * (n_threads > 1)} each" if device.type == "cpu" else ", ".join(devices)
    reporter.message(f"workers: {n_workers} process{'es' * (n_workers > 1)}, {on_each}")
    pool = LocalPool(devices, n_threads)
    try:
        yield TrainingOnWorkers(settings, pool, resident_bytes=resident_bytes, on_message=reporter.message)
    finally:
        pool.close()
