"""`sweep watch`: follow a run from another terminal."""

import time
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer
from rich.live import Live

from sweep.cli import recorded_options
from sweep.terminal.console import stdout

if TYPE_CHECKING:  # Optuna takes a second to import
    from sweep.report.watch import RunView

SECONDS_BETWEEN_LOOKS = 1.0


def watch(
    run: Annotated[Path, typer.Argument(help="A run folder.")],
    storage: recorded_options.StorageUrl = None,
) -> None:
    """Follow a run from another terminal: which trials train, which ended and why, the pace, and the time left.

    It ends when the run ends. Ctrl-C ends only the watching; the run continues. If the output is piped, one line is
    printed whenever something changes.

        sweep watch runs/lr_rank-…
    """
    from sweep.records.folder import RunFolder
    from sweep.report.watch import Watcher

    watcher = Watcher(RunFolder.open(run), storage)
    try:
        if stdout.is_terminal:
            _live(watcher.look)
        else:
            _lines(watcher.look)
    except KeyboardInterrupt:
        return


def _live(look: Callable[[], "RunView"]) -> None:
    from sweep.terminal.lanes_view import view

    seen = look()
    with Live(view(seen, stdout), console=stdout, auto_refresh=False) as live:
        while not (seen.ended or seen.stopped):
            time.sleep(SECONDS_BETWEEN_LOOKS)
            seen = look()
            live.update(view(seen, stdout), refresh=True)


def _lines(look: Callable[[], "RunView"]) -> None:
    from sweep.terminal.lanes_view import heading

    last = ""
    while True:
        seen = look()
        if (line := heading(seen)) != last:
            stdout.print(last := line, soft_wrap=True, highlight=False, markup=False)
        if seen.ended or seen.stopped:
            return
        time.sleep(SECONDS_BETWEEN_LOOKS)
