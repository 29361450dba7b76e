"""The accuracy suite as a table and as JSON, and what an interrupted one has written."""

import json
from dataclasses import asdict
from pathlib import Path
from typing import Any

from rich.console import Console
from rich.table import Table
from rich.text import Text

from sweep.bench.accuracy_results import FAMILY_STUDY, LAST, AccuracyBenchmark, AccuracyRow, AccuracySizes
from sweep.bench.report import circumstances, size_text
from sweep.errors import UsageError
from sweep.study.finding import load_study


def _accuracy_common(sizes: AccuracySizes) -> dict[str, Any]:
    studies = {"study": sizes.study, "family_study": FAMILY_STUDY}
    return {**{key: load_study(name).study.declarations() for key, name in studies.items()}, **circumstances(sizes)}


def accuracy_json(benchmark: AccuracyBenchmark, sizes: AccuracySizes) -> dict[str, Any]:
    """Return every row of the accuracy suite so far, and how methods compare. Keys do not change."""
    comparisons = benchmark.comparisons()
    return {
        **asdict(benchmark),
        "against": {other: asdict(comparison) for mine, other, comparison in comparisons if mine == LAST},
        "comparisons": [{"method": mine, "with": other, **asdict(c)} for mine, other, c in comparisons],
        **_accuracy_common(sizes),
    }


def measured_rows(path: Path, sizes: AccuracySizes) -> list[AccuracyRow]:
    """Read the rows that an interrupted accuracy suite has written to a file; none if there is no file.

    Raises:
        UsageError: The file has other contents, or was measured with other sizes, versions or another machine.
    """
    if not path.exists():
        return []
    common = json.loads(json.dumps(_accuracy_common(sizes)))
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
        rows = [AccuracyRow.of(row) for row in content["rows"]]
        same = all(content[name] == value for name, value in common.items())
    except (OSError, ValueError, KeyError, TypeError, RecursionError) as error:
        raise UsageError(
            f"{path} is not a report of --suite accuracy: {error}; choose another file with --json"
        ) from error
    if not same:
        raise UsageError(
            f"{path} was measured with other sizes or another study, on another machine or with other versions; "
            f"choose another file with --json, or use what it was started with"
        )
    return rows


def show_accuracy(console: Console, benchmark: AccuracyBenchmark, sizes: AccuracySizes) -> None:
    """Print one line for each task and method, and how the methods compare."""
    backbone = sizes.backbone or load_study(sizes.study).study.backbone
    size = f" at {sizes.image_size} px" if sizes.image_size else ""
    table = Table(
        title=f"{sizes.suite}, {backbone}{size}, {sizes.epochs} epochs ({sizes.family_epochs} of other families than "
        "last): top-1 (%); chosen on val, trained again on train and val, tested once",
        caption=f"± standard error over test {sizes.kind}; in brackets the standard deviation over trainings; class "
        "mean: the mean over classes of the share that is right",
    )
    for column in ("group", "task", "method"):
        table.add_column(column)
    for column in ("tried", "val", "test", "class mean", "parameters", "s to tune", "peak memory"):
        table.add_column(column, justify="right", no_wrap=True)
    tasks = [row.task for row in benchmark.rows]
    for row in sorted(benchmark.rows, key=lambda row: tasks.index(row.task)):
        spread = "" if row.test_top1_std is None else f" ({100 * row.test_top1_std:.1f})"
        table.add_row(
            Text(row.group),
            Text(row.task),
            row.method,
            str(row.n_configurations),
            f"{100 * row.val_top1:.1f}",
            f"{100 * row.test_top1:.1f} ± {100 * row.test_standard_error:.1f}{spread}",
            "–" if row.test_mean_class_accuracy is None else f"{100 * row.test_mean_class_accuracy:.1f}",
            f"{row.trainable_parameters:,}",
            f"{row.tune_seconds:.0f}",
            size_text(row.peak_memory_bytes),
        )
    console.print(table)
    for mine, other, comparison in benchmark.comparisons():
        groups = ", ".join(f"{group} {points:+.1f}" for group, points in comparison.group_points.items())
        console.print(
            f"{mine} compared with {other}, {len(comparison.tasks)} tasks: {comparison.points:+.1f} points on test "
            f"({groups}); "
            f"{other} took {comparison.tune_seconds_ratio:.2g} times as long to tune",
            highlight=False,
            markup=False,
        )
