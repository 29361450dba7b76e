"""Where the lanes of a run train: in this process, on worker processes of this machine, or on a cluster."""

import platform
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path

import torch

from sweep.errors import UsageError
from sweep.features.cache import Fill
from sweep.features.resident import room_on
from sweep.machine.settings import computing_on
from sweep.records.folder import RunFolder
from sweep.records.reporter import Reporter
from sweep.records.worker_log import WorkerLogFile
from sweep.running.planner import Plan
from sweep.running.preparation import Prepared
from sweep.running.settings import RESIDENT_SHARE, ShapeSettings
from sweep.search.trainer import Trainer
from sweep.search.training_here import TrainingHere
from sweep.workers.cluster import Cluster, marker_file
from sweep.workers.feature_pass import FeaturesOnWorkers
from sweep.workers.local_pool import LocalPool
from sweep.workers.patience import Patience
from sweep.workers.pool import WorkerPool
from sweep.workers.ray_pool import RayPool
from sweep.workers.request import WorkersAsked
from sweep.workers.training import TrainingOnWorkers

MOST_THREADS = 1024
"""Largest number of threads that a run's record may ask for, since the record may come from anybody."""


@dataclass(frozen=True)
class Where:
    """Where the lanes of a run train.

    Attributes:
        asked: The workers that the user asks for, if any.
        cluster: The cluster that they are on, if they are on one.
        n_threads: Threads that lanes are computed on, in each process.
    """

    asked: WorkersAsked
    cluster: Cluster | None
    n_threads: int

    @property
    def n_workers(self) -> int:
        """Workers to begin with; 0 for this process."""
        return self.cluster.n_workers(self.n_threads) if self.cluster else self.asked.number


def check_workers(asked: WorkersAsked, prepared: Prepared) -> None:
    """Refuse workers that a run cannot have.

    Raises:
        UsageError: With the reason.
    """
    asked.check()
    option = "--cluster" if asked.cluster else "--workers"
    if asked and not asked.cluster and platform.system() == "Windows":
        raise UsageError("--workers needs Linux or macOS; leave it out")
    if asked and prepared.views.n_cached == 0:
        raise UsageError(
            f"{option} cannot be combined with --cache off: every worker would run the backbone in each of its steps. "
            f"Leave one of them out"
        )


def threads_of(asked: WorkersAsked, cluster: Cluster | None) -> int:
    """Threads that lanes of a new run are computed on: all of PyTorch's, or a worker's share of a machine's."""
    if cluster is not None:
        return cluster.threads()
    return max(1, torch.get_num_threads() // max(1, asked.number))


def worker_devices(device: torch.device, n_workers: int) -> list[str]:
    """Device of every worker: one GPU after the other, unless the user has named one."""
    if str(device) != "cuda":  # another device, or a GPU with a number
        return [str(device)] * n_workers
    return [f"cuda:{worker % torch.cuda.device_count()}" for worker in range(n_workers)]


def lanes_of(prepared: Prepared, plan: Plan, where: Where) -> int:
    """Lanes to train at a time: as planned for one device, or as many as fit on the devices of all workers."""
    if where.cluster is not None:
        n_devices = where.n_workers if where.cluster.on_gpus else len(where.cluster.resources())
    else:
        n_devices = len(set(worker_devices(prepared.device, where.n_workers)))
    if prepared.n_parallel is not None or n_devices < 2:
        return plan.n_parallel
    return min(n_devices * plan.n_parallel, prepared.study.trials * prepared.study.lanes_per_trial)


@contextmanager
def pool_of(device: torch.device, cache_dir: Path, reporter: Reporter, where: Where) -> Iterator[WorkerPool | None]:
    """Yield the workers of a run, and end them afterwards; None if it has none.

    Args:
        device: Device of the run.
        cache_dir: Root of the feature cache.
        reporter: Receives progress events.
        where: In this process, or on which workers.
    """
    if not where.asked:
        yield None
        return
    n_threads, cluster, n_workers = where.n_threads, where.cluster, where.n_workers
    on_each = f"{n_threads} thread{'s' * (n_threads > 1)} each"
    with ExitStack() as stack:
        pool: WorkerPool
        if cluster is None:
            devices = worker_devices(device, n_workers)
            kind = on_each if device.type == "cpu" else ", ".join(devices)
            reporter.message(f"workers: {n_workers} process{'es' * (n_workers > 1)}, {kind}")
            pool = LocalPool(devices, n_threads, where.asked.lanes_each)
        else:
            kind = "a GPU each" if cluster.on_gpus else on_each
            reporter.message(f"workers: {n_workers} on the cluster {where.asked.cluster} ({cluster.room()}), {kind}")
            marker = stack.enter_context(marker_file(cache_dir))
            pool = RayPool(cluster, n_threads, reporter.message, marker)
        stack.callback(pool.close)
        yield pool


def fill_of(pool: WorkerPool | None, reporter: Reporter, where: Where) -> Fill | None:
    """What computes the features of a run; None for this process alone; arguments as `trainer_of`."""
    if pool is None:
        return None
    return FeaturesOnWorkers(pool, where.n_threads, Patience(where.asked.timeout_seconds), reporter.message)


@contextmanager
def trainer_of(
    settings: ShapeSettings,
    plan: Plan,
    folder: RunFolder,
    reporter: Reporter,
    pool: WorkerPool | None,
    *,
    n_parallel: int,
    where: Where,
) -> Iterator[Trainer]:
    """Yield the trainer of a run.

    Args:
        settings: What the lanes of every shape train with.
        plan: The plan, with the memory of the device.
        folder: The run folder, which is told what the workers do.
        reporter: Receives progress events.
        pool: The workers, see `pool_of`.
        n_parallel: Lanes to train at a time.
        where: In this process, or on which workers.
    """
    device, n_workers = settings.prepared.device, where.n_workers
    if pool is None:
        settings.room = room_on(device, _resident_bytes(plan, n_parallel, n_on_device=1))
        with computing_on(where.n_threads):
            yield TrainingHere(settings, device)
        return
    settings.room = None
    devices = [] if where.cluster else worker_devices(device, n_workers)
    on_device = max((devices.count(name) for name in devices), default=1)
    resident_bytes = _resident_bytes(plan, -(-n_parallel // n_workers) * on_device, n_on_device=on_device)
    log = WorkerLogFile(folder)
    yield TrainingOnWorkers(
        settings,
        pool,
        resident_bytes=resident_bytes,
        patience=Patience(where.asked.timeout_seconds, plan.search_wall_seconds),
        on_message=reporter.message,
        on_epoch=log.update,
    )
    log.write()


def _resident_bytes(plan: Plan, n_lanes: int, *, n_on_device: int) -> int:
    """Memory of a device for features, for each of the processes that share the device."""
    left_bytes = plan.available_bytes - plan.shared_bytes - n_lanes * plan.bytes_per_lane
    return round(RESIDENT_SHARE * max(0, left_bytes)) // n_on_device
