"""Measures the benefit of a sampler that learns: the study `lr_rank` as declared against random search.

Both arms train the same number of lane-epochs (epochs of one lane) on the same cached features. Seeds change the search
and the initialisations; the data order is always the same. The winner is chosen on the validation set, and evaluated on
the test set once per arm and seed.
"""

import math
import statistics
from collections.abc import Callable
from dataclasses import dataclass, replace

import optuna
import torch

from sweep.bench.in_memory import in_memory_search
from sweep.machine.device import device_named
from sweep.machine.paths import default_cache_dir
from sweep.records.reporter import Reporter
from sweep.running.preparation import prepare
from sweep.running.settings import ShapeSettings
from sweep.study.declaration import Study
from sweep.study.finding import load_study
from sweep.training.stack import Stack, split_logits

LEARNING, RANDOM = "rungs, refill and a sampler that learns", "random search, every trial to its end"


@dataclass(frozen=True)
class ProposalSizes:
    """The sizes of the benchmark.

    Attributes:
        data: Names of the data sets.
        image_size: Side of the backbone's input in pixels; None for the study's own.
        n_parallel: Number of lanes.
        epochs: Epochs of a trial that no rung stops.
        n_seeds: Number of searches of each arm on each data set.
        device: PyTorch's name of the device.
    """

    data: tuple[str, ...] = ("count", "mnist", "glyph-font")
    image_size: int | None = None
    n_parallel: int = 32
    epochs: int = 12
    n_seeds: int = 10
    device: str = "cpu"


@dataclass(frozen=True)
class SearchOutcome:
    """The result of one search.

    Attributes:
        data: Name of the data set.
        arm: Name of the arm.
        seed: Seed of the study.
        val: Top-1 accuracy of the winner on the validation set.
        test: Top-1 accuracy of the winner on the test set.
        n_trials: Number of trials that were proposed.
        lane_epochs: Number of epochs of all trials together.
    """

    data: str
    arm: str
    seed: int
    val: float
    test: float
    n_trials: int
    lane_epochs: int


@dataclass(frozen=True)
class Advantage:
    """The advantage of the learning sampler on one data set: mean paired differences over seeds.

    Attributes:
        data: Name of the data set.
        val: Mean difference in top-1 accuracy on the validation set.
        val_error: Its standard error.
        test: Mean difference in top-1 accuracy on the test set.
        test_error: Its standard error.
    """

    data: str
    val: float
    val_error: float
    test: float
    test_error: float


def run_proposal_benchmark(sizes: ProposalSizes, say: Callable[[str], None]) -> list[SearchOutcome]:
    """Run both arms with every seed on every data set; the arms take turns.

    Args:
        sizes: The sizes of the benchmark.
        say: Called with messages about the progress.
    """
    optuna.logging.set_verbosity(optuna.logging.WARNING)
    outcomes = []
    device = device_named(sizes.device)
    for name in sizes.data:
        study = load_study("lr_rank").study.override(data=name, image_size=sizes.image_size, epochs=sizes.epochs)
        cache_dir = default_cache_dir()
        prepared = prepare(study, n_parallel=sizes.n_parallel, device=device, cache_dir=cache_dir)
        settings = ShapeSettings(prepared, cache_dir, Reporter(), lambda source: None)
        settings.compute(prepared.shape)
        for seed in range(sizes.n_seeds):
            learning = replace(prepared.study, seed=seed)
            first = _searched(name, LEARNING, learning, settings, sizes.n_parallel, device)
            trials = round(first.lane_epochs / sizes.epochs)
            at_random = replace(learning, halving=None, sampler="random", trials=trials)
            second = _searched(name, RANDOM, at_random, settings, sizes.n_parallel, device)
            for outcome in (first, second):
                outcomes.append(outcome)
                say(
                    f"{name}, seed {seed}, {outcome.arm}: val {outcome.val:.3f}, test {outcome.test:.3f}; "
                    f"{outcome.n_trials} trials, {outcome.lane_epochs} lane-epochs"
                )
    return outcomes


def advantages(outcomes: list[SearchOutcome]) -> list[Advantage]:
    """The advantage of the learning sampler, by data set."""
    found = []
    for data in dict.fromkeys(outcome.data for outcome in outcomes):
        by_arm = [[o for o in outcomes if o.data == data and o.arm == arm] for arm in (LEARNING, RANDOM)]
        pairs = list(zip(*by_arm, strict=True))
        val, val_error = _mean([mine.val - other.val for mine, other in pairs])
        test, test_error = _mean([mine.test - other.test for mine, other in pairs])
        found.append(Advantage(data, val, val_error, test, test_error))
    return found


def _mean(values: list[float]) -> tuple[float, float]:
    error = statistics.stdev(values) / math.sqrt(len(values)) if len(values) > 1 else math.nan
    return statistics.fmean(values), error


def _searched(
    data: str, arm: str, study: Study, settings: ShapeSettings, n_parallel: int, device: torch.device
) -> SearchOutcome:
    search = in_memory_search(study, settings, n_parallel=n_parallel, device=device, reporter=Reporter())
    search.run()
    winner = search.winner
    assert winner is not None
    module = winner.spec.plain(winner.config.rank)
    module.load_state_dict(winner.state)
    test = settings.splits(search.lanes.shape(winner.config)).test
    assert test is not None
    of_test = test.target.measure_one(split_logits(Stack([module.to(device)]), test)[0], test.labels)
    records = search.ledger.log.records
    lane_epochs = sum(record.epochs for record in records)
    return SearchOutcome(
        data, arm, study.seed, winner.record.metrics["val_top1"], of_test["top1"], len(records), lane_epochs
    )
