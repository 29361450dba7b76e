"""The suites of `sweep bench` that are not in `bench_parts.py`: how they are run and shown, and what is recorded."""

from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any

from sweep.terminal.console import stdout

if TYPE_CHECKING:  # PyTorch takes seconds to import
    from sweep.bench.workload import Sizes


def _proposals(asked: dict[str, Any], device: str, say: Callable[[str], None]) -> dict[str, Any]:
    from sweep.bench.proposals import ProposalSizes, run_proposal_benchmark
    from sweep.bench.search_report import proposals_json, show_proposals

    sizes = ProposalSizes(**{name: value for name, value in asked.items() if value is not None}, device=device)
    outcomes = run_proposal_benchmark(sizes, say)
    show_proposals(stdout, outcomes, sizes)
    return proposals_json(outcomes, sizes)


def _shapes(asked: dict[str, Any], device: str, say: Callable[[str], None]) -> dict[str, Any]:
    from sweep.bench.search_report import shapes_json, show_shapes
    from sweep.bench.shapes import ShapeSizes, run_shape_benchmark

    sizes = ShapeSizes(**{name: value for name, value in asked.items() if value is not None}, device=device)
    benchmark = run_shape_benchmark(sizes, say)
    show_shapes(stdout, benchmark, sizes)
    return shapes_json(benchmark, sizes)


def _busy(asked: dict[str, Any], device: str, say: Callable[[str], None]) -> dict[str, Any]:
    from sweep.bench.busy import BusySizes, run_busy_benchmark
    from sweep.bench.search_report import busy_json, show_busy

    sizes = BusySizes(**{name: value for name, value in asked.items() if value is not None}, device=device)
    rows = run_busy_benchmark(sizes, say)
    show_busy(stdout, rows, sizes)
    return busy_json(rows, sizes)


def run_rows(sizes: "Sizes", say: Callable[[str], None]) -> dict[str, Any]:
    """Run the suite `quick` or `paper`, and return what its file holds."""
    from sweep.bench.measure import run_benchmark
    from sweep.bench.report import benchmark_json, show_benchmark
    from sweep.bench.workload import Workload

    benchmark = run_benchmark(Workload.of_backbone(sizes), say)
    show_benchmark(stdout, benchmark, sizes)
    return benchmark_json(benchmark, sizes)


def run_scaling_suite(sizes: "Sizes", plot: Path | None, json_file: Path | None, say: Callable[[str], None]) -> None:
    """Run the suite `scaling`; its file is written after every point."""
    from sweep.bench.report import scaling_json, show_scaling, write_json, write_plot
    from sweep.bench.scaling import Point, run_scaling

    points: list[Point] = []

    def save() -> None:
        if json_file is not None:
            write_json(json_file, scaling_json(points, sizes))

    save()
    for point in run_scaling(sizes, say):
        points.append(point)
        save()
    show_scaling(stdout, points)
    if plot is not None:
        write_plot(plot, points)


def run_search_suite(
    asked: dict[str, Any], time: str | None, device: str, plot: Path | None, say: Callable[[str], None]
) -> dict[str, Any]:
    """Run the suite `search`, and return what its file holds."""
    from sweep.bench.report import search_json, show_search, write_search_plot
    from sweep.bench.search import SearchSizes, run_search_benchmark
    from sweep.study.budget import parse_duration

    given = {name: value for name, value in asked.items() if value is not None}
    if time is not None:
        given["wall_seconds"] = parse_duration(time)
    sizes = SearchSizes(**given, device=device)
    benchmark = run_search_benchmark(sizes, say)
    show_search(stdout, benchmark, sizes)
    if plot is not None:
        write_search_plot(plot, benchmark, sizes)
    return search_json(benchmark, sizes)


SHIPPED_STUDIES = {"proposals": _proposals, "shapes": _shapes, "busy": _busy}
"""Suites that run a study that comes with sweep, and need no other options."""
