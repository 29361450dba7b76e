"""Print a run's tables and numbers to a terminal."""

import math
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

from rich.console import Console
from rich.markup import escape
from rich.table import Table

from sweep.machine.checked_files import require_entries
from sweep.records.entries import NUMBER, require_summary
from sweep.records.folder import RunFolder
from sweep.records.ranked_on import RankedOn
from sweep.records.results import PARAMETER_PREFIX, Results, parameter_columns
from sweep.records.tested import AGAIN, was_retrained, was_tested
from sweep.records.verdict import verdict
from sweep.study.budget import whole_seconds
from sweep.study.folds import recorded_folds, standard_error
from sweep.tasks.inputs import kind_of
from sweep.tasks.kinds import TaskKind
from sweep.terminal.console import printable

TOP = 10

UNTOLD_SECONDS = 10
"""Time that is not explained if it is at most this much: of a search beyond its plan, and of a run beside its parts."""

SLOW = 1.5
"""A search is called slow if it took so many times as long as planned. Plans are no better than that."""

TOKENS_OF = {"last": ", last token", "mean": ", mean of tokens"}
"""What a linear probe of a text decoder reads, by its pooling."""


def show_trials(console: Console, results: Results, limit: int = TOP) -> None:
    """Print trials, best first.

    Args:
        console: The terminal to print to.
        results: The results of a run.
        limit: The most rows to print.
    """
    trials, objectives, kind = results.trials, list(results.objectives), results.kind
    by = f"Pareto front over {', '.join(objectives)}" if len(objectives) > 1 else objectives[0]
    several = (trials[kind.std_column].notna()).any()
    folds, _ = recorded_folds(results.config)
    over = "error over folds" if folds else "deviation over the seeds of a configuration"
    spread = f"; ± is the standard {over}" if several else ""
    table = Table(title=f"trials, best first by {printable(by)} after the last epoch{spread}", title_justify="left")
    columns = {"trial": "trial", **{f"val_{name}": kind.metrics[name] for name in kind.shown}}
    columns |= {"trainable_parameters": "size"}
    columns |= {"effective_rank": "ranks left"} if "effective_rank" in trials else {}
    columns |= {name: name for name in objectives if name not in columns}
    if "front" in trials:
        columns = {"trial": "trial", "front": "front", **columns}
    for heading in columns.values():
        table.add_column(heading, justify="right", no_wrap=True)
    of = "" if kind.paired == kind.score else f"{kind.paired.replace('_', ' ')} "
    table.add_column(f"{of}vs baseline (95%)", justify="right", no_wrap=not of)
    table.add_column("configuration")
    parameters = parameter_columns(trials)
    whole = [name for name in parameters if _are_whole(trials[name])]
    for row in trials.head(limit).to_dict("records"):
        configuration = "  ".join(
            f"{name.removeprefix(PARAMETER_PREFIX)}={f'{row[name]:.0f}' if name in whole else _cell(row[name])}"
            for name in parameters
            if not _missing(row[name])
        )
        failure = f"\n[red]{escape(printable(row['failure']))}[/]" if row["failure"] else ""
        stopped = f"\n[dim]stopped {escape(printable(row['stopped']))}[/]" if row["stopped"] else ""
        if row["state"] == "RUNNING":
            stopped = f"\n[dim]in training, after epoch {row['epochs']:.0f}[/]"
        cells = {name: _cell(row[name]) for name in columns}
        if not _missing(row.get("front")):
            cells["front"] = f"{row['front']:.0f}"
        if not _missing(row[kind.std_column]):
            std = row[kind.std_column]
            cells[f"val_{kind.score}"] += f" ± {standard_error(std, folds) if folds else std:.3f}"
        shown = escape(printable(configuration)) + failure + stopped
        table.add_row(*cells.values(), _difference(row, kind), shown)
    console.print(table)
    if len(trials) > limit:
        console.print(f"and {len(trials) - limit} more", highlight=False)


def _are_whole(values: Iterable[Any]) -> bool:
    """Whether these are floats only because pandas has no other numbers beside missing values, such as ranks."""
    there = [value for value in values if not _missing(value)]
    return bool(there) and all(isinstance(value, float) and value.is_integer() for value in there)


def _difference(row: dict[Any, Any], kind: TaskKind) -> str:
    """Show the difference between a trial and the baseline, with its interval."""
    mean, low, high = (row[name] for name in kind.paired_columns)
    return "-" if row["trial"] == 0 or _missing(mean) else f"{mean:+.3f} ({low:+.3f}, {high:+.3f})"


def _missing(value: Any) -> bool:
    return value is None or (isinstance(value, float) and math.isnan(value))


def _cell(value: Any) -> str:
    if _missing(value):
        return "-"
    if isinstance(value, float):
        return f"{value:.3f}" if 0.01 <= abs(value) < 1000 or value == 0 else f"{value:.1e}"
    return f"{value:,}" if isinstance(value, int) and not isinstance(value, bool) else str(value)


def beside_plan(
    plan: Mapping[str, Any],
    seconds: float,
    lane_epochs: float,
    *,
    several_shapes: bool = False,
    compiling_seconds: float = 0.0,
    on_workers: bool = False,
) -> str:
    """Say how long a search took, beside its plan, and how much slower its lanes were. Short delays are not explained.

    Args:
        plan: The plan, as the summary of the run has it.
        seconds: The time that the search took.
        lane_epochs: Epochs of all lanes that were trained.
        several_shapes: Whether trials have several shapes.
        compiling_seconds: The part of `seconds` in which kernels were compiled. A plan does not have it.
        on_workers: Whether lanes trained on workers. A plan is for one process, so nothing is said about their speed.
    """
    planned_seconds = plan["search_wall_seconds"]
    if on_workers:
        one = f"in one process, the search was planned to take {whole_seconds(planned_seconds)}"
        return f"{one}; on workers it took {whole_seconds(seconds)}"
    planned = f"the search was planned to take {whole_seconds(planned_seconds)}"
    took = f"and took {whole_seconds(seconds)}"
    if compiling_seconds >= UNTOLD_SECONDS:
        took += f", {whole_seconds(compiling_seconds)} of them to compile kernels, which later runs use again"
        seconds -= compiling_seconds
    if several_shapes and plan.get("n_shapes", 1) == 1:  # by a version that planned for one shape
        return f"{planned}, if every trial had the baseline's shape, {took}"
    if min(planned_seconds, plan["lane_epochs"], lane_epochs) <= 0:
        return f"{planned} {took}"
    at_planned_speed = planned_seconds * lane_epochs / plan["lane_epochs"]
    if seconds >= SLOW * at_planned_speed and seconds - at_planned_speed >= UNTOLD_SECONDS:
        costly = ", or if the sampler prefers costly shapes" if several_shapes else ""
        return (
            f"{planned} {took}. An epoch of a lane took {seconds / at_planned_speed:.1f} times as long as planned, as "
            f"happens if other programs use the machine{costly}"
        )
    if seconds >= SLOW * planned_seconds and seconds - planned_seconds >= UNTOLD_SECONDS:
        ratio = lane_epochs / plan["lane_epochs"]
        return f"{planned} {took}, because lanes trained for {ratio:.1f} times as many epochs as planned"
    return f"{planned} {took}"


def features_beside_plan(plan: Mapping[str, Any], seconds: float, n_computed: int) -> str:
    """Say how much slower the feature pass was than planned; nothing if it was not.

    Args:
        plan: The plan, as the summary of the run has it. It is for one shape of trials, and for one process.
        seconds: The time that the features took.
        n_computed: Images or texts that were computed.
    """
    if min(plan["n_images_missing"], plan["feature_wall_seconds"], n_computed) <= 0:
        return ""
    planned_seconds = plan["feature_wall_seconds"] * n_computed / plan["n_images_missing"]
    if seconds < SLOW * planned_seconds or seconds - planned_seconds < UNTOLD_SECONDS:
        return ""
    return (
        f"the features took {seconds / planned_seconds:.1f} times as long as planned ({whole_seconds(seconds)} instead "
        f"of {whole_seconds(planned_seconds)}), as happens if other programs use the machine, or if the files take "
        f"long to read"
    )


def where_the_time_went(seconds: Mapping[str, float]) -> str:
    """Say how many seconds the parts of a run took.

    Args:
        seconds: Wall time by part, as `summary.json` has it. The total is that of the last process, so after
            `sweep resume` the search alone may have taken longer.
    """
    parts = {"features": "features", "search": "search", "linear_probe": "linear probe"}
    said = {label: f"{label} {seconds[name]:.1f}" for name, label in parts.items()}
    said["search"] += f" (training {seconds['training']:.1f})"
    rest = seconds["total"] - sum(seconds[name] for name in parts)
    if rest >= UNTOLD_SECONDS:
        said["rest"] = f"everything else {rest:.1f} (reading data, planning, compiling kernels)"
    return f"seconds: {', '.join(said.values())}, total {seconds['total']:.1f}"


def _read(probe: Mapping[str, Any]) -> str:
    """The stages that a linear probe reads, in words, and which tokens if there was a choice."""
    last = probe["stage"]
    first = last + 1 - (probe.get("head_stages") or 1)  # up to 0.9.0, it read one
    stages = f"stage {last}" if first == last else f"stages {first} to {last}"
    return stages + TOKENS_OF.get(probe.get("pool") or "", "")


def show_summary(console: Console, results: Results, run: Path) -> None:
    """Print the winner and the linear probe, where the time went, and where the results are."""
    summary = results.summary
    if summary:
        kind = results.kind
        folder = RunFolder(run)
        require_summary(folder, summary, kind, ())
        counted = dict.fromkeys(("plan.n_images_missing", "n_images_computed"), int)
        require_entries(folder.summary_path, summary, {"plan.feature_wall_seconds": NUMBER, **counted})
        images = {f"splits.{split}.images": int for split in ("train", "val")}
        require_entries(folder.config_path, results.config, {"epochs": int, **images})
        winner, probe = summary["winner"], summary["linear_probe"]
        ranked, n_test = RankedOn.recorded(results.config), summary["n_test_images"]
        score, items = kind.metrics[kind.score], kind_of(results.config)
        title = f"{score} (± standard error over {items}) on {ranked.n_images} val and {n_test} test {items}"
        if ranked.folds:
            title = (
                f"{score} on {ranked.folds} folds of {ranked.words} (± standard error over folds), and on {n_test} "
                f"test {items} (± over {items})"
            )
        table = Table(title=title, title_justify="left")
        for heading in ("", "folds" if ranked.folds else "val", "test"):
            table.add_column(heading)
        rows = (
            (f"winner: trial {winner['trial']}, {winner['trainable_parameters']:,} parameters", winner),
            (f"linear probe, best of {probe['n_configurations']}: {_read(probe)}", probe),
        )
        for name, row in rows:
            test = kind.with_error(row["test"], n_test) if was_tested(summary) else "not looked at"
            table.add_row(name, kind.with_error(row["val"], ranked.n_images), test)
        console.print(table)
        if was_retrained(summary):
            again = f"test: {AGAIN}; sweep export exports this winner" if was_tested(summary) else f"also {AGAIN}"
            console.print(again, highlight=False)
        said = verdict(summary, kind, items, results.config["epochs"])
        console.print(said, highlight=False, markup=False, soft_wrap=True)
        seconds = summary["wall_seconds"]
        line = f"{where_the_time_went(seconds)}; {summary['configs_per_hour']:.0f} configurations per hour"
        console.print(line, highlight=False, soft_wrap=True)
        trials = results.trials
        lane_epochs = float((trials["epochs"] * trials.get("seeds", 1)).sum())
        several_shapes, on_workers = "shape" in trials, folder.workers_path.is_file()
        if not several_shapes and not on_workers:
            line = features_beside_plan(summary["plan"], seconds["features"], summary["n_images_computed"])
            if line:
                console.print(line, highlight=False, soft_wrap=True)
        line = beside_plan(
            summary["plan"],
            seconds["search"],
            lane_epochs,
            several_shapes=several_shapes,
            compiling_seconds=seconds.get("compiling_kernels", 0.0),  # runs of 0.9.0 and earlier do not have it
            on_workers=on_workers,
        )
        console.print(line, highlight=False, soft_wrap=True)
    console.print(f"results:   {run}", highlight=False, soft_wrap=True)
    console.print(f"           sweep results {run}", highlight=False, soft_wrap=True)
    console.print(f"dashboard: sweep dashboard {run}", highlight=False, soft_wrap=True)
    if summary:
        ended = ", ".join(
            f"{number} {state}" for state in ("complete", "pruned", "fail") if (number := summary["n_trials"][state])
        )
        line = printable(f"the search ended because {summary['ended']} ({ended})")
        console.print(line, highlight=False, markup=False, soft_wrap=True)
