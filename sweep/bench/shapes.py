"""Compares rank buckets with padding to the largest rank, and proposals that fill stacks with plain proposals."""

import time
from collections.abc import Callable
from dataclasses import dataclass, replace

import optuna
import torch

from sweep.bench.in_memory import in_memory_search
from sweep.bench.measure import Spread
from sweep.machine.device import device_named
from sweep.machine.paths import default_cache_dir
from sweep.records.reporter import Reporter, SearchProgress
from sweep.running.preparation import Prepared, prepare, side_network_spec
from sweep.running.settings import ShapeSettings
from sweep.side_networks.cost import rank_buckets
from sweep.study.declaration import Study
from sweep.study.finding import load_study
from sweep.study.lane_config import LaneConfig
from sweep.study.shape import padded_rank
from sweep.training.engine import Lane, Training
from sweep.training.parts import in_parts, train_epoch

RANKS = (2, 4, 8, 32)
REPETITIONS = 3


@dataclass(frozen=True)
class ShapeSizes:
    """The sizes of the benchmark.

    Attributes:
        image_size: Side of the backbone's input in pixels.
        n_parallel: Number of lanes.
        trials: Number of trials of each search of `which_layers`.
        epochs: Epochs of a trial that no rung stops.
        n_seeds: Number of searches of each arm.
        device: PyTorch's name of the device.
    """

    image_size: int = 112
    n_parallel: int = 32
    trials: int = 72
    epochs: int = 12
    n_seeds: int = 5
    device: str = "cpu"


@dataclass(frozen=True)
class FillingRun:
    """The result of one search of `which_layers`.

    Attributes:
        seed: Seed of the study.
        filled: Whether proposals filled stacks.
        configs_per_hour: Number of trials divided by the hours of the whole search.
        best: By number of ended trials, the best top-1 on the validation set among complete trials at that point.
    """

    seed: int
    filled: bool
    configs_per_hour: float
    best: list[tuple[int, float]]


@dataclass(frozen=True)
class ShapeBenchmark:
    """The results of the benchmark.

    Attributes:
        buckets: The rank buckets.
        bucket_speedup: Configurations per hour with rank buckets, divided by those with all lanes padded to the largest
            rank.
        runs: Searches of `which_layers`, with and without proposals that fill stacks.
        filling_speedup: For each seed, configurations per hour with proposals that fill stacks, divided by those
            without.
    """

    buckets: tuple[int, ...]
    bucket_speedup: Spread
    runs: list[FillingRun]
    filling_speedup: Spread


def run_shape_benchmark(sizes: ShapeSizes, say: Callable[[str], None]) -> ShapeBenchmark:
    """Run both comparisons; the arms take turns.

    Args:
        sizes: The sizes of the benchmark.
        say: Called with messages about the progress.
    """
    optuna.logging.set_verbosity(optuna.logging.WARNING)
    buckets, bucket_speedup = _buckets_against_padding(sizes, say)
    runs = []
    study = load_study("which_layers").study.override(
        image_size=sizes.image_size, trials=sizes.trials, epochs=sizes.epochs
    )
    prepared, settings = _prepared(study, sizes)
    for seed in range(sizes.n_seeds):
        for filled in (True, False):
            run = _searched(replace(prepared, study=replace(prepared.study, seed=seed)), settings, sizes, filled)
            runs.append(run)
            how = "filled stacks" if filled else "stacks as they fall"
            say(f"which_layers, seed {seed}, {how}: {run.configs_per_hour:.0f} an hour, best {run.best[-1][1]:.3f}")
    of_arm = [[run.configs_per_hour for run in runs if run.filled == filled] for filled in (True, False)]
    speedup = Spread.of([mine / other for mine, other in zip(*of_arm, strict=True)])
    return ShapeBenchmark(buckets, bucket_speedup, runs, speedup)


def _prepared(study: Study, sizes: ShapeSizes) -> tuple[Prepared, ShapeSettings]:
    cache_dir = default_cache_dir()
    prepared = prepare(
        study,
        n_parallel=sizes.n_parallel,
        device=device_named(sizes.device),
        cache_dir=cache_dir,
    )
    settings = ShapeSettings(prepared, cache_dir, Reporter(), lambda source: None)
    settings.compute(prepared.shape)
    return prepared, settings


def _buckets_against_padding(sizes: ShapeSizes, say: Callable[[str], None]) -> tuple[tuple[int, ...], Spread]:
    """Time one epoch of lanes of all `RANKS` in equal shares, in one stack per bucket and in one padded stack."""
    study = load_study("lr_rank").study.override(image_size=sizes.image_size)
    prepared, settings = _prepared(study, sizes)
    own, tokens = prepared.study_of_shape, prepared.backbone.tokens

    def work(rank: int) -> float:
        return side_network_spec(own, prepared.data, prepared.backbone, rank).lane_work(tokens)

    buckets = rank_buckets(dict.fromkeys(RANKS, 1), prepared.spec.stack_work(tokens), work)
    ranks = [RANKS[lane % len(RANKS)] for lane in range(sizes.n_parallel)]
    arms = {"buckets": buckets, "padding": (max(RANKS),)}
    stacks = {name: _stacks(ranks, edges, prepared, settings) for name, edges in arms.items()}
    ratios = []
    for order in range(1, REPETITIONS + 2):  # the first compiles kernels
        seconds = {
            name: sum(train_epoch(stack, order).wall_seconds for stack in of_arm) for name, of_arm in stacks.items()
        }
        if order > 1:
            ratios.append(seconds["padding"] / seconds["buckets"])
            in_buckets, padded = seconds["buckets"], seconds["padding"]
            say(f"ranks {RANKS}: {in_buckets:.2f} s an epoch in buckets {buckets}, {padded:.2f} s padded")
    return buckets, Spread.of(ratios)


def _stacks(
    ranks: list[int], edges: tuple[int, ...], prepared: Prepared, settings: ShapeSettings
) -> list[list[Training]]:
    """One stack for each bucket of ranks, in the parts that train at the same time."""
    own, splits = prepared.study_of_shape, settings.splits(prepared.shape)
    stacks = []
    for edge in edges:
        spec = side_network_spec(own, prepared.data, prepared.backbone, edge)
        lanes = [
            Lane(LaneConfig(lr=1e-3, rank=rank), spec.lane(rank, seed), seed)
            for seed, rank in enumerate(ranks)
            if padded_rank(rank, edges) == edge
        ]
        stacks.append(
            [
                Training(
                    part, splits.train, splits.val, n_epochs=REPETITIONS + 1, batch_size=own.batch_size, seed=own.seed
                )
                for part in in_parts(lanes, splits.train, prepared.device)
            ]
        )
    return stacks


def _searched(prepared: Prepared, settings: ShapeSettings, sizes: ShapeSizes, filled: bool) -> FillingRun:
    study = prepared.study
    best: list[tuple[int, float]] = []

    class Curve(Reporter):
        def epoch_ended(self, progress: SearchProgress) -> None:
            records = search.ledger.log.records
            complete = [r.metrics["val_top1"] for r in records if r.state == "COMPLETE"]
            if complete:
                best.append((sum(r.state != "RUNNING" for r in records), max(complete)))

    device = torch.device(sizes.device)
    search = in_memory_search(study, settings, n_parallel=sizes.n_parallel, device=device, reporter=Curve())
    if not filled:
        search.admission.filling.enough = lambda shape: 0
    started = time.perf_counter()
    search.run()
    seconds = time.perf_counter() - started
    return FillingRun(study.seed, filled, 3600 * len(search.ledger.log.records) / seconds, best)
