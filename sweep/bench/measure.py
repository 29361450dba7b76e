"""Measure the rows of a benchmark in turns."""

import gc
import math
import statistics
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

import torch

from sweep.bench.memory import peak_memory_bytes
from sweep.bench.profile import Part, profile_step
from sweep.bench.rows import (
    ON_IMAGES,
    ROWS,
    SAME_WEIGHTS,
    STACKED,
    Row,
    SweepInParts,
    VmapDirect,
    names_of_rows,
)
from sweep.bench.same_weights import LARGEST_DIFFERENCE, weight_difference
from sweep.bench.workload import FeaturePass, Shape, Sizes, Workload, measure_feature_pass, synchronise
from sweep.errors import SweepError
from sweep.machine.precision import product_dtype

REPETITIONS = 5
FEWEST_REPETITIONS = 3
ENOUGH_SECONDS = 60
"""Once the rows have been repeated for this long, three repetitions are enough."""

DIRECT_LANES_BYTES = 9 * 2**30
"""`vmap_direct` gets at most as many lanes as need about this much memory."""


@dataclass(frozen=True)
class Spread:
    """Median and extremes of repeated measurements."""

    median: float
    low: float
    high: float

    @classmethod
    def of(cls, values: Sequence[float]) -> "Spread":
        """Summarise at least one value."""
        return cls(statistics.median(values), min(values), max(values))


@dataclass(frozen=True)
class Measured:
    """One row of the table.

    Attributes:
        name: Name of the row.
        what: Its description, in one line.
        n_lanes: Configurations that one measured step trains.
        step_seconds: Seconds of one step, for one configuration.
        seconds_per_config: Seconds of all steps of a configuration, with its share of the feature pass if the row reads
            the cache.
        configs_per_hour: 3600 divided by `seconds_per_config`.
        ratio_to_sequential: Ratio of configurations per hour to the row `sequential`, for each repetition.
        peak_memory_bytes: Peak memory of `n_lanes` lanes; None if the process that measures it failed.
        floor_share: Time that the useful FLOPs need at the machine's rate of matrix products, as a share of the step.
    """

    name: str
    what: str
    n_lanes: int
    step_seconds: Spread
    seconds_per_config: float
    configs_per_hour: float
    ratio_to_sequential: Spread | None
    peak_memory_bytes: int | None
    floor_share: float


@dataclass(frozen=True)
class Benchmark:
    """A finished benchmark.

    Attributes:
        rows: One row for each way of training.
        ratios: Configurations per hour of `sweep` divided by those of each row, for each repetition.
        step_ratios: Seconds of a training step of each row divided by those of `sweep`, per configuration.
        largest_weight_difference: Between the rows that train the same configurations; see `LARGEST_DIFFERENCE`.
        feature_pass: Throughput of the feature pass.
        gemm_flops_per_second: Rate of fp32 matrix products of size 2048, measured in this run.
        profile: The parts of a step of `sweep`; see `profile_step`.
        notes: Remarks to print below the table.
    """

    rows: list[Measured]
    ratios: dict[str, Spread]
    step_ratios: dict[str, Spread]
    largest_weight_difference: float
    feature_pass: FeaturePass
    gemm_flops_per_second: float
    profile: list[Part]
    notes: list[str]


def run_benchmark(workload: Workload, say: Callable[[str], None]) -> Benchmark:
    """Measure every row on one workload.

    Args:
        workload: The workload, with its backbone.
        say: Called with messages about the progress.

    Raises:
        SweepError: Two rows that should train the same weights do not.
    """
    sizes, notes = workload.sizes, []
    names = names_of_rows(workload)
    if "lora" not in names:
        notes.append('no lora row: peft is not installed (python -m pip install -e ".[bench]")')
    difference = weight_difference(workload)
    if difference > LARGEST_DIFFERENCE:
        raise SweepError(
            f"the rows {', '.join(SAME_WEIGHTS)} end at different weights: by {difference:.3g} of the distance "
            f"trained, where at most {LARGEST_DIFFERENCE} is rounding. This is a mistake in sweep; please report it"
        )
    say(f"the rows {', '.join(SAME_WEIGHTS)} train the same weights, to {difference:.1e} of the distance trained")
    gemm = gemm_flops_per_second(workload.device)
    rounded = product_dtype(sizes.precision)
    own_gemm = gemm if rounded is None else gemm_flops_per_second(workload.device, rounded)
    feature_pass = measure_feature_pass(workload)
    say(f"matrix products {gemm / 1e9:.0f} GFLOP/s; feature pass {feature_pass.images_per_second:.1f} images/s")

    n_lanes = {name: sizes.n_parallel if name in STACKED else 1 for name in names}
    n_lanes["vmap_direct"] = fastest_direct_lanes(workload, sizes.n_parallel)
    if n_lanes["vmap_direct"] < sizes.n_parallel:
        notes.append(
            f"vmap_direct trains {n_lanes['vmap_direct']} lanes at a time, with which it is fastest, one such stack "
            f"after the other; its memory is that of one"
        )
    notes.append(
        f"every row is measured on single steps of {sizes.batch_size} images, and scaled to the "
        f"{sizes.steps_per_config} steps of a configuration"
    )
    rows = {name: ROWS[name][1](workload, n_lanes[name]) for name in names}
    say("timing: " + ", ".join(names))
    seconds = time_rows(rows, workload.device)
    flops = {name: row.useful_flops / row.n_lanes for name, row in rows.items()}
    assert isinstance(rows["sweep"], SweepInParts)
    profile = profile_step(rows["sweep"])
    del rows
    gc.collect()  # a stack refers to itself, and the next processes need the memory

    feature_seconds = sizes.n_images / feature_pass.images_per_second
    share = {name: 0.0 if name in ON_IMAGES else feature_seconds / sizes.n_parallel for name in names}
    of_config = {name: [share[name] + sizes.steps_per_config * s for s in seconds[name]] for name in names}
    measured = []
    for name in names:
        say(f"memory: {name}")
        try:
            memory = peak_memory_bytes(name, n_lanes[name], sizes, workload.shape)
        except SweepError as error:
            memory = None
            notes.append(f"the peak memory of {name} was not measured: {error}")
        cost = statistics.median(of_config[name])
        step = Spread.of(seconds[name])
        measured.append(
            Measured(
                name,
                ROWS[name][0],
                n_lanes[name],
                step,
                cost,
                3600 / cost,
                None if name == "sequential" else _ratio(of_config["sequential"], of_config[name]),
                memory,
                flops[name] / (own_gemm if name == "sweep" else gemm) / step.median,
            )
        )
    others = [name for name in names if name != "sweep"]
    return Benchmark(
        measured,
        {name: _ratio(of_config[name], of_config["sweep"]) for name in others},
        {name: _ratio(seconds[name], seconds["sweep"]) for name in others},
        difference,
        feature_pass,
        gemm,
        profile,
        notes,
    )


def _ratio(theirs: Sequence[float], ours: Sequence[float]) -> Spread:
    return Spread.of([a / b for a, b in zip(theirs, ours, strict=True)])


def direct_lanes_that_fit(sizes: Sizes, shape: Shape) -> int:
    """Return how many lanes of `vmap_direct` fit in about `DIRECT_LANES_BYTES`, at least two.

    Each lane keeps about five fp32 streams of `(B, L, D)` per module.
    """
    stream_bytes = 4 * sizes.batch_size * shape.tokens * shape.width
    return max(2, DIRECT_LANES_BYTES // (5 * stream_bytes * (shape.n_stages - 1)))


def fastest_direct_lanes(workload: Workload, most: int) -> int:
    """Return the number of lanes with which a step of `vmap_direct` costs least per lane.

    A few lanes are best if their streams fit into a processor's caches, and many lanes if a GPU has to be kept busy.
    Two lanes, eight, and the largest allowed number are tried.
    """
    fit = direct_lanes_that_fit(workload.sizes, workload.shape)
    candidates = sorted({min(n_lanes, fit, most) for n_lanes in (2, 8, most)})
    if len(candidates) == 1:
        return candidates[0]
    seconds = {n: min(time_rows({"": VmapDirect(workload, n)}, workload.device, 2)[""]) for n in candidates}
    return min(candidates, key=seconds.__getitem__)


def time_rows(
    rows: Mapping[str, Row], device: torch.device, repetitions: int = REPETITIONS, until: float = math.inf
) -> dict[str, list[float]]:
    """Measure the seconds of a step per configuration: rows take turns, after one step to warm up.

    Args:
        rows: The rows by name.
        device: Their device.
        repetitions: How often each is measured.
        until: Reading of `time.perf_counter` after which no turn is begun but the first.
    """
    for row in rows.values():
        row.step()
    synchronise(device)
    seconds: dict[str, list[float]] = {name: [] for name in rows}
    began = time.perf_counter()
    for repetition in range(repetitions):
        if repetition >= FEWEST_REPETITIONS and time.perf_counter() - began > ENOUGH_SECONDS:
            break
        if repetition and time.perf_counter() > until:
            break
        for name, row in rows.items():
            started = time.perf_counter()
            row.step()
            synchronise(device)
            seconds[name].append((time.perf_counter() - started) / row.n_lanes)
    return seconds


def gemm_flops_per_second(device: torch.device, dtype: torch.dtype = torch.float32, n: int = 2048) -> float:
    """Measure this machine's rate of matrix products, the best of ten."""
    a, b = (torch.randn(n, n, device=device, dtype=dtype) for _ in range(2))
    best = float("inf")
    for _ in range(10):
        synchronise(device)
        started = time.perf_counter()
        a @ b
        synchronise(device)
        best = min(best, time.perf_counter() - started)
    return 2 * n**3 / best
