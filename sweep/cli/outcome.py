"""Code that `sweep run` and `sweep resume` share: show a run's progress, and its results when it ends or stops."""

import signal
from collections.abc import Callable, Iterator, Sequence
from contextlib import closing, contextmanager
from pathlib import Path
from types import FrameType

import typer

from sweep.cli.show import show_summary, show_trials
from sweep.cli.show_suite import show_suite
from sweep.records.folder import RunFolder
from sweep.records.reporter import Reporter
from sweep.records.results import load_results
from sweep.records.suite_results import is_suite, load_suite
from sweep.terminal.console import stderr, stdout
from sweep.terminal.progress import reporter_for
from sweep.tracking.tracked import Tracked, trackers_named

INTERRUPTED, TERMINATED = 130, 143


class _Terminated(KeyboardInterrupt):
    """SIGTERM arrived, from a batch system or a shutdown. A run treats it like Ctrl-C."""


@contextmanager
def _terminating() -> Iterator[None]:
    """Raise `_Terminated` on SIGTERM."""

    def raise_it(number: int, frame: FrameType | None) -> None:
        raise _Terminated

    before = signal.signal(signal.SIGTERM, raise_it)
    try:
        yield
    finally:
        signal.signal(signal.SIGTERM, before)


def carry_out_and_show(run: Callable[[Reporter], object], out: Path, track: Sequence[str] = ()) -> None:
    """Carry a run out and show its results, or, if it is stopped, the table so far and how to go on.

    Args:
        run: Does the work, and says how far it is.
        out: The run folder, or the folder of a suite's.
        track: Names of experiment trackers to log to.

    Raises:
        UsageError: There is no tracker with a name.
        SweepError: A tracker's package is not installed.
    """
    trackers = trackers_named(track)
    try:
        with (
            _terminating(),
            closing(reporter_for(stderr)) as shown,
            closing(Tracked(shown, trackers)) as reporter,
        ):
            run(reporter)
    except KeyboardInterrupt as stopped:
        _show_stopped(out)
        raise typer.Exit(TERMINATED if isinstance(stopped, _Terminated) else INTERRUPTED) from None
    if is_suite(out):
        show_suite(stdout, load_suite(out), out)
        return
    results = load_results(out)
    show_trials(stdout, results)
    show_summary(stdout, results, out)


def _show_stopped(out: Path) -> None:
    """Print the results so far of a run that was stopped, and how to continue."""
    if is_suite(out):
        show_suite(stdout, load_suite(out), out)
        message = f"stopped; to continue, give the same command with --out {out}"
        stderr.print(message, soft_wrap=True, markup=False, highlight=False)
        return
    if RunFolder(out).trials_path.is_file():
        show_trials(stdout, load_results(out))
    if RunFolder(out).config_path.is_file():
        stderr.print(f"stopped; to continue: sweep resume {out}", soft_wrap=True, markup=False, highlight=False)
    else:
        stderr.print("stopped before the search started; the features computed so far are kept")
