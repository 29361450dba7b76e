"""`sweep report`: write a run's report as one HTML page."""

from pathlib import Path
from typing import Annotated

import typer

from sweep.cli import recorded_options
from sweep.terminal.console import stderr, stdout


def report(
    run: Annotated[Path, typer.Argument(help="A run folder.")],
    others: Annotated[
        list[Path] | None, typer.Argument(help="More run folders, to compare the first with, as `sweep compare` does.")
    ] = None,
    out: Annotated[Path | None, typer.Option(help="File to write; `report.html` in the run folder.")] = None,
    storage: recorded_options.StorageUrl = None,
    data: recorded_options.MovedData = None,
    backbone: recorded_options.OwnBackbone = None,
    study: recorded_options.OwnStudy = None,
    png: Annotated[
        Path | None,
        typer.Option(
            help="Also write each figure as PNG into this folder. Needs the extra `report` and a Chromium browser."
        ),
    ] = None,
) -> None:
    """Write a report: ranked table, learning curves, parameter importances, the winner's errors, and the cost.

    The report is a single file that opens without a network. To show the winner's errors on the validation images, the
    report reads their features from the cache. With several runs, it shows the first beside the others.

        sweep report runs/lr_rank-…

        sweep report runs/lr_rank-… runs/lr_rank_halving-…
    """
    from sweep.machine.paths import default_cache_dir
    from sweep.report.write import write_png, write_report

    def say(line: str) -> None:
        stderr.print(line, soft_wrap=True, highlight=False, markup=False)

    if study is not None:
        from sweep.side_networks.given import take_own_code

        take_own_code(study)
    target = out or run / "report.html"
    figures = write_report(
        run,
        target,
        cache_dir=default_cache_dir(),
        storage_url=storage,
        data=data,
        backbone_file=backbone,
        say=say,
        others=others or (),
    )
    if png is not None:
        write_png(figures, png)
    stdout.print(str(target), soft_wrap=True, highlight=False, markup=False)
