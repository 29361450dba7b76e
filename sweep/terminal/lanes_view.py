"""Draw a run and its lanes, as wide as the terminal."""

import math
from collections import Counter
from typing import TYPE_CHECKING

from rich.console import Console, Group
from rich.table import Table
from rich.text import Text

from sweep.records.worker_words import shares_in_words
from sweep.study.budget import duration_text
from sweep.terminal.console import printable

if TYPE_CHECKING:  # Optuna takes a second to import
    from sweep.report.watch import RunView, WatchedTrial

SILENCE_WORTH_A_WORD = 60.0
BARS = "▁▂▃▄▅▆▇█"
LONGEST_SPARKLINE = 24
LEAST_WIDTH_FOR_LANE = 40
LEAST_WIDTH_FOR_SPARKLINE = 60
LEAST_WIDTH_FOR_CONFIGURATION = 80
ENDINGS = ("complete", "pruned", "failed")
LINES_AROUND = 4
"""Lines beside those of trials: the title, the header of the table, the count of hidden trials, and the cursor."""

COLOURS = {"training": "cyan", "refilled": "blue", "complete": "green", "pruned": "yellow", "failed": "red"}


def heading(seen: "RunView") -> str:
    """Describe in one line how far the run is."""
    n_over = sum(not trial.in_training for trial in seen.trials)
    over = ", ".join(f"{seen.counts[state]} {state}" for state in ENDINGS if seen.counts.get(state))
    parts = [f"{n_over} of {seen.n_trials} trials have ended" + (f" ({over})" if over else "")]
    if n_training := len(seen.trials) - n_over:
        parts.append(f"{n_training} in training")
    if not seen.counts:
        parts.append("no trial has started yet; the features are computed first")
    if seen.best is not None:
        word = "leading" if seen.best.in_training else "best"
        parts.append(f"{word} {seen.objective} {seen.best.values[-1]:.4g}, trial {seen.best.number}")
    goes_on = not (seen.ended or seen.stopped)
    if goes_on and n_over == seen.n_trials:
        parts.append("now come the linear probe and the test images")
    elif goes_on and seen.counts:
        of = "" if seen.n_parallel is None else f" of {seen.n_parallel}"
        n_trials = Counter(trial.worker for trial in seen.trials if trial.worker is not None)
        of_trial = seen.lanes // max(1, n_training)
        shares = {worker: str(of_trial * n) for worker, n in n_trials.items()}
        on = (
            f" on {len(shares)} workers ({shares_in_words(shares)})"
            if len(shares) > 1
            else " on 1 worker" * len(shares)
        )
        parts.append(f"{seen.lanes}{of} lanes occupied{on}")
    if seen.configs_per_hour is not None:
        parts.append(f"{seen.configs_per_hour:.0f} configurations an hour")
    if seen.seconds_left and goes_on:
        parts.append(f"{_duration(seen.seconds_left)} left")
    if seen.ended:
        parts.append("the run has ended")
    elif seen.stopped:
        parts.append("no process works on the run; continue it with sweep resume")
    elif seen.silent_seconds is not None and seen.silent_seconds >= SILENCE_WORTH_A_WORD:
        parts.append(f"the run has written nothing for {_duration(seen.silent_seconds)}")
    return printable("; ".join(parts))


def view(seen: "RunView", console: Console, *, spared_lines: int = 0) -> Group:
    """Draw a run as wide as the terminal and as high, minus `spared_lines`."""
    table = Table(box=None, expand=True, pad_edge=False)
    with_sparkline = console.width >= LEAST_WIDTH_FOR_SPARKLINE and not console.options.ascii_only
    with_lane = console.width >= LEAST_WIDTH_FOR_LANE
    with_configuration = console.width >= LEAST_WIDTH_FOR_CONFIGURATION
    with_worker = with_lane and any(trial.worker is not None for trial in seen.trials)
    if with_worker:
        table.add_column("worker", justify="right", no_wrap=True)
    table.add_column("trial", justify="right", no_wrap=True)
    if with_lane:
        table.add_column("lane", justify="right", no_wrap=True)
    table.add_column("state", no_wrap=True)
    table.add_column("epoch", justify="right", no_wrap=True)
    table.add_column(seen.objective, justify="right", no_wrap=True, overflow="ellipsis")
    if with_sparkline:
        table.add_column("", no_wrap=True)
    if with_configuration:
        table.add_column("configuration", no_wrap=True, overflow="ellipsis", ratio=1)
    progress = Text(heading(seen))
    n_lines = spared_lines + LINES_AROUND + len(progress.wrap(console, console.width))
    rows = seen.trials[: max(1, console.height - n_lines)]
    values = [value for trial in rows for value in trial.values if math.isfinite(value)]
    above: int | None = None
    for trial in rows:
        first_of_worker = "-" if trial.worker is None else "" if trial.worker == above else str(trial.worker)
        above = trial.worker
        cells = [
            *([Text(first_of_worker)] if with_worker else []),
            Text(str(trial.number)),
            *([Text("-" if trial.lane is None else str(trial.lane))] if with_lane else []),
            Text(trial.state, style=COLOURS[trial.state]),
            Text("-" if trial.epoch is None else f"{trial.epoch}/{seen.n_epochs}"),
            Text(f"{trial.values[-1]:.4g}" if trial.values else "-"),
        ]
        if with_sparkline:
            cells.append(Text(sparkline(trial.values, min(values, default=0.0), max(values, default=0.0))))
        if with_configuration:
            cells.append(Text(_configuration(trial)))
        table.add_row(*cells, style="bold" if trial == seen.best else None)
    left_out = len(seen.trials) - len(rows)
    below = Text(f"and {left_out} more" if left_out else "", style="dim")
    title = Text(printable(seen.title), style="bold", no_wrap=True, overflow="ellipsis")
    return Group(title, progress, table, below)


def sparkline(values: list[float], low: float, high: float) -> str:
    """Draw the last values as bars between `low` and `high`, with a gap where a value is not a number."""

    def bar(value: float) -> str:
        if not math.isfinite(value):
            return " "
        level = (value - low) / (high - low) if high > low else 0.5
        return BARS[min(len(BARS) - 1, int(level * len(BARS)))]

    return "".join(map(bar, values[-LONGEST_SPARKLINE:]))


def _configuration(trial: "WatchedTrial") -> str:
    parts = [
        f"{name}={value:.3g}" if isinstance(value, float) else f"{name}={value}" for name, value in trial.params.items()
    ]
    return printable(" ".join([*parts, *([f"({trial.why})"] if trial.why else [])]))


def _duration(seconds: float) -> str:
    return duration_text(float(max(1, round(seconds))))
