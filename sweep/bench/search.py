"""Measure the best accuracy against time: sweep with and without rungs, and Optuna with one trial at a time.

All arms search the space of `studies/lr_rank.py` on the same cached features, for the same wall time, in turns.
"""

import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from functools import partial

import numpy as np
import optuna
import torch
from torch import Tensor, nn
from torch.optim.lr_scheduler import LambdaLR

from sweep.bench.in_memory import in_memory_search
from sweep.bench.measure import Spread
from sweep.features.batches import StageData, n_batches, training_batches
from sweep.features.cache import compute_features
from sweep.machine.paths import default_cache_dir
from sweep.machine.seeds import derive_seed
from sweep.records.reporter import Reporter, SearchProgress
from sweep.running.preparation import prepare
from sweep.side_networks.spec import SideNetworkSpec
from sweep.study.budget import Budget
from sweep.study.declaration import Study
from sweep.study.finding import load_study
from sweep.study.halving import Halving
from sweep.study.lane_config import LaneConfig
from sweep.study.shape import Shape
from sweep.tasks.lane_losses import LaneLosses
from sweep.training.lane_stack import StackSetting
from sweep.training.schedule import schedule_factors
from sweep.training.stack import EVALUATION_BATCH_SIZE

MANY_TRIALS = 10_000
"""More trials than any arm can train in its time."""

RUNGS = Halving(eta=3, first_rung=1)
WITH_RUNGS, OPTUNA = "sweep, rungs and refill", "Optuna, TPE and median pruner, one at a time"


@dataclass(frozen=True)
class SearchSizes:
    """The sizes of the search benchmark.

    Attributes:
        image_size: Side of the backbone's input in pixels.
        n_parallel: Lanes in the arms of sweep.
        epochs: Epochs of every trial.
        wall_seconds: Time for every arm and seed.
        n_seeds: How many seeds each arm runs with.
        device: PyTorch's name of the device.
    """

    image_size: int = 56
    n_parallel: int = 16
    epochs: int = 6
    wall_seconds: float = 75.0
    n_seeds: int = 5
    device: str = "cpu"


@dataclass(frozen=True)
class ArmRun:
    """The result of one arm with one seed.

    Attributes:
        best: Pairs of seconds and the best val top-1 among the trials complete by then, for each time it rose.
        n_complete: Trials that were trained to their last epoch.
        n_pruned: Trials that were stopped before it.
        n_started: Trials that were started, including those that had not ended when the time was over.
        wall_seconds: How long the arm ran.
        occupied_share: Share of the lanes that had a trial; 1 for one trial at a time.
    """

    best: list[tuple[float, float]]
    n_complete: int
    n_pruned: int
    n_started: int
    wall_seconds: float
    occupied_share: float

    @property
    def complete_per_hour(self) -> float:
        """Configurations trained to their last epoch, per hour."""
        return 3600 * self.n_complete / self.wall_seconds

    @property
    def started_per_hour(self) -> float:
        """Configurations started, per hour."""
        return 3600 * self.n_started / self.wall_seconds

    def at(self, seconds: float) -> float:
        """Return the best val top-1 by then; 0 before a trial is complete."""
        return max((value for when, value in self.best if when <= seconds), default=0.0)

    def seconds_to(self, value: float) -> float:
        """Return when the best score reached a value; infinite if it did not."""
        return min((when for when, best in self.best if best >= value), default=float("inf"))


@dataclass(frozen=True)
class SearchBenchmark:
    """The results of the search benchmark.

    Attributes:
        arms: The runs of each arm by name, one for each seed.
        speedup_over_optuna: For each seed, the time of the sequential Optuna arm, divided by the seconds in which
            `sweep` with rungs reached that arm's final accuracy; 0 if it never did.
    """

    arms: dict[str, list[ArmRun]]
    speedup_over_optuna: Spread


@dataclass(frozen=True)
class _Task:
    """What all arms share."""

    sizes: SearchSizes
    study: Study
    spec: SideNetworkSpec
    tokens: int
    train_data: StageData
    val_data: StageData
    device: torch.device


class _Stopwatch(Reporter):
    """Records the best complete trial whenever it changes."""

    def __init__(self) -> None:
        self.started = time.perf_counter()
        self.best: list[tuple[float, float]] = []
        self.last: SearchProgress | None = None

    def note(self, value: float) -> None:
        """Record that a trial is complete."""
        if not self.best or value > self.best[-1][1]:
            self.best.append((time.perf_counter() - self.started, value))

    def epoch_ended(self, progress: SearchProgress) -> None:
        """See `Reporter`."""
        self.last = progress
        if progress.n_complete and progress.best is not None:
            self.note(progress.best)


def run_search_benchmark(sizes: SearchSizes, say: Callable[[str], None]) -> SearchBenchmark:
    """Run every arm with every seed; the arms take turns.

    Args:
        sizes: The sizes of the benchmark.
        say: Called with messages about the progress.
    """
    study = load_study("lr_rank").study.override(image_size=sizes.image_size, epochs=sizes.epochs)
    device = torch.device(sizes.device)
    prepared = prepare(study, n_parallel=sizes.n_parallel, device=device, cache_dir=default_cache_dir())
    splits = []
    for split in (prepared.data.train, prepared.data.val):
        features = compute_features(prepared.backbone, split, cache_dir=default_cache_dir(), device=device)
        in_memory = np.array(features.stages)  # all arms read from memory
        splits.append(StageData(in_memory, features.labels, prepared.data.n_classes))
    train_data, val_data = splits
    arms: dict[str, Callable[[_Task], ArmRun]] = {
        WITH_RUNGS: partial(_sweep, halving=RUNGS),
        "sweep, no rungs": partial(_sweep, halving=None),
        OPTUNA: partial(_sequential, prunes=True),
        "random search, one at a time": partial(_sequential, prunes=False),
    }
    runs: dict[str, list[ArmRun]] = {name: [] for name in arms}
    shortest = replace(prepared.study, trials=1, epochs=1)
    first = _Task(sizes, shortest, prepared.spec, prepared.backbone.tokens, train_data, val_data, device)
    _sweep(first, halving=None)  # kernels are compiled once for all runs on a machine
    for seed in range(sizes.n_seeds):
        task = replace(first, study=replace(prepared.study, seed=seed, trials=MANY_TRIALS))
        for name, arm in arms.items():
            run = arm(task)
            runs[name].append(run)
            say(
                f"seed {seed}, {name}: val top-1 {run.at(sizes.wall_seconds):.3f} after {sizes.wall_seconds:g} s; "
                f"{run.n_complete} trials complete ({run.complete_per_hour:.0f} an hour), {run.n_pruned} pruned, "
                f"{run.n_started} started ({run.started_per_hour:.0f} an hour), lanes occupied {run.occupied_share:.1%}"
            )
    speedups = [
        sizes.wall_seconds / mine.seconds_to(other.at(sizes.wall_seconds))
        for mine, other in zip(runs[WITH_RUNGS], runs[OPTUNA], strict=True)
    ]
    return SearchBenchmark(runs, Spread.of(speedups))


def _sweep(task: _Task, *, halving: Halving | None) -> ArmRun:
    """Do what `sweep run` does between computing the features and tuning the linear probe."""
    optuna.logging.set_verbosity(optuna.logging.WARNING)
    study = replace(task.study, halving=halving)

    def setting_of(shape: Shape) -> StackSetting:
        spec = replace(task.spec, max_rank=shape.padded_rank)
        return StackSetting.of(study, spec, task.tokens, task.train_data, task.val_data)

    stopwatch = _Stopwatch()
    search = in_memory_search(
        study,
        setting_of,
        n_parallel=task.sizes.n_parallel,
        device=task.device,
        reporter=stopwatch,
        budget=Budget(wall_seconds=task.sizes.wall_seconds),
    )
    search.run()
    last = stopwatch.last
    n_complete, n_pruned = (last.n_complete, last.n_pruned) if last else (0, 0)
    n_started = len(search.ledger.log.records)
    return ArmRun(stopwatch.best, n_complete, n_pruned, n_started, search.wall_seconds, search.lanes.occupied_share)


def _sequential(task: _Task, *, prunes: bool) -> ArmRun:
    """Train one trial at a time in a plain PyTorch loop over the cached features. An unfinished last trial is lost.

    Args:
        task: What all arms share.
        prunes: Whether to use TPE with Optuna's own pruner, measured on val after every epoch. Otherwise the search is
            random and measures each trial once.
    """
    optuna.logging.set_verbosity(optuna.logging.WARNING)
    seed = derive_seed(task.study.seed, "sampler") % 2**32
    sampler = optuna.samplers.TPESampler(seed=seed) if prunes else optuna.samplers.RandomSampler(seed=seed)
    pruner = optuna.pruners.MedianPruner() if prunes else optuna.pruners.NopPruner()
    study = optuna.create_study(direction="maximize", sampler=sampler, pruner=pruner)
    study.enqueue_trial(dict(task.study.baseline))
    stopwatch, n_complete, n_pruned = _Stopwatch(), 0, 0
    while True:
        trial = study.ask()
        config = task.study.lane_config(trial)
        module = task.spec.plain(config.rank)
        module.load_state_dict(_start_of(task, config, trial.number))
        value, pruned = 0.0, False
        for epoch in _epochs(module.to(task.device), config, task):
            if (seconds := time.perf_counter() - stopwatch.started) > task.sizes.wall_seconds:
                return ArmRun(stopwatch.best, n_complete, n_pruned, trial.number + 1, seconds, 1.0)
            if prunes or epoch == task.study.epochs:
                value = _top1(module, task.val_data)
            if prunes:
                trial.report(value, epoch)
                pruned = epoch < task.study.epochs and trial.should_prune()
            if pruned:
                break
        if pruned:
            n_pruned += 1
            study.tell(trial, state=optuna.trial.TrialState.PRUNED)
            continue
        n_complete += 1
        study.tell(trial, value)
        stopwatch.note(value)


def _start_of(task: _Task, config: LaneConfig, number: int) -> dict[str, Tensor]:
    """Set the initial weights that a lane of sweep would have."""
    lane = replace(task.spec, max_rank=config.rank).lane(
        config.rank, derive_seed(task.study.seed, "initialisation", number)
    )
    return lane.state_dict()


def _epochs(module: nn.Module, config: LaneConfig, task: _Task) -> Iterator[int]:
    """Train a module, and yield after every epoch."""
    data, batch_size, n_epochs = task.train_data, task.study.batch_size, task.study.epochs
    steps_per_epoch = n_batches(len(data), batch_size)
    factors = schedule_factors([config], n_epochs * steps_per_epoch, steps_per_epoch)[:, 0].tolist()
    like = next(module.parameters())
    groups = []
    for name, parameter in module.named_parameters():
        decay = config.weight_decay if parameter.dim() > 1 else 0.0
        lr = config.lr * (config.head_lr_ratio if name.startswith("head.") else 1)
        groups.append({"params": [parameter], "lr": lr, "weight_decay": decay})
    optimizer = torch.optim.AdamW(groups, betas=(config.beta1, config.beta2), eps=config.eps)
    scheduler = LambdaLR(optimizer, lambda step: factors[min(step, len(factors) - 1)])
    losses_of = LaneLosses([config], data.class_counts.to(task.device), like.dtype, len(data))
    for epoch in range(1, n_epochs + 1):
        for indices in training_batches(len(data), batch_size, task.study.seed, epoch):
            stages, labels = data.batch(indices, like)
            loss = losses_of(module(stages)[None], labels).sum()
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
            scheduler.step()
        yield epoch


@torch.no_grad()
def _top1(module: nn.Module, data: StageData) -> float:
    like = next(module.parameters())
    n_correct = 0
    for indices in torch.arange(len(data)).split(EVALUATION_BATCH_SIZE):
        stages, labels = data.batch(indices, like)
        n_correct += int((module(stages).argmax(-1) == labels).sum())
    return n_correct / len(data)
