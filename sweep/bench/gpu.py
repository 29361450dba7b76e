"""All that the first hour with a GPU should measure: correctness, then speed, then how far lanes scale."""

import gc
import time
from collections.abc import Callable
from dataclasses import asdict, dataclass, field, replace
from typing import Any

import torch

from sweep.bench.adapters import has_peft
from sweep.bench.gpu_checks import Check, run_checks
from sweep.bench.graphed import GRAPHS, GraphedRow
from sweep.bench.measure import Spread, fastest_direct_lanes, time_rows
from sweep.bench.rows import ROWS, STACKED, Row, SweepRow
from sweep.bench.workload import LADDER_SIZES, Sizes, Workload, synchronise
from sweep.machine.memory import is_out_of_memory
from sweep.training.graphs import WARM_UP_STEPS

TIMED = ("sequential", "sequential_cached", "vmap_direct", "sweep", "lora")


@dataclass(frozen=True)
class GpuSizes:
    """The sizes of the suite.

    Attributes:
        device: PyTorch's name of the device.
        speeds: By name, what is timed with all rows.
        scaled: What is timed with more and more lanes.
        most_lanes: The largest number of lanes.
        slowest_step_seconds: A step of this time ends the scaling.
        scaling_seconds: So does this time in all.
        speeds_until_seconds: Workloads whose turn comes later than this after the start are not timed.
    """

    device: str = "cuda"
    speeds: dict[str, Sizes] = field(
        default_factory=lambda: {
            "ViT-S/14, 112 px, LAST": Sizes(),
            "ViT-S/14, 112 px, ladder": Sizes(**LADDER_SIZES),
            "ViT-B/16, 224 px, LAST": Sizes(backbone="untrained:vit_base_patch16_224", image_size=224),
        }
    )
    scaled: Sizes = field(default_factory=Sizes)
    most_lanes: int = 16384
    slowest_step_seconds: float = 2.0
    scaling_seconds: float = 90.0
    speeds_until_seconds: float = 330.0


@dataclass(frozen=True)
class Speed:
    """One row of one workload.

    Attributes:
        workload: Its name.
        row: Name of the row.
        n_lanes: Configurations that one step trains.
        step_seconds: Seconds of a step, per configuration.
        ratio_to_sequential: Steps per second of a configuration, relative to the row `sequential`.
    """

    workload: str
    row: str
    n_lanes: int
    step_seconds: Spread
    ratio_to_sequential: Spread


@dataclass(frozen=True)
class Scale:
    """One number of lanes.

    Attributes:
        n_lanes: `N`.
        step_seconds: Seconds of a step of all lanes.
        peak_memory_bytes: PyTorch's peak on the GPU; 0 on a CPU.
    """

    n_lanes: int
    step_seconds: float
    peak_memory_bytes: int


@dataclass
class GpuBenchmark:
    """What was measured so far.

    Attributes:
        checks: Comparisons of trained weights.
        speeds: Rows of all workloads.
        not_timed: Names of the workloads for which no time was left.
        scaling: Numbers of lanes.
        scaling_ended: Why there are not more.
    """

    checks: list[Check] = field(default_factory=list)
    speeds: list[Speed] = field(default_factory=list)
    not_timed: list[str] = field(default_factory=list)
    scaling: list[Scale] = field(default_factory=list)
    scaling_ended: str = ""


def run_gpu_benchmark(
    sizes: GpuSizes, save: Callable[[GpuBenchmark], None], say: Callable[[str], None]
) -> GpuBenchmark:
    """Measure all of it.

    Args:
        sizes: How much.
        save: Called with the results so far, after each part.
        say: Called with messages about the progress.
    """
    benchmark, began = GpuBenchmark(), time.perf_counter()
    save(benchmark)
    benchmark.checks = run_checks(sizes.device, say)
    save(benchmark)
    for name, of_workload in sizes.speeds.items():
        if time.perf_counter() - began > sizes.speeds_until_seconds:
            benchmark.not_timed.append(name)
            say(f"{name} is not timed: {sizes.speeds_until_seconds:g} s were over before its turn")
            continue
        benchmark.speeds += _speeds(name, replace(of_workload, device=sizes.device), say)
        save(benchmark)
    _scale(sizes, benchmark, say)
    save(benchmark)
    return benchmark


def _speeds(name: str, sizes: Sizes, say: Callable[[str], None]) -> list[Speed]:
    workload = Workload.of_backbone(sizes)
    names = [row for row in TIMED if row != "lora" or has_peft()]
    n_lanes = {row: sizes.n_parallel if row in STACKED else 1 for row in names}
    n_lanes["vmap_direct"] = fastest_direct_lanes(workload, sizes.n_parallel)
    rows: dict[str, Row] = {row: ROWS[row][1](workload, n_lanes[row]) for row in names}
    if (graphed := _graphed(workload, say)) is not None:
        rows[GRAPHS], n_lanes[GRAPHS] = graphed, graphed.n_lanes
    seconds = time_rows(rows, workload.device)
    found = []
    for row in rows:
        ratios = [a / b for a, b in zip(seconds["sequential"], seconds[row], strict=True)]
        found.append(Speed(name, row, n_lanes[row], Spread.of(seconds[row]), Spread.of(ratios)))
        say(f"{name}, {row}: {1e3 * found[-1].step_seconds.median:.2f} ms, {Spread.of(ratios).median:.1f} x sequential")
    return found


def _graphed(workload: Workload, say: Callable[[str], None]) -> GraphedRow | None:
    """The row with CUDA graphs after its recording; None if CUDA cannot record it."""
    row = GraphedRow(workload, workload.sizes.n_parallel)
    try:
        for _ in range(WARM_UP_STEPS + 1):
            row.step()
    except RuntimeError as error:
        say(f"CUDA graphs cannot be measured: {error}")
        return None
    return row


def _scale(sizes: GpuSizes, benchmark: GpuBenchmark, say: Callable[[str], None]) -> None:
    """Double the lanes until a limit is reached."""
    began, n_lanes = time.perf_counter(), sizes.scaled.n_parallel
    device = torch.device(sizes.device)
    workload = Workload.of_backbone(replace(sizes.scaled, device=sizes.device))
    while not benchmark.scaling_ended:
        try:
            benchmark.scaling.append(_scaled(workload, n_lanes, device))
        except (RuntimeError, MemoryError) as error:
            if not is_out_of_memory(error):
                raise
            benchmark.scaling_ended = f"{n_lanes} lanes do not fit in memory"
            break
        point = benchmark.scaling[-1]
        say(f"{n_lanes} lanes: {1e3 * point.step_seconds:.1f} ms a step, {point.peak_memory_bytes / 2**30:.2f} GiB")
        n_lanes *= 2
        if n_lanes > sizes.most_lanes:
            benchmark.scaling_ended = f"{sizes.most_lanes} lanes are the most that are tried"
        elif point.step_seconds > sizes.slowest_step_seconds:
            benchmark.scaling_ended = f"a step took more than {sizes.slowest_step_seconds:g} s"
        elif time.perf_counter() - began > sizes.scaling_seconds:
            benchmark.scaling_ended = f"{sizes.scaling_seconds:g} s were over"


def _scaled(workload: Workload, n_lanes: int, device: torch.device) -> Scale:
    gc.collect()
    if device.type == "cuda":
        torch.cuda.empty_cache()
        torch.cuda.reset_peak_memory_stats(device)
    row = SweepRow(replace(workload, sizes=replace(workload.sizes, n_parallel=n_lanes)), n_lanes)
    row.step()
    synchronise(device)
    started = time.perf_counter()
    row.step()
    synchronise(device)
    seconds = time.perf_counter() - started
    return Scale(n_lanes, seconds, torch.cuda.max_memory_allocated(device) if device.type == "cuda" else 0)


def gpu_json(benchmark: GpuBenchmark) -> dict[str, Any]:
    """Return everything measured so far."""
    return {**asdict(benchmark), "checks": [{**asdict(check), "kept": check.kept} for check in benchmark.checks]}
