"""Show a run's progress: bars and lanes in a terminal, a few lines if the output is piped."""

import contextlib
import time

import optuna
from rich.console import Console, Group
from rich.live import Live
from rich.progress import BarColumn, Progress, TaskID, TextColumn, TimeRemainingColumn

from sweep.records.folder import RunFolder
from sweep.records.reporter import Reporter, SearchProgress
from sweep.report.watch import RunView, Watcher
from sweep.terminal.lanes_view import view

LINES_A_SEARCH = 10
SECONDS_BETWEEN_LOOKS = 1.0


def reporter_for(console: Console) -> "TerminalReporter | LineReporter":
    """Return a reporter with bars for a terminal, and one with lines for anything else."""
    return TerminalReporter(console) if console.is_terminal else LineReporter(console)


class TerminalReporter(Reporter):
    """Shows bars for the feature pass and the search, and below them the lanes as `sweep watch` shows them."""

    def __init__(self, console: Console):
        self.console = console
        self._progress = Progress(
            TextColumn("{task.description}"),
            BarColumn(bar_width=None),
            TextColumn("{task.completed:.0f}/{task.total}"),
            TimeRemainingColumn(),
            TextColumn("{task.fields[note]}"),
            console=console,
            expand=True,
        )
        self._splits: dict[str, TaskID] = {}
        self._search: TaskID | None = None
        self._trials_a_step = 0.0
        self._watcher: Watcher | None = None
        self._seen: RunView | None = None
        self._looked = 0.0
        self._live = Live(get_renderable=self._view, console=console, transient=True)

    def message(self, text: str) -> None:
        self.console.print(text, highlight=False, markup=False)

    def run_opened(self, folder: RunFolder, storage_url: str | None) -> None:
        self._watcher, self._seen = Watcher(folder, storage_url), None

    def features(self, split: str, n_done: int, n_images: int) -> None:
        self._live.start()
        if split not in self._splits:
            self._splits[split] = self._progress.add_task(f"features, {split}", total=n_images, note="")
        self._progress.update(self._splits[split], completed=n_done)
        if n_done == n_images:
            self._live.stop()
            self._progress.remove_task(self._splits.pop(split))

    def search_started(self, n_trials: int, n_epochs: int) -> None:
        self._search = self._progress.add_task("trials", total=n_trials, note="")
        self._live.start()

    def epoch_started(self, n_lanes: int, trials_a_step: float) -> None:
        self._trials_a_step = trials_a_step
        if self._search is not None:
            self._progress.update(self._search, description=f"trials, {n_lanes} lanes")

    def step(self) -> None:
        if self._search is not None:
            self._progress.advance(self._search, self._trials_a_step)

    def epoch_ended(self, progress: SearchProgress) -> None:
        if self._search is None:
            return
        self._progress.update(
            self._search, completed=progress.trials_done, total=progress.n_trials, note=_note(progress)
        )
        if self._watcher is not None and time.monotonic() - self._looked >= SECONDS_BETWEEN_LOOKS:
            with contextlib.suppress(optuna.exceptions.OptunaError, OSError):  # the run itself reports the error
                self._seen = self._watcher.look(goes_on=True)
            self._looked = time.monotonic()
            self._live.refresh()

    def search_ended(self) -> None:
        self._live.stop()
        if self._search is not None:
            self._progress.remove_task(self._search)
            self._search = self._seen = None

    def close(self) -> None:
        """Restore the terminal, however the run ended."""
        self._live.stop()

    def _view(self) -> Group:
        lanes = [] if self._seen is None else [view(self._seen, self.console, spared_lines=1)]
        return Group(self._progress, *lanes)


class LineReporter(Reporter):
    """Prints a line when a part of the run is done, and about ten lines during a search."""

    def __init__(self, console: Console):
        self.console = console
        self._lines = 0

    def message(self, text: str) -> None:
        self.console.print(text, highlight=False, markup=False, soft_wrap=True)

    def features(self, split: str, n_done: int, n_images: int) -> None:
        if n_done == n_images:
            self.message(f"features: {n_images} {split}")

    def search_started(self, n_trials: int, n_epochs: int) -> None:
        self._lines = 0
        self.message(f"training {n_trials} trials of {n_epochs} epochs")

    def epoch_started(self, n_lanes: int, trials_a_step: float) -> None: ...

    def step(self) -> None: ...

    def epoch_ended(self, progress: SearchProgress) -> None:
        lines = int(LINES_A_SEARCH * progress.trials_done / progress.n_trials + 1e-9)
        if lines > self._lines:
            self._lines = lines
            self.message(f"{progress.trials_done:.1f} of {progress.n_trials} trials: {_note(progress)}")

    def search_ended(self) -> None: ...

    def close(self) -> None:
        """Do nothing: nothing is open."""


def _note(progress: SearchProgress) -> str:
    word = "best" if progress.n_complete else "leading"
    best = "" if progress.best is None else f"{word} {progress.objective} {progress.best:.3f}"
    ended = ((progress.n_pruned, "pruned"), (progress.n_failed, "failed"))
    return ", ".join([*([best] if best else []), *(f"{number} {word}" for number, word in ended if number)])
