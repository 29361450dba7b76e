"""`sweep cache`: what the cache holds, and how to make it smaller."""

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer
from rich.markup import escape
from rich.table import Table

from sweep.errors import UsageError
from sweep.terminal.console import printable, stderr, stdout

if TYPE_CHECKING:
    from sweep.features.contents import CacheEntry

KEY_LENGTH = 12

cache = typer.Typer(
    help="List what the cache holds (`$SWEEP_CACHE_DIR`, or `~/.cache/sweep`), or remove features from it.",
    rich_markup_mode="markdown",
)


@cache.callback(invoke_without_command=True)
def list_entries(context: typer.Context) -> None:
    """List cached features, the last used first, with sizes and ages; `sweep cache prune` removes some.

    sweep cache

    sweep cache prune --older-than 30d
    """
    if context.invoked_subcommand is not None:
        return
    from sweep.features.contents import cache_entries, other_folders
    from sweep.machine.paths import default_cache_dir

    cache_dir = default_cache_dir()
    entries = cache_entries(cache_dir)
    total = sum(entry.size_bytes for entry in entries)
    _show(f"features in {cache_dir}: {len(entries)} entries, {size_text(total)}", entries)
    for name, size_bytes in other_folders(cache_dir).items():
        line = f"{name}: {size_text(size_bytes)}"
        stdout.print(printable(line), highlight=False, markup=False, soft_wrap=True)


@cache.command()
def prune(
    older_than: Annotated[
        str | None, typer.Option(help="Remove features that were not used for this long: `30d`, `12h`, `2w`.")
    ] = None,
    run: Annotated[Path | None, typer.Option(help="Remove the features of this run's images and backbone.")] = None,
    dry_run: Annotated[bool, typer.Option("--dry-run", help="Only list what would be removed.")] = False,
) -> None:
    """Remove cached features by age or by run. A run that needs them again computes them again.

    sweep cache prune --older-than 30d

    sweep cache prune --run runs/lr_rank-…
    """
    from sweep.features.contents import cache_entries, entries_of_run, remove
    from sweep.machine.paths import default_cache_dir

    if (older_than is None) == (run is None):
        raise UsageError("give either --older-than or --run; sweep cache lists what there is")
    entries = cache_entries(default_cache_dir())
    if older_than is not None:
        least_seconds = age_asked_for(older_than)
        chosen = [entry for entry in entries if entry.age_seconds > least_seconds]
    else:
        from sweep.records.entries import require_config
        from sweep.records.folder import RunFolder
        from sweep.records.results import load_results

        assert run is not None
        folder, results = RunFolder.open(run), load_results(run)
        require_config(folder, results.config)
        chosen = entries_of_run(entries, results.config)
    total = sum(entry.size_bytes for entry in chosen)
    if dry_run:
        _show(f"would be removed: {len(chosen)} entries, {size_text(total)}", chosen)
        return

    def say(line: str) -> None:
        stderr.print(line, highlight=False, markup=False, soft_wrap=True)

    _show(f"to be removed: {len(chosen)} entries, {size_text(total)}", chosen)
    stdout.print(f"freed {size_text(remove(chosen, say))}", highlight=False)


SECONDS_OF = {"m": 60, "h": 3600, "d": 86400, "w": 7 * 86400}


def age_asked_for(text: str) -> float:
    """Seconds of an age such as `30d`.

    Raises:
        UsageError: It is none.
    """
    number, unit = text[:-1], text[-1:]
    if unit not in SECONDS_OF or not number.isdecimal() or len(number) > 6:
        raise UsageError(f"--older-than must be a whole number and m, h, d or w, such as 30d, not {text!r}")
    return float(int(number) * SECONDS_OF[unit])


def size_text(n_bytes: int) -> str:
    """A size in MiB or GiB."""
    return f"{n_bytes / 2**30:.1f} GiB" if n_bytes >= 2**30 else f"{n_bytes / 2**20:.1f} MiB"


def _age_text(seconds: float) -> str:
    for unit, length in (("d", 86400), ("h", 3600), ("m", 60)):
        if seconds >= length:
            return f"{seconds / length:.0f}{unit}"
    return "now"


def _show(title: str, entries: "list[CacheEntry]") -> None:
    table = Table(title=escape(printable(title)), title_justify="left")
    for heading in ("key", "backbone", "split", "images", "size", "last used", ""):
        table.add_column(heading, justify="right" if heading in ("images", "size", "last used") else "left")
    for entry in entries:
        names = (entry.key[:KEY_LENGTH], entry.backbone, entry.split)
        state = "" if entry.complete else "incomplete"
        numbers = (str(entry.n_images), size_text(entry.size_bytes), _age_text(entry.age_seconds))
        table.add_row(*(escape(printable(name)) for name in names), *numbers, state)
    stdout.print(table, highlight=False)
