"""`sweep results`: print the table of a run."""

from enum import StrEnum
from pathlib import Path
from typing import Annotated

import typer

from sweep.terminal.console import stdout


class Format(StrEnum):
    """How to print a table."""

    TABLE = "table"
    CSV = "csv"
    JSON = "json"


def results(
    run: Annotated[Path, typer.Argument(help="The folder that `sweep run` named at its end.")],
    format: Annotated[
        Format, typer.Option(help="`table` to read, `csv` for a spreadsheet, `json` for a program.")
    ] = Format.TABLE,
    plot: Annotated[
        Path | None,
        typer.Option(help="Also write this HTML file with a plot: the Pareto front, or the best score so far."),
    ] = None,
) -> None:
    """Print a run's trials, best first.

    `json` prints an object with the `summary` and the list of `trials`; `csv` prints the trials. In Python,
    `sweep.load_results(run)` returns the same as pandas tables.
    """
    import json

    from sweep.cli.show import show_summary, show_trials
    from sweep.records.results import load_results, table_for_csv
    from sweep.records.suite_results import is_suite

    if is_suite(run):
        _suite_results(run, format, plot)
        return
    loaded = load_results(run)
    if plot is not None:
        from sweep.report.plots import trials_figure, write_figure

        write_figure(plot, trials_figure(loaded))
    if format is Format.CSV:
        typer.echo(table_for_csv(loaded.trials).to_csv(index=False), nl=False)
    elif format is Format.JSON:
        trials = json.loads(loaded.trials.to_json(orient="records", double_precision=15))
        typer.echo(json.dumps({"summary": loaded.summary, "trials": trials}, indent=2))
    else:
        show_trials(stdout, loaded, limit=len(loaded.trials))
        show_summary(stdout, loaded, run)


def _suite_results(folder: Path, format: Format, plot: Path | None) -> None:
    import json

    from sweep.cli.show_suite import show_suite
    from sweep.errors import UsageError
    from sweep.records.suite_results import load_suite

    if plot is not None:
        raise UsageError(f"--plot draws the trials of a single task; use: sweep results {folder}/TASK --plot {plot}")
    loaded = load_suite(folder)
    if format is Format.CSV:
        typer.echo(loaded.tasks.to_csv(index=False), nl=False)
    elif format is Format.JSON:
        tasks = json.loads(loaded.tasks.to_json(orient="records", double_precision=15))
        typer.echo(json.dumps({"suite": loaded.suite, "missing": dict(loaded.missing), "tasks": tasks}, indent=2))
    else:
        show_suite(stdout, loaded, folder)
