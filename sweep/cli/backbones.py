"""`sweep backbones`: what can be adapted, here and now."""

from typing import Annotated

import typer
from rich.markup import escape
from rich.table import Table

from sweep.errors import UsageError
from sweep.terminal.console import printable, stderr, stdout


def backbones(
    pattern: Annotated[
        str | None,
        typer.Argument(help="Of names, such as `'convnext_*'` or `dinov2`; adds timm's to the list."),
    ] = None,
) -> None:
    """List backbones for `--backbone`: blocks, widths, parameters, and where the weights come from.

    Without a pattern: those that come out of packages, and those that installed packages register. With one: also
    timm's, which take their weights from the hub. Nothing is downloaded.

        sweep backbones

        sweep backbones 'vit_small_*dino*'
    """
    from backbones.catalogue import catalogue
    from sweep.machine.paths import default_cache_dir

    found = catalogue(pattern, default_cache_dir())
    for name, reason in found.failed.items():
        stderr.print(printable(f"left out, {name}: {reason}"), highlight=False, markup=False, soft_wrap=True)
    if not found.listed:
        raise UsageError(
            f"no backbone matches {pattern!r}; a pattern has * and ? as in a shell, or is a part of a name"
        )
    table = Table(title="backbones", title_justify="left")
    for heading in ("name", "network", "blocks", "widths", "parameters", "px", "tokens", "weights", "licence"):
        number = heading in ("blocks", "parameters", "px", "tokens")
        whole = number or heading == "name"  # a name is there to be copied
        table.add_column(heading, justify="right" if number else "left", no_wrap=whole, overflow="fold")
    for one in found.listed:
        cells = (one.name, one.family, str(one.n_blocks), "-".join(map(str, one.widths)))
        sizes = (f"{one.n_parameters / 1e6:.2f} M", str(one.image_size or ""), str(one.tokens))
        table.add_row(
            *(escape(printable(cell)) for cell in (*cells, *sizes, one.weights, one.licence or "not declared"))
        )
    stdout.print(table, highlight=False)
    if found.n_more:
        stdout.print(f"and {found.n_more} more of timm's match; narrow the pattern", highlight=False)
    if pattern is None:
        stdout.print(
            "with a pattern, timm's too: sweep backbones 'convnext_*'; with random weights, untrained:NAME; "
            "your own, ./mine.py:build; text networks of transformers, ./FOLDER (docs/backbones.md)",
            highlight=False,
            markup=False,
            soft_wrap=True,
        )
