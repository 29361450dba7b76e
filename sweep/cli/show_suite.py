"""A suite's table for a terminal: tasks, the groups' means, the flat mean, and published rows beside."""

from pathlib import Path
from typing import TYPE_CHECKING

from rich.console import Console
from rich.markup import escape
from rich.table import Table

from sweep.cli.console import printable

if TYPE_CHECKING:  # PyTorch takes seconds to import
    from sweep.suite_results import SuiteResults

PER_CENT = 100


def show_suite(console: Console, results: "SuiteResults", folder: Path) -> None:
    """Print one row a task, then the means.

    Args:
        console: Where to.
        results: What was found.
        folder: Where it is.
    """
    from sweep.data.suites import VTAB
    from sweep.published import PUBLISHED_LAST

    n_tasks, n_missing = len(results.tasks), len(results.missing)
    of_all = f"{n_tasks} of its {n_tasks + n_missing} tasks" if n_missing else f"{n_tasks} tasks"
    published = results.suite == VTAB
    table = Table(
        title=f"{printable(results.suite)}, {of_all}: top-1 (%); chosen on val, trained again on train and val, "
        "tested once",
        title_justify="left",
    )
    for heading in ("group", "task"):
        table.add_column(heading)
    columns = ["trial", "size", "val", "test", "probe val", "probe test", *(["LAST, published"] if published else [])]
    for heading in columns:
        table.add_column(heading, justify="right", no_wrap=True)
    for row in results.tasks.to_dict("records"):
        test = _per_cent(row["winner_test_top1"])
        if row["winner_test_top1_std"]:
            test += f" ± {_per_cent(row['winner_test_top1_std'])}"
        cells = [
            f"{row['winner_trial']:.0f}",
            f"{row['winner_parameters']:,.0f}",
            _per_cent(row["winner_val_top1"]),
            test,
            _per_cent(row["linear_probe_val_top1"]),
            _per_cent(row["linear_probe_test_top1"]),
            *([f"{PUBLISHED_LAST[row['task']]:.1f}" if row["task"] in PUBLISHED_LAST else "-"] if published else []),
        ]
        table.add_row(escape(printable(row["group"])), escape(printable(row["task"])), *cells)
    console.print(table)
    if n_tasks:
        _show_means(console, results, published)
    if n_missing:
        reasons = "; ".join(f"{name} ({reason})" for name, reason in results.missing.items())
        console.print(f"not here: {printable(reasons)}", highlight=False, markup=False, soft_wrap=True)
    if not published:
        console.print("The images are not VTAB's.", highlight=False)
    console.print(f"results:   sweep results {folder}", highlight=False, soft_wrap=True)
    console.print(f"           sweep results {folder}/TASK", highlight=False, soft_wrap=True)


def _show_means(console: Console, results: "SuiteResults", published: bool) -> None:
    from sweep.published import PUBLISHED

    groups = list(results.group_means("winner_test_top1").index)
    table = Table(title="means on test", title_justify="left")
    table.add_column("")
    for heading in (*groups, "group mean", "flat mean"):
        table.add_column(escape(printable(str(heading))), justify="right")
    for name, column in (("winner", "winner_test_top1"), ("linear probe", "linear_probe_test_top1")):
        of_groups = results.group_means(column)
        table.add_row(name, *(_per_cent(of_groups[group]) for group in groups), *map(_per_cent, results.means(column)))
    if published:
        for row in PUBLISHED:
            size = "" if row.parameters is None else f", {row.parameters:g} M"
            flat = "-" if row.flat_mean is None else f"{row.flat_mean:.2f}"
            table.add_row(f"{row.method}{size}, published", *["-"] * len(groups), f"{row.group_mean:.2f}", flat)
    console.print(table)


def _per_cent(share: float) -> str:
    return f"{PER_CENT * share:.1f}"
