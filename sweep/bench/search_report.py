"""The suites `proposals`, `shapes` and `busy` as tables and as JSON."""

from collections.abc import Sequence
from dataclasses import asdict
from typing import Any

from rich.console import Console
from rich.table import Table

from sweep.bench.busy import BusyRow, BusySizes
from sweep.bench.measure import Spread
from sweep.bench.proposals import LEARNING, RANDOM, ProposalSizes, SearchOutcome, advantages
from sweep.bench.report import circumstances
from sweep.bench.shapes import ShapeBenchmark, ShapeSizes


def proposals_json(outcomes: list[SearchOutcome], sizes: ProposalSizes) -> dict[str, Any]:
    """Every search, and the advantage of the learning sampler by data set."""
    return {
        "searches": [asdict(outcome) for outcome in outcomes],
        "advantages": [asdict(advantage) for advantage in advantages(outcomes)],
        **circumstances(sizes),
    }


def show_proposals(console: Console, outcomes: list[SearchOutcome], sizes: ProposalSizes) -> None:
    """Print one row per data set."""
    table = Table(
        title=f"lr_rank, {sizes.n_seeds} searches an arm, the same number of lane-epochs in both arms",
        caption="means over searches ± standard error of the paired difference",
    )
    for column in (
        "data",
        "val, learning",
        "val, random",
        "difference",
        "test, learning",
        "test, random",
        "difference",
    ):
        table.add_column(column, justify="left" if column == "data" else "right")
    for gain in advantages(outcomes):
        means = [
            sum(getattr(o, split) for o in outcomes if (o.data, o.arm) == (gain.data, arm)) / sizes.n_seeds
            for split in ("val", "test")
            for arm in (LEARNING, RANDOM)
        ]
        table.add_row(
            gain.data,
            f"{means[0]:.3f}",
            f"{means[1]:.3f}",
            f"{gain.val:+.3f} ± {gain.val_error:.3f}",
            f"{means[2]:.3f}",
            f"{means[3]:.3f}",
            f"{gain.test:+.3f} ± {gain.test_error:.3f}",
        )
    console.print(table)


def shapes_json(benchmark: ShapeBenchmark, sizes: ShapeSizes) -> dict[str, Any]:
    """All measurements."""
    return {**asdict(benchmark), **circumstances(sizes)}


def show_shapes(console: Console, benchmark: ShapeBenchmark, sizes: ShapeSizes) -> None:
    """Print both ratios, and the searches with their results."""
    table = Table(title=f"{sizes.n_parallel} lanes, {sizes.image_size} px", caption="medians (lowest to highest)")
    table.add_column("what is compared")
    table.add_column("configurations an hour, ratio", justify="right")
    table.add_row(f"ranks in buckets {benchmark.buckets} against padding", _spread(benchmark.bucket_speedup))
    table.add_row("which_layers: filled stacks against stacks as they fall", _spread(benchmark.filling_speedup))
    console.print(table)
    for run in benchmark.runs:
        how = "filled stacks" if run.filled else "stacks as they fall"
        curve = ", ".join(f"{value:.3f} after {n}" for n, value in run.best[:: max(1, len(run.best) // 5)])
        console.print(f"seed {run.seed}, {how}: {run.configs_per_hour:.0f} an hour; best on val {curve} trials")


def busy_json(rows: Sequence[BusyRow], sizes: BusySizes) -> dict[str, Any]:
    """All measurements."""
    return {"rows": [asdict(row) for row in rows], **circumstances(sizes)}


def show_busy(console: Console, rows: Sequence[BusyRow], sizes: BusySizes) -> None:
    """Print the times with and without the other program."""
    table = Table(title=f"{sizes.image_size} px, {sizes.n_parallel} lanes", caption="medians (lowest to highest)")
    table.add_column("part of a run")
    for column in ("s, alone", "s, beside a program that keeps one core busy", "times as long"):
        table.add_column(column, justify="right")
    for row in rows:
        table.add_row(row.what, *(_spread(each) for each in (row.quiet_seconds, row.busy_seconds, row.slowdown)))
    console.print(table)


def _spread(spread: Spread) -> str:
    return f"{spread.median:.2f} ({spread.low:.2f} to {spread.high:.2f})"
