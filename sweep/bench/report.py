"""Show a benchmark as a table, as JSON and as a plot."""

import json
from dataclasses import asdict
from pathlib import Path
from typing import Any, ClassVar, Protocol

import torch
from rich.console import Console
from rich.table import Table

from sweep.bench.machine import machine, versions
from sweep.bench.measure import Benchmark, Spread
from sweep.bench.profile import Part
from sweep.bench.scaling import Point, memory_of_further_lanes
from sweep.bench.search import SearchBenchmark, SearchSizes
from sweep.bench.workload import Sizes
from sweep.errors import SweepError
from sweep.machine.paths import write_atomically
from sweep.report.plots import write_figure

PLOT_COLOURS = ("#d62728", "#ff9896", "#1f77b4", "#7f7f7f")


class MeasuredSizes(Protocol):
    """The sizes of a suite, as a data class that names the device."""

    __dataclass_fields__: ClassVar[dict[str, Any]]

    @property
    def device(self) -> str:
        """PyTorch's name of the device."""
        ...


def circumstances(sizes: MeasuredSizes) -> dict[str, Any]:
    """What every report says beside its measurements: the sizes, the machine, and the versions of packages."""
    return {"sizes": asdict(sizes), "machine": machine(torch.device(sizes.device)), "versions": versions()}


def benchmark_json(benchmark: Benchmark, sizes: Sizes) -> dict[str, Any]:
    """Return everything that was measured. The keys `rows`, `ratios`, `machine` and `versions` do not change."""
    content = asdict(benchmark)
    content["ratios"] = {name: spread.median for name, spread in benchmark.ratios.items()}
    content["ratio_spreads"] = {name: asdict(spread) for name, spread in benchmark.ratios.items()}
    return {**content, **circumstances(sizes)}


def scaling_json(points: list[Point], sizes: Sizes) -> dict[str, Any]:
    """Return every point of the scaling suite, and how much memory each further lane adds."""
    memory = {name: asdict(further) for name, further in memory_of_further_lanes(points).items()}
    return {"scaling": [asdict(point) for point in points], "memory_of_further_lanes": memory, **circumstances(sizes)}


def write_json(path: Path, content: dict[str, Any]) -> None:
    """Write a report.

    Raises:
        SweepError: The file cannot be written.
    """
    try:
        write_atomically(path, lambda partial: partial.write_text(json.dumps(content, indent=2)))
    except OSError as error:
        raise SweepError(f"cannot write {path}: {error.strerror}; choose another file with --json") from error


def _spread(spread: Spread, digits: int = 1) -> str:
    return f"{spread.median:.{digits}f} ({spread.low:.{digits}f}–{spread.high:.{digits}f})"


def size_text(n_bytes: int | None) -> str:
    """A number of bytes as text; a dash if there is none."""
    if n_bytes is None:
        return "–"
    return f"{n_bytes / 2**30:.2f} GiB" if n_bytes >= 2**30 else f"{n_bytes / 2**20:.0f} MiB"


def show_benchmark(console: Console, benchmark: Benchmark, sizes: Sizes) -> None:
    """Print the table."""
    size = f"{sizes.image_size} px" if sizes.image_size else "its own image size"
    table = Table(
        title=f"{sizes.side_network} beside {sizes.backbone}, {size}, N={sizes.n_parallel}, r={sizes.rank}, "
        f"{sizes.epochs} epochs of {sizes.n_images} images",
        caption="medians (lowest–highest) of repetitions in turns",
    )
    columns = ("row", "what it is", "step ms", "s/config", "configs/h", "x sequential", "peak memory", "floor")
    for column in columns:
        table.add_column(column, justify="left" if column in columns[:2] else "right")
    for row in benchmark.rows:
        table.add_row(
            row.name,
            row.what,
            f"{1e3 * row.step_seconds.median:.1f}",
            f"{row.seconds_per_config:.1f}",
            f"{row.configs_per_hour:.1f}",
            "1" if row.ratio_to_sequential is None else _spread(row.ratio_to_sequential),
            size_text(row.peak_memory_bytes),
            f"{row.floor_share:.0%}",
        )
    console.print(table)
    for name, spread in benchmark.ratios.items():
        step = benchmark.step_ratios[name]
        console.print(
            f"sweep compared with {name}: {_spread(spread)} x configurations per hour; "
            f"{_spread(step)} x per training step",
            highlight=False,
        )
    memory = {row.name: row for row in benchmark.rows}
    for other in ("lora", "full_finetune"):
        if other in memory:
            ours, theirs = memory["sequential"], memory[other]
            time_share = ours.step_seconds.median / theirs.step_seconds.median
            shares = f"{time_share:.0%} of the time"
            if ours.peak_memory_bytes is not None and theirs.peak_memory_bytes is not None:
                shares += f", {ours.peak_memory_bytes / theirs.peak_memory_bytes:.0%} of the memory"
            console.print(
                f"one {sizes.side_network} configuration (sequential) compared with {other}: {shares}",
                highlight=False,
            )
    passed = benchmark.feature_pass
    console.print(
        f"feature pass: {passed.images_per_second:.1f} images/s, bare forward {passed.bare_images_per_second:.1f}, "
        f"share {_spread(Spread.of(passed.shares), 2)}; "
        f"matrix products {benchmark.gemm_flops_per_second / 1e9:.0f} GFLOP/s",
        highlight=False,
    )
    if benchmark.profile:
        console.print(
            "parts of a step of sweep, by PyTorch's profiler: " + _profile(benchmark.profile), highlight=False
        )
    for note in benchmark.notes:
        console.print(f"note: {note}", highlight=False)


def _profile(parts: list[Part]) -> str:
    """Format milliseconds per configuration, shares, and the rate of matrix products."""
    whole = sum(part.seconds for part in parts)
    rates = ["" if part.flops is None else f" at {part.flops / part.seconds / 1e9:.0f} GFLOP/s" for part in parts]
    return ", ".join(
        f"{part.name} {1e3 * part.seconds:.1f} ms{rate} ({part.seconds / whole:.0%})"
        for part, rate in zip(parts, rates, strict=True)
    )


def show_scaling(console: Console, points: list[Point]) -> None:
    """Print one line for each point."""
    table = Table(title="sweep, one training step", caption="medians (lowest–highest) of repetitions in turns")
    for column in ("varied", "N", "K", "r", "L", "D", "ms/lane", "MiB/lane", "x vmap_direct", "x sequential_cached"):
        table.add_column(column, justify="right")
    for point in points:
        table.add_row(
            point.varied,
            *map(str, (point.n_parallel, point.n_modules, point.rank, point.tokens, point.width)),
            f"{1e3 * point.step_seconds.median:.2f}",
            f"{point.peak_memory_bytes / point.n_parallel / 2**20:.0f}",
            _spread(point.ratio_to_vmap_direct),
            _spread(point.ratio_to_sequential_cached),
        )
    console.print(table)
    for name, memory in memory_of_further_lanes(points).items():
        console.print(
            f"{name}, up to {memory.n_lanes} lanes: {memory.bytes_per_lane / 2**20:.1f} MiB for each further lane",
            highlight=False,
        )


def search_json(benchmark: SearchBenchmark, sizes: SearchSizes) -> dict[str, Any]:
    """Return every run of every arm of the search suite, and its configurations per hour."""
    arms = {
        name: [
            {
                **asdict(run),
                "complete_per_hour": run.complete_per_hour,
                "started_per_hour": run.started_per_hour,
            }
            for run in runs
        ]
        for name, runs in benchmark.arms.items()
    }
    return {**asdict(benchmark), "arms": arms, **circumstances(sizes)}


def show_search(console: Console, benchmark: SearchBenchmark, sizes: SearchSizes) -> None:
    """Print one line for each arm."""
    table = Table(title=f"best val top-1 of complete trials after {sizes.wall_seconds:g} s, medians (lowest–highest)")
    shares = (0.1, 0.25, 0.5, 1)
    headings = [f"{share * sizes.wall_seconds:g} s" for share in shares]
    of_arm = ("complete", "pruned", "complete an hour", "started an hour", "lanes occupied")
    for column in ("arm", *headings, *of_arm):
        table.add_column(column, justify="right")
    for name, runs in benchmark.arms.items():
        best = [_spread(Spread.of([run.at(share * sizes.wall_seconds) for run in runs]), 3) for share in shares]
        numbers = ("n_complete", "n_pruned", "complete_per_hour", "started_per_hour")
        medians = [f"{Spread.of([getattr(run, n) for run in runs]).median:.0f}" for n in numbers]
        occupied = min(run.occupied_share for run in runs)
        table.add_row(name, *best, *medians, f"at least {occupied:.1%}")
    console.print(table)
    console.print(
        f"sweep with rungs was {_spread(benchmark.speedup_over_optuna)} times as fast as Optuna with one trial at a "
        f"time in reaching the final accuracy of the latter",
        highlight=False,
    )


def write_search_plot(path: Path, benchmark: SearchBenchmark, sizes: SearchSizes) -> None:
    """Plot the best val top-1 against seconds (median, lowest and highest over seeds), as an HTML file."""
    from plotly.graph_objects import Figure, Scatter

    figure = Figure()
    grid = [sizes.wall_seconds * i / 300 for i in range(301)]
    for (name, runs), colour in zip(benchmark.arms.items(), PLOT_COLOURS, strict=True):
        spreads = [Spread.of([run.at(seconds) for run in runs]) for seconds in grid]
        band = {"x": grid + grid[::-1], "y": [s.low for s in spreads] + [s.high for s in spreads[::-1]]}
        figure.add_trace(
            Scatter(**band, fill="toself", line={"width": 0}, fillcolor=colour, opacity=0.15, showlegend=False)
        )
        figure.add_trace(
            Scatter(x=grid, y=[s.median for s in spreads], name=name, line={"color": colour, "shape": "hv"})
        )
    figure.update_xaxes(title="seconds")
    figure.update_yaxes(title="best val top-1 of complete trials", rangemode="tozero")
    figure.update_layout(
        template="plotly_white", legend={"x": 0.98, "y": 0.02, "xanchor": "right", "yanchor": "bottom"}
    )
    write_figure(path, figure)


def write_plot(path: Path, points: list[Point]) -> None:
    """Plot configurations per hour and peak memory against `N`, as an HTML file that needs no network."""
    from plotly.graph_objects import Figure, Scatter
    from plotly.subplots import make_subplots

    of_n = [point for point in points if point.varied == "N"]
    lanes = [point.n_parallel for point in of_n]
    figure: Figure = make_subplots(specs=[[{"secondary_y": True}]])
    figure.add_trace(Scatter(x=lanes, y=[p.configs_per_hour for p in of_n], name="configurations per hour"))
    memory = [point.peak_memory_bytes / 2**30 for point in of_n]
    figure.add_trace(Scatter(x=lanes, y=memory, name="peak memory, GiB"), secondary_y=True)
    figure.update_xaxes(type="log", title="lanes, N", tickvals=lanes)
    figure.update_yaxes(rangemode="tozero")
    write_figure(path, figure)
