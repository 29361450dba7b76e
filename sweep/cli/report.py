"""`sweep report`: a run as one HTML page."""

from pathlib import Path
from typing import Annotated

import typer

from sweep.terminal.console import stderr, stdout


def report(
    run: Annotated[Path, typer.Argument(help="A run folder.")],
    others: Annotated[
        list[Path] | None, typer.Argument(help="More run folders, to show the first beside them; as `sweep compare`.")
    ] = None,
    out: Annotated[Path | None, typer.Option(help="File to write; `report.html` in the run folder.")] = None,
    storage: Annotated[
        str | None, typer.Option(help="The Optuna storage URL of a run that was given one; never taken from its files.")
    ] = None,
    png: Annotated[
        Path | None, typer.Option(help="Also write each figure as PNG into this folder (extra: report, and Chromium).")
    ] = None,
) -> None:
    """Write a run's report: verdict, table, learning curves, parameter importances, the winner's errors, cost.

    One file that opens without a network. What the winner does on val is computed from the feature cache.

        sweep report runs/lr_rank-…

        sweep report runs/lr_rank-… runs/lr_rank_halving-…
    """
    from sweep.machine.paths import default_cache_dir
    from sweep.report.write import write_png, write_report

    def say(line: str) -> None:
        stderr.print(line, soft_wrap=True, highlight=False, markup=False)

    target = out or run / "report.html"
    figures = write_report(
        run, target, cache_dir=default_cache_dir(), storage_url=storage, say=say, others=others or ()
    )
    if png is not None:
        write_png(figures, png)
    stdout.print(str(target), soft_wrap=True, highlight=False, markup=False)
