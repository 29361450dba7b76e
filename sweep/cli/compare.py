"""`sweep compare`: runs side by side."""

from collections.abc import Sequence
from pathlib import Path
from typing import Annotated

import typer
from rich.markup import escape
from rich.table import Table

from sweep.cli import recorded_options
from sweep.terminal.console import printable, stdout


def compare(
    runs: Annotated[list[Path], typer.Argument(help="Run folders, at least two; the first is the reference.")],
    out: Annotated[
        Path | None, typer.Option(help="Also write an HTML page with the tables and learning curves to this file.")
    ] = None,
    data: recorded_options.MovedData = None,
    backbone: recorded_options.OwnBackbone = None,
    study: recorded_options.OwnStudy = None,
) -> None:
    """Show runs side by side: what differs, their winners, and a paired test on the same test images.

    The winners answer the test images from the feature cache. Where runs of two methods share several backbones, the
    methods are also compared over all of these backbones together.

        sweep compare runs/lr_rank-… runs/lr_rank_halving-… --out compared.html
    """
    from sweep.machine.paths import default_cache_dir
    from sweep.report.compare import compare_runs
    from sweep.report.compare_page import paired_note, paired_rows, run_rows, write_comparison
    from sweep.side_networks.given import take_own_code

    cache_dir = default_cache_dir()
    if study is not None:
        take_own_code(study)
    if out is None:
        comparison = compare_runs(runs, cache_dir, data=data, backbone_file=backbone)
    else:
        comparison = write_comparison(runs, out, cache_dir=cache_dir, data=data, backbone_file=backbone)
    headings, rows = run_rows(comparison)
    texts = [[cell.text for cell in row] for row in rows]
    sides = [[heading, *values] for heading, *values in zip(headings, *texts, strict=True)]
    _show("runs side by side", sides[0], sides[1:])
    if comparison.tests:
        headings, rows = paired_rows(comparison.tests)
        _show("paired test on the same test images", headings, [[cell.text for cell in row] for row in rows])
        stdout.print(printable(paired_note(comparison)), highlight=False, markup=False, soft_wrap=True)
    for name, reason in comparison.not_tested.items():
        line = f"no paired test of {name}: {reason}"
        stdout.print(printable(line), highlight=False, markup=False, soft_wrap=True)
    if out is not None:
        stdout.print(str(out), soft_wrap=True, highlight=False, markup=False)


def _show(title: str, headings: Sequence[str], rows: Sequence[Sequence[str]]) -> None:
    table = Table(title=title, title_justify="left")
    for heading in headings:
        table.add_column(escape(printable(heading)), overflow="fold")
    for row in rows:
        table.add_row(*(escape(printable(text)) for text in row))
    stdout.print(table, highlight=False)
