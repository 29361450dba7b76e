"""The report's tables as sections of a page: the answer, the trials, their cost, and how they were made."""

import math
from typing import Any

import pandas as pd

from backbones import Taps, recorded_stages
from backbones.sizes import shown_size
from sweep.export.markdown import command_line
from sweep.export.selection import hyperparameters_of
from sweep.records.findings import BASELINE, findings
from sweep.records.ranked_on import RankedOn
from sweep.records.results import PARAMETER_PREFIX, Results, parameter_columns
from sweep.records.tested import said_of_test
from sweep.records.worker_log import WorkerLog
from sweep.report import glossary, page
from sweep.report.page import Cell
from sweep.study.augmentation import described
from sweep.tasks.inputs import kind_of
from sweep.tasks.kinds import TASK_KINDS, TaskKind

N_NAMED_CLASSES = 20
LABELS = {
    **{f"val_{metric}": heading for kind in TASK_KINDS.values() for metric, heading in kind.metrics.items()},
    "train_loss": "train loss",
    "effective_rank": "ranks left",
    "trainable_parameters": "size",
}


def answer(results: Results, winner: int) -> str:
    """The findings in words, a table of winner, baseline and linear probe, and the study, the data and the backbone."""
    config, summary, kind = results.config, results.summary, results.kind
    row = _row(results.trials, winner)
    ranked, n_test = RankedOn.recorded(config), config["splits"]["test"]["images"]
    n_val = ranked.n_images
    columns = ["", *(f"{name}, {split}" for split in ("val", "test") for name in map(kind.metrics.get, kind.shown))]
    of_winner = ranked.metrics_of(row, kind) | (summary["winner"]["val"] if summary else {})
    rows = [[Cell(f"winner, trial {winner}"), *_metrics(kind, of_winner, n_val)]]
    if winner != BASELINE and not (base := results.trials[results.trials["trial"] == BASELINE]).empty:
        of_base = ranked.metrics_of(base.iloc[0].to_dict(), kind)
        name = f"baseline, trial {BASELINE}"
        rows.append([Cell(name), *_metrics(kind, of_base, n_val), *_metrics(kind, None, n_test)])
    if summary:
        rows[0] += _metrics(kind, summary["winner"]["test"] or None, n_test)
        probe = summary["linear_probe"]
        name = f"linear probe, best of {probe['n_configurations']}"
        rows.append([Cell(name), *_metrics(kind, probe["val"], n_val), *_metrics(kind, probe["test"] or None, n_test)])
    else:
        rows[0] += _metrics(kind, None, n_test)
    states = results.trials["state"].value_counts().to_dict()
    items = kind_of(config)
    note = (
        f"{n_val} {items} to choose on ({ranked.split}) and {n_test} to test on; ± is the standard error over {items}"
        f"{', on val over folds' if ranked.folds else ''}. {ranked.how} Trials are ranked by "
        f"{', '.join(results.objectives)} on {ranked.split} after the last epoch. {said_of_test(summary)}"
    )
    classes = config["classes"]
    more = f", … ({len(classes)} in all)" if len(classes) > N_NAMED_CLASSES else ""
    facts = {
        "data": f"{config['data']}. {config['data_notice']}",
        kind.outputs: ", ".join(classes[:N_NAMED_CLASSES]) + more,
        "backbone": f"{config['backbone']} at {shown_size(config['transform'])}, "
        f"{Taps(config['group_size'], recorded_stages(config.get('stages')))}",
        **({"training images": views} if (views := described(config)) else {}),
        **({"class weights": str(weights)} if (weights := config.get("class_weights")) else {}),
        "trials": ", ".join(f"{count} {state}" for state, count in states.items()),
        f"trial {winner}": ", ".join(f"{k} = {_number(v)}" for k, v in hyperparameters_of(row, results.trials).items()),
    }
    head = page.heading("The answer") + page.verdict(findings(results, winner))
    return head + page.table(columns, rows) + page.paragraph(note, quiet=True) + page.pairs(facts)


def _metrics(kind: TaskKind, metrics: dict[str, float] | None, n_images: int) -> list[Cell]:
    if metrics is None:
        return [Cell("")] * len(kind.shown)
    return [
        Cell(kind.with_error(metrics, n_images), metrics[kind.score]),
        *(Cell(f"{metrics[name]:.3f}", metrics[name]) for name in kind.shown[1:]),
    ]


def _interval(row: dict[str, Any], kind: TaskKind) -> str:
    _, low, high = (row[name] for name in kind.paired_columns)
    return "" if math.isnan(low) or row["trial"] == BASELINE else f"{low:+.3f} to {high:+.3f}"


def _row(trials: pd.DataFrame, trial: int) -> dict[str, Any]:
    (row,) = _records(trials[trials["trial"] == trial])
    return row


def front(results: Results) -> str:
    """Return a table of the Pareto front and the baseline, for a run with several objectives."""
    trials = results.trials
    complete = trials[trials["state"] == "COMPLETE"]
    shown = complete[(complete["front"] == 0) | (complete["trial"] == BASELINE)]
    parameters = [name.removeprefix(PARAMETER_PREFIX) for name in parameter_columns(trials)]
    rows = []
    for row in _records(shown):
        own = hyperparameters_of(row, trials)
        name = f"{row['trial']}{' (baseline)' * (row['trial'] == BASELINE)}{', not on the front' * (row['front'] != 0)}"
        values = [_cell(row[objective]) for objective in results.objectives]
        rows.append([Cell(name, float(row["trial"])), *values, *(_cell(own.get(name)) for name in parameters)])
    goals = ", ".join(f"{direction} {name}" for name, direction in results.objectives.items())
    note = (
        f"Trials that no other trial beats in every objective ({goals}). The first objective names the winner. "
        f"Hypervolume: {glossary.COLUMNS['hypervolume']}"
    )
    columns = ["trial", *(LABELS.get(name, name) for name in results.objectives), *parameters]
    return page.paragraph(note, quiet=True) + page.table(columns, rows, sortable=True)


def words(results: Results) -> str:
    """Explanations of the headings in this report."""
    kind = results.kind
    names = [name.removeprefix(PARAMETER_PREFIX) for name in parameter_columns(results.trials)]
    columns = [name for name in glossary.COLUMNS if name not in ("front", "hypervolume") or len(results.objectives) > 1]
    return page.glossary(glossary.entries([*kind.metrics.values(), *columns, *names]))


def trials(results: Results) -> str:
    """Return the section with the table of all trials."""
    items, split = kind_of(results.config), RankedOn.recorded(results.config).split
    note = (
        f"Click a heading to sort. “vs baseline” is the paired difference of {results.kind.paired_heading} to trial 0 "
        f"after as many epochs, on the same {split} {items}, with its 95% interval over {items}."
    )
    return page.heading("Trials, best first") + page.paragraph(note, quiet=True) + trials_table(results)


def trials_table(results: Results, limit: int | None = None) -> str:
    """Return a table of the trials, best first, with at most `limit` rows."""
    trials = results.trials
    parameters = [name.removeprefix(PARAMETER_PREFIX) for name in parameter_columns(trials)]
    several, kind = len(results.objectives) > 1, results.kind
    score, *shown = (f"val_{name}" for name in kind.shown)
    shown += [name for name in ("train_loss", "effective_rank") if name in trials]
    shown += [name for name in results.objectives if name not in (score, *shown, "trainable_parameters")]
    first = ["place", "trial", *["front"] * several, "state", LABELS[score], "vs baseline", "95% interval"]
    rows = []
    for rank, row in enumerate(_records(trials.head(limit or len(trials))), start=1):
        own = hyperparameters_of(row, trials)
        rows.append(
            [
                Cell(str(rank), float(rank)),
                Cell(str(row["trial"]), float(row["trial"])),
                *([_whole(row["front"])] if several else []),
                Cell(row["state"]),
                _cell(row[score]),
                _cell(row[kind.paired_columns[0]], signed=True),
                Cell(_interval(row, kind), row[kind.paired_columns[1]]),
                *(_cell(row[name]) for name in shown),
                *(_cell(own.get(name)) for name in parameters),
                Cell(f"{row['trainable_parameters']:,}", float(row["trainable_parameters"])),
                _cell(row["seconds"]),
                Cell(row["failure"] or row["stopped"]),
            ]
        )
    return page.table(
        [*first, *(LABELS.get(name, name) for name in shown), *parameters, "size", "seconds", "why"],
        rows,
        sortable=True,
    )


def _records(trials: pd.DataFrame) -> list[dict[str, Any]]:
    return [{str(name): value for name, value in row.items()} for row in trials.to_dict("records")]


def _whole(value: float) -> Cell:
    return Cell("") if math.isnan(value) else Cell(f"{value:.0f}", float(value))


def _cell(value: Any, *, signed: bool = False) -> Cell:
    if value is None or (isinstance(value, float) and math.isnan(value)):
        return Cell("")
    if isinstance(value, float | int) and not isinstance(value, bool):
        return Cell(f"{value:+.3f}" if signed else _number(value), float(value))
    return Cell(str(value), str(value))


def _number(value: Any) -> str:
    if not isinstance(value, float):
        return str(value)
    return f"{value:.3f}" if 0.01 <= abs(value) < 1000 or value == 0 else f"{value:.1e}"


def cost(results: Results, workers: WorkerLog | None) -> str:
    """Return the section with the time and the disk space that the run took, and what its workers did if it had any."""
    facts = {"summed over trials": f"{results.trials['seconds'].sum():.1f} s of training"}
    if results.summary:
        seconds, plan = results.summary["wall_seconds"], results.summary.get("plan", {})
        facts |= {name.replace("_", " "): f"{value:.1f} s" for name, value in seconds.items()}
        facts["configurations per hour"] = f"{results.summary['configs_per_hour']:.0f}"
        facts[f"{kind_of(results.config)} through the backbone"] = f"{results.summary['n_images_computed']:,}"
        if plan:
            facts["feature cache"] = f"{plan['cache_bytes'] / 2**20:,.0f} MiB on disk"
            facts["lanes that fit"] = f"{plan['lanes_that_fit']:,}"
    if workers is not None:
        for worker, seconds in workers.busy_seconds.items():
            share = seconds / workers.training_seconds if workers.training_seconds else 0.0
            facts[f"worker {worker} was occupied"] = f"{seconds:.1f} s, {share:.0%} of the last process's training"
    return page.heading("Cost") + page.pairs(facts)


def made_with(results: Results) -> str:
    """Return the section with the command, the versions and the device."""
    config = results.config
    versions = {**config["versions"], "device": config["device"]}
    if "processor" in config:  # versions up to 0.10 did not record it
        versions["processor"] = str(config["processor"])
    return page.heading("Made with") + page.preformatted(command_line(config["command"])) + page.pairs(versions)
