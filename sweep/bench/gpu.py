"""All that the first hour with a GPU should measure: correctness, then speed, then how far lanes scale.

It is made for a device that nobody has tried: what fails is written down with its error, and the rest goes on.
"""

import time
from collections.abc import Callable
from dataclasses import asdict, dataclass, field, replace
from typing import Any

import torch

from sweep.bench.gpu_checks import Check, in_a_line, run_checks
from sweep.bench.gpu_speeds import Speed, free_memory, speeds_of
from sweep.bench.rows import SweepRow
from sweep.bench.workload import LADDER_SIZES, Sizes, Workload, synchronise
from sweep.machine.memory import is_out_of_memory

SCALING = "scaling"


@dataclass(frozen=True)
class GpuSizes:
    """The sizes of the suite.

    Attributes:
        device: PyTorch's name of the device.
        speeds: By name, what is timed with all rows.
        scaled: What is timed with more and more lanes.
        most_lanes: The largest number of lanes.
        slowest_step_seconds: A step of this time ends the scaling.
        checks_until_seconds: Comparisons whose turn comes later than this after the start are not made.
        speeds_until_seconds: Rows whose turn comes later than this after the start are not timed.
        scaling_seconds: Numbers of lanes that would take the scaling beyond this time are not tried.
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
    checks_until_seconds: float = 200.0
    speeds_until_seconds: float = 330.0
    scaling_seconds: float = 120.0


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
        not_timed: Names of the workloads and rows for which no time was left.
        failed: Workloads, rows and `scaling` if they failed, each with the error in one line.
        scaling: Numbers of lanes.
        scaling_ended: Why there are not more.
    """

    checks: list[Check] = field(default_factory=list)
    speeds: list[Speed] = field(default_factory=list)
    not_timed: list[str] = field(default_factory=list)
    failed: dict[str, str] = field(default_factory=dict)
    scaling: list[Scale] = field(default_factory=list)
    scaling_ended: str = ""

    @property
    def complaints(self) -> list[str]:
        """What is not as it should be, a line each."""
        broken = [f"not kept: {check.in_words}" for check in self.checks if not check.kept]
        return [*broken, *(f"failed: {name}: {reason}" for name, reason in self.failed.items())]


def run_gpu_benchmark(
    sizes: GpuSizes, save: Callable[[GpuBenchmark], None], say: Callable[[str], None]
) -> GpuBenchmark:
    """Measure all of it.

    Args:
        sizes: How much.
        save: Called with the results so far, after each comparison, workload and number of lanes.
        say: Called with messages about the progress.
    """
    benchmark, began = GpuBenchmark(), time.perf_counter()
    save(benchmark)
    for check in run_checks(sizes.device, began + sizes.checks_until_seconds):
        benchmark.checks.append(check)
        say(check.in_words)
        save(benchmark)
    until = began + sizes.speeds_until_seconds
    for name, of_workload in sizes.speeds.items():
        if time.perf_counter() > until:
            benchmark.not_timed.append(name)
            continue
        try:
            found = speeds_of(name, replace(of_workload, device=sizes.device), until, say)
        except Exception as error:  # whatever a device that was never tried may raise
            benchmark.failed[name] = in_a_line(error)
            say(f"{name} failed: {in_a_line(error)}")
        else:
            benchmark.speeds += found.speeds
            benchmark.failed |= found.failed
            benchmark.not_timed += found.not_timed
        save(benchmark)
    if benchmark.not_timed:
        say(f"not timed, as {sizes.speeds_until_seconds:g} s were over: {'; '.join(benchmark.not_timed)}")
    try:
        _scale(sizes, benchmark, save, say)
    except Exception as error:
        benchmark.failed[SCALING] = in_a_line(error)
        say(f"{SCALING} failed: {in_a_line(error)}")
    save(benchmark)
    return benchmark


def _scale(
    sizes: GpuSizes, benchmark: GpuBenchmark, save: Callable[[GpuBenchmark], None], say: Callable[[str], None]
) -> None:
    """Double the lanes until a limit is reached."""
    began, n_lanes = time.perf_counter(), sizes.scaled.n_parallel
    device = torch.device(sizes.device)
    workload = Workload.of_backbone(replace(sizes.scaled, device=sizes.device))
    while not benchmark.scaling_ended:
        begun = time.perf_counter()
        try:
            benchmark.scaling.append(_scaled(workload, n_lanes, device))
        except (RuntimeError, MemoryError) as error:
            if not is_out_of_memory(error):
                raise
            benchmark.scaling_ended = f"{n_lanes} lanes do not fit in memory"
            break
        ended = time.perf_counter()
        point = benchmark.scaling[-1]
        say(f"{n_lanes} lanes: {1e3 * point.step_seconds:.1f} ms a step, {point.peak_memory_bytes / 2**30:.2f} GiB")
        save(benchmark)
        n_lanes *= 2
        if n_lanes > sizes.most_lanes:
            benchmark.scaling_ended = f"{sizes.most_lanes} lanes are the most that are tried"
        elif point.step_seconds > sizes.slowest_step_seconds:
            benchmark.scaling_ended = f"a step took more than {sizes.slowest_step_seconds:g} s"
        elif ended - began + 2 * (ended - begun) > sizes.scaling_seconds:  # twice the lanes take twice as long
            benchmark.scaling_ended = f"{n_lanes} lanes would have taken longer than {sizes.scaling_seconds:g} s in all"


def _scaled(workload: Workload, n_lanes: int, device: torch.device) -> Scale:
    free_memory(device)
    if device.type == "cuda":
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
