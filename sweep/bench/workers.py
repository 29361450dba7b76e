"""Measures what the process that drives a search does in an epoch, for growing numbers of lanes on simulated workers.

Proposals, sampler, storage, rungs, ledger, records, messages to workers, tables and snapshots are those of a run; only
the training is drawn from seeded curves (`simulated_workers.py`).
"""

import tempfile
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import optuna
import torch
from optuna.storages import BaseStorage, InMemoryStorage

from sweep.bench.simulated_workers import MESSAGES, PlentyOfMemory, SimulatedPool
from sweep.bench.stopwatch import Stopwatch
from sweep.features.batches import StageData
from sweep.records.folder import RunFolder
from sweep.records.reporter import Reporter, SearchProgress
from sweep.running.runner import save_tables
from sweep.running.snapshot_files import SnapshotFiles
from sweep.search.occupancy import Occupancy
from sweep.search.optuna_storage import open_storage
from sweep.search.proposals import Proposals
from sweep.search.requests import Inbox
from sweep.search.samplers import sampler_of
from sweep.search.search import Search
from sweep.search.snapshot import capture
from sweep.side_networks.spec import SideNetworkSpec
from sweep.study.budget import Budget
from sweep.study.declaration import Study
from sweep.study.finding import load_study
from sweep.study.shape import Shape
from sweep.training.lane_stack import StackSetting
from sweep.workers.patience import Patience
from sweep.workers.shares import Shares
from sweep.workers.training import TrainingOnWorkers

CPU = torch.device("cpu")
FEWEST_LANES, FACTOR = 256, 4
STORAGES = ("memory", "journal")
WIDTH, N_STAGES, TOKENS, N_CLASSES, N_IMAGES = 8, 3, 2, 8, 16
"""A small side-network: the driver never looks into weights, and snapshots keep to their share of the time."""

PARTS = {
    "asks": "ask Optuna for configurations, and drop repeats",
    "entering": "open records, set attributes of trials, and place them",
    "sending": "choose workers, and pack what they are to do",
    MESSAGES: "unpack what workers answer",
    "log": "record metrics and learning curves",
    "comparing": "compare trials with the baseline",
    "reports": "report values to Optuna",
    "rungs": "decide at rungs",
    "tells": "tell Optuna how trials ended",
    "weights": "find the best trials, and fetch their weights",
    "progress": "count trials for the progress bar",
    "saving": "write tables and snapshots",
    "rest": "all else",
}
"""What the driver does in an epoch."""


@dataclass(frozen=True)
class WorkerSizes:
    """The sizes of the benchmark.

    Attributes:
        n_workers: Number of simulated workers.
        n_parallel: Largest number of lanes. Smaller numbers are measured first, from `FEWEST_LANES` on.
        epochs: Epochs that each search is measured for.
        n_val_images: Images of the validation set, for which workers send answers.
    """

    n_workers: int = 64
    n_parallel: int = 16384
    epochs: int = 6
    n_val_images: int = 200

    @property
    def lanes(self) -> list[int]:
        """The numbers of lanes to measure."""
        lanes, n_lanes = [], min(FEWEST_LANES, self.n_parallel)
        while n_lanes < self.n_parallel:
            lanes.append(n_lanes)
            n_lanes *= FACTOR
        return [*lanes, self.n_parallel]


@dataclass(frozen=True)
class DriverEpoch:
    """What the driver did in an epoch.

    Attributes:
        n_lanes: Lanes in training.
        n_new: Trials that began.
        n_ended: Trials that ended.
        seconds: Seconds by part, see `PARTS`.
    """

    n_lanes: int
    n_new: int
    n_ended: int
    seconds: dict[str, float]


@dataclass(frozen=True)
class WorkerPoint:
    """A measured search.

    Attributes:
        storage: Where Optuna keeps the trials, one of `STORAGES`.
        n_lanes: Number of lanes.
        epochs: What the driver did, epoch by epoch.
        bytes_per_epoch: Size of all messages, divided by the number of epochs.
    """

    storage: str
    n_lanes: int
    epochs: list[DriverEpoch]
    bytes_per_epoch: float

    @property
    def seconds(self) -> dict[str, float]:
        """Mean seconds of an epoch by part."""
        return {part: sum(epoch.seconds[part] for epoch in self.epochs) / len(self.epochs) for part in PARTS}

    @property
    def first_seconds(self) -> float:
        """Seconds of the first epoch, in which all lanes are filled."""
        return sum(self.epochs[0].seconds.values())


class _EnoughError(Exception):
    """Ends a search that has been measured."""


def run_worker_benchmark(sizes: WorkerSizes, say: Callable[[str], None]) -> Iterator[WorkerPoint]:
    """Measure every number of lanes with every kind of storage.

    Args:
        sizes: The sizes of the benchmark.
        say: Called with messages about the progress.
    """
    optuna.logging.set_verbosity(optuna.logging.WARNING)
    for n_lanes in sizes.lanes:
        for storage in STORAGES:
            point = _measured(n_lanes, storage, sizes)
            say(f"{n_lanes} lanes, {storage}: {sum(point.seconds.values()):.3f} s an epoch")
            yield point


def _measured(n_lanes: int, storage: str, sizes: WorkerSizes) -> WorkerPoint:
    stopwatch, epochs = Stopwatch(), list[DriverEpoch]()
    pool = SimulatedPool(sizes.n_workers, sizes.n_val_images, stopwatch)

    class Laps(Reporter):
        n_new = n_ended = n_lanes = 0

        def epoch_started(self, n_lanes: int, trials_a_step: float) -> None:
            self.n_lanes = n_lanes

        def epoch_ended(self, progress: SearchProgress) -> None:
            seconds = stopwatch.lap()
            n_all, n_ended = len(search.ledger.log.records), progress.n_complete + progress.n_pruned + progress.n_failed
            by_part = {part: seconds.get(part, 0.0) for part in PARTS}
            epochs.append(DriverEpoch(self.n_lanes, n_all - self.n_new, n_ended - self.n_ended, by_part))
            self.n_new, self.n_ended = n_all, n_ended
            if len(epochs) == sizes.epochs:
                raise _EnoughError

    study = load_study("lr_rank").study.override(task="classes", trials=sizes.epochs * n_lanes, rank_buckets=(8,))
    with tempfile.TemporaryDirectory() as name, _storage(storage, Path(name)) as (opened, folder):
        search = _search(study, n_lanes, opened, folder, pool, Laps())
        _time(search, stopwatch)
        try:
            with stopwatch.timing("rest"):
                search.run()
        except _EnoughError:
            pass
    return WorkerPoint(storage, n_lanes, epochs, pool.sent_bytes / len(epochs))


@contextmanager
def _storage(kind: str, path: Path) -> Iterator[tuple[BaseStorage, RunFolder]]:
    folder = RunFolder(path)
    yield (InMemoryStorage() if kind == "memory" else open_storage(None, folder)), folder


def _search(
    study: Study, n_lanes: int, storage: BaseStorage, folder: RunFolder, pool: SimulatedPool, reporter: Reporter
) -> Search:
    sampler = sampler_of(study)
    optuna_study = optuna.create_study(storage=storage, study_name="bench", direction="maximize", sampler=sampler)
    rng = np.random.default_rng(0)
    stages = rng.normal(size=(N_IMAGES, N_STAGES, TOKENS, WIDTH)).astype(np.float16)
    data = StageData(stages, torch.from_numpy(rng.integers(0, N_CLASSES, N_IMAGES)), N_CLASSES)

    def setting_of(shape: Shape) -> StackSetting:
        spec = SideNetworkSpec(
            width=WIDTH,
            n_stages=N_STAGES,
            n_classes=N_CLASSES,
            n_prefix_tokens=1,
            modules_per_block=1,
            pool="mean",
            max_rank=shape.padded_rank,
        )
        return StackSetting.of(study, spec, TOKENS, data, data)

    trainer = TrainingOnWorkers(
        setting_of, pool, Shares(PlentyOfMemory(), n_lanes), patience=Patience(600.0), on_message=reporter.message
    )
    snapshots = SnapshotFiles(folder.snapshots_path, reporter.message)
    return Search(
        Proposals(optuna_study, study, sampler),
        Occupancy(study, setting_of, trainer, n_parallel=n_lanes, device=CPU),
        budget=Budget(),
        reporter=reporter,
        inbox=Inbox(folder),
        save_tables=lambda search: save_tables(folder, search),
        save_snapshot=lambda search: snapshots.write(capture(search)),
    )


def _time(search: Search, stopwatch: Stopwatch) -> None:
    """Have a stopwatch count what the parts of a search do."""
    ledger = search.ledger
    methods: list[tuple[object, str, str]] = [
        (search.admission, "fill", "entering"),
        (search.proposals, "next", "asks"),
        (search, "_train_epoch", "sending"),
        (ledger.log, "measured", "log"),
        (ledger, "report", "reports"),
        (search, "_compare_with_baseline", "comparing"),
        (search, "_end_trials", "tells"),
        (search, "_keep_weights", "weights"),
        (ledger, "progress", "progress"),
        (search, "_save", "saving"),
    ]
    if search.rungs is not None:
        methods.append((search, "_stopped_at_rungs", "rungs"))
    for owner, name, part in methods:
        stopwatch.time_method(owner, name, part)
