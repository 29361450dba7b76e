"""`sweep backbones`: list the backbones that can be used."""

from typing import Annotated

import typer
from rich.markup import escape
from rich.table import Table

from sweep.errors import UsageError
from sweep.terminal.console import printable, stderr, stdout


def backbones(
    pattern: Annotated[
        str | None,
        typer.Argument(
            help="Part of a name, or a pattern such as `'convnext_*'`. With it, timm's backbones are listed too."
        ),
    ] = None,
) -> None:
    """List the backbones that `--backbone` accepts: blocks, widths, parameters, and where the weights come from.

    Without a pattern, this lists the backbones that come in packages and those that installed packages register. With a
    pattern, it also lists those of timm, whose weights come from the Hugging Face hub. Nothing is downloaded.

        sweep backbones

        sweep backbones 'vit_small_*dino*'
    """
    from backbones.catalogue import catalogue
    from sweep.machine.paths import default_cache_dir

    found = catalogue(pattern, default_cache_dir())
    for name, reason in found.failed.items():
        stderr.print(printable(f"{name} is left out: {reason}"), highlight=False, markup=False, soft_wrap=True)
    if not found.listed:
        raise UsageError(
            f"no backbone matches {pattern!r}; give a part of a name, or a pattern with * and ? as in a shell"
        )
    table = Table(title="backbones", title_justify="left")
    for heading in ("name", "network", "blocks", "widths", "parameters", "px", "tokens", "weights", "licence"):
        number = heading in ("blocks", "parameters", "px", "tokens")
        whole = number or heading == "name"  # so that it can be copied
        table.add_column(heading, justify="right" if number else "left", no_wrap=whole, overflow="fold")
    for one in found.listed:
        cells = (one.name, one.family, str(one.n_blocks), "-".join(map(str, one.widths)))
        sizes = (f"{one.n_parameters / 1e6:.2f} M", str(one.image_size or ""), str(one.tokens))
        table.add_row(
            *(escape(printable(cell)) for cell in (*cells, *sizes, one.weights, one.licence or "not declared"))
        )
    stdout.print(table, highlight=False)
    if found.n_more:
        stdout.print(f"{found.n_more} more of timm's backbones match; narrow the pattern to see them", highlight=False)
    if pattern is None:
        stdout.print(
            "To list timm's backbones, give a pattern: sweep backbones 'convnext_*'. --backbone also accepts "
            "untrained:NAME (random weights), ./mine.py:build (your own network) and ./FOLDER (a text network of "
            "transformers); see docs/backbones.md.",
            highlight=False,
            markup=False,
            soft_wrap=True,
        )
