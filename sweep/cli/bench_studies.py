"""The suites of `sweep bench` that run a study that comes with sweep."""

from collections.abc import Callable
from typing import Any

from sweep.terminal.console import stdout


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


SHIPPED_STUDIES = {"proposals": _proposals, "shapes": _shapes, "busy": _busy}
"""Suites that run a study that comes with sweep, and need no other options."""
