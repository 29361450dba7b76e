"""Where the lanes of a run train: in this process, on worker processes of this machine, or on a cluster."""

import platform
import sys
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path

import torch

from sweep.errors import UsageError
from sweep.features.cache import Fill
from sweep.features.resident import room_on
from sweep.machine.memory import is_out_of_memory
from sweep.machine.settings import computing_on
from sweep.records.folder import RunFolder
from sweep.records.reporter import Reporter
from sweep.records.worker_log import WorkerLogFile
from sweep.running.memory_model import lane_cost, lanes_that_fit, shared_bytes
from sweep.running.planner import Plan
from sweep.running.preparation import Prepared
from sweep.running.settings import RESIDENT_SHARE, ShapeSettings
from sweep.running.timing import parts_at_once
from sweep.search.trainer import Trainer
from sweep.search.training_here import TrainingHere
from sweep.study.shape import Shape
from sweep.workers.cluster import Cluster, marker_file
from sweep.workers.feature_pass import FeaturesOnWorkers
from sweep.workers.local_pool import LocalPool
from sweep.workers.patience import Patience
from sweep.workers.pool import WorkerPool
from sweep.workers.ray_pool import RayPool
from sweep.workers.request import WorkersAsked
from sweep.workers.shares import Shares
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
        if self.cluster is None:
            return self.asked.number
        return self.cluster.n_workers(self.cluster.cpus_each(self.n_threads))


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
            pool = LocalPool(devices, n_threads)
        else:
            kind = "a GPU each" if cluster.on_gpus else on_each
            reporter.message(f"workers: {n_workers} on the cluster {where.asked.cluster} ({cluster.room()}), {kind}")
            if n_unused := cluster.unused_gpus():
                reporter.message(
                    f"note: the run does not use the cluster's GPUs ({n_unused}), because this process computes on "
                    f"the CPU. To use them, start the run on a machine with a GPU"
                )
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
    device = settings.prepared.device
    if pool is None:
        n_bytes = features_beside(plan.available_bytes, plan.shared_bytes, plan.bytes_per_lane, n_parallel)
        settings.room = room_on(device, n_bytes)
        with computing_on(where.n_threads):
            yield TrainingHere(settings, device)
        return
    settings.room = None
    memory = MemoryOfLanes(settings, n_parallel, where.n_threads)
    log = WorkerLogFile(folder)
    yield TrainingOnWorkers(
        settings,
        pool,
        Shares(memory, n_parallel, where.asked.lanes_each),
        patience=Patience(where.asked.timeout_seconds, plan.search_wall_seconds),
        on_message=reporter.message,
        on_epoch=log.update,
        on_shares=reporter.message,
    )
    log.write()


class MemoryOfLanes:
    """A `MemoryModel`: that of the plan, for the shapes of a run.

    Args:
        settings: What the lanes of every shape train with.
        n_parallel: Lanes to train at a time, on all workers.
        n_threads: Threads of each worker.
    """

    def __init__(self, settings: ShapeSettings, n_parallel: int, n_threads: int):
        self.settings, self.n_parallel, self.n_threads = settings, n_parallel, n_threads
        self._bytes: dict[Shape, tuple[int, int]] = {}

    def lanes_that_fit(self, shape: Shape, free_bytes: int) -> int:
        """See `MemoryModel`."""
        return lanes_that_fit(free_bytes, *self._shared_and_own(shape))

    def left_for_features(self, shape: Shape, n_lanes: int, free_bytes: int) -> int:
        """See `MemoryModel`."""
        shared, per_lane = self._shared_and_own(shape)
        return features_beside(free_bytes, shared, per_lane, n_lanes)

    def _shared_and_own(self, shape: Shape) -> tuple[int, int]:
        """Memory in bytes that all lanes of a shape share, and that each of them takes."""
        if shape not in self._bytes:
            own = self.settings.prepared_of(shape)
            with computing_on(self.n_threads):
                parts = parts_at_once(own, self.n_parallel)
            shared = shared_bytes(own.spec, own.backbone.tokens, own.study_of_shape.batch_size, n_parts=parts)
            self._bytes[shape] = shared, self._bytes_per_lane(own)
        return self._bytes[shape]

    @staticmethod
    def _bytes_per_lane(own: Prepared) -> int:
        """Memory in bytes that a lane takes. If a few lanes cannot be measured here, one trains at a time."""
        try:
            return lane_cost(own)[0]
        except (RuntimeError, MemoryError) as error:
            if not is_out_of_memory(error):
                raise
            return sys.maxsize


def features_beside(available_bytes: int, shared_bytes: int, bytes_per_lane: int, n_lanes: int) -> int:
    """Memory of a device that features may take beside so many lanes."""
    return round(RESIDENT_SHARE * max(0, available_bytes - shared_bytes - n_lanes * bytes_per_lane))
