"""Print a suite's table to a terminal: tasks, means over groups, the mean over tasks, and published results."""

import math
from pathlib import Path
from typing import TYPE_CHECKING

from rich.console import Console
from rich.markup import escape
from rich.table import Table

from sweep.tasks.kinds import CLASSES, TaskKind
from sweep.terminal.console import printable

if TYPE_CHECKING:  # PyTorch takes seconds to import
    from sweep.records.suite_results import SuiteResults

PER_CENT = 100


def show_suite(console: Console, results: "SuiteResults", folder: Path) -> None:
    """Print one row per task, then the means. Each kind of task has tables of its own, because its metrics differ.

    Args:
        console: The terminal to print to.
        results: The results of the suite.
        folder: The suite's folder.
    """
    from sweep.data.suites import PACKAGED_SUITES

    for kind in results.kinds or (CLASSES,):
        _show_tasks(console, results, kind)
        if len(results.of_kind(kind)):
            _show_means(console, results, kind)
    if results.missing:
        reasons = "; ".join(f"{name} ({reason})" for name, reason in results.missing.items())
        console.print(f"tasks that were not found: {printable(reasons)}", highlight=False, markup=False, soft_wrap=True)
    if results.suite in PACKAGED_SUITES:
        console.print("These images are not those of VTAB.", highlight=False)
    console.print(f"results:   sweep results {folder}", highlight=False, soft_wrap=True)
    console.print(f"           sweep results {folder}/TASK", highlight=False, soft_wrap=True)


def _show_tasks(console: Console, results: "SuiteResults", kind: TaskKind) -> None:
    from sweep.data.suites import VTAB
    from sweep.records.published import PUBLISHED_LAST

    of_kind = results.of_kind(kind)
    n_tasks, n_all = len(of_kind), len(results.tasks) + len(results.missing)
    of_all = f"{n_tasks} of its {n_all} tasks" if n_tasks < n_all else f"{n_tasks} tasks"
    published, score = results.suite == VTAB, kind.score
    table = Table(
        title=f"{printable(results.suite)}, {of_all}: {_heading(kind)}; chosen on val, trained again on train and val, "
        "tested once",
        title_justify="left",
    )
    for heading in ("group", "task"):
        table.add_column(heading)
    columns = ["trial", "size", "val", "test", "probe val", "probe test", *(["LAST, published"] if published else [])]
    for heading in columns:
        table.add_column(heading, justify="right", no_wrap=True)
    for row in of_kind.to_dict("records"):
        test = _shown(row[f"winner_test_{score}"], kind)
        if row[f"winner_test_{score}_std"]:
            test += f" ± {_shown(row[f'winner_test_{score}_std'], kind)}"
        cells = [
            f"{row['winner_trial']:.0f}",
            f"{row['winner_parameters']:,.0f}",
            _shown(row[f"winner_val_{score}"], kind),
            test,
            _shown(row[f"linear_probe_val_{score}"], kind),
            _shown(row[f"linear_probe_test_{score}"], kind),
            *([f"{PUBLISHED_LAST[row['task']]:.1f}" if row["task"] in PUBLISHED_LAST else "-"] if published else []),
        ]
        table.add_row(escape(printable(row["group"])), escape(printable(row["task"])), *cells)
    console.print(table)


def _show_means(console: Console, results: "SuiteResults", kind: TaskKind) -> None:
    from sweep.data.suites import VTAB
    from sweep.records.published import PUBLISHED

    groups = results.of_kind(kind)["group"].unique().tolist()
    table = Table(title=f"means on test, {_heading(kind)}", title_justify="left")
    table.add_column("")
    for heading in (*groups, "group mean", "flat mean"):
        table.add_column(escape(printable(str(heading))), justify="right")
    for name, method in (("winner", "winner"), ("linear probe", "linear_probe")):
        column = f"{method}_test_{kind.score}"
        of_groups = results.group_means(column)
        values = [*(of_groups.get(group, math.nan) for group in groups), *results.means(column)]
        table.add_row(name, *(_shown(value, kind) for value in values))
    if results.suite == VTAB:
        for row in PUBLISHED:
            size = "" if row.parameters is None else f", {row.parameters:g} M"
            flat = "-" if row.flat_mean is None else f"{row.flat_mean:.2f}"
            table.add_row(f"{row.method}{size}, published", *["-"] * len(groups), f"{row.group_mean:.2f}", flat)
    console.print(table)


def _heading(kind: TaskKind) -> str:
    return f"{kind.metrics[kind.score]}{' (%)' if kind is CLASSES else ''}"


def _shown(score: float, kind: TaskKind) -> str:
    """Format a score; top-1 in per cent, as in the literature."""
    return f"{PER_CENT * score:.1f}" if kind is CLASSES else f"{score:.3f}"
