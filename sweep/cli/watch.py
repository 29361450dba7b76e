"""`sweep watch`: a run that goes on elsewhere."""

import time
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer
from rich.live import Live

from sweep.terminal.console import stdout

if TYPE_CHECKING:  # Optuna takes a second to import
    from sweep.report.watch import RunView

SECONDS_BETWEEN_LOOKS = 1.0


def watch(
    run: Annotated[Path, typer.Argument(help="A run folder; the run may go on in another terminal.")],
    storage: Annotated[
        str | None, typer.Option(help="The Optuna storage URL of a run that was given one; never taken from its files.")
    ] = None,
) -> None:
    """Watch a run from another terminal: trials in training, what ended and why, pace and time left.

    Ends when the run ends or stops, or with Ctrl-C, which leaves the run alone. Where the output is piped, a line
    whenever something changed.

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
