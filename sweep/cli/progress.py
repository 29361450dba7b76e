"""A run's progress: bars in a terminal, a few lines where the output is piped."""

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TaskID, TextColumn, TimeRemainingColumn

from sweep.reporter import Reporter

LINES_A_STACK = 10


def reporter_for(console: Console) -> "TerminalReporter | LineReporter":
    """Bars if somebody watches, lines if not."""
    return TerminalReporter(console) if console.is_terminal else LineReporter(console)


class TerminalReporter(Reporter):
    """Bars for the feature pass and for the stack in training."""

    def __init__(self, console: Console):
        self.console = console
        self._progress = Progress(
            TextColumn("{task.description}"),
            BarColumn(bar_width=None),
            MofNCompleteColumn(),
            TimeRemainingColumn(),
            TextColumn("{task.fields[note]}"),
            console=console,
            transient=True,
            expand=True,
        )
        self._splits: dict[str, TaskID] = {}
        self._stack: TaskID | None = None

    def message(self, text: str) -> None:
        self.console.print(text, highlight=False, markup=False)

    def features(self, split: str, n_done: int, n_images: int) -> None:
        self._progress.start()
        if split not in self._splits:
            self._splits[split] = self._progress.add_task(f"features of {split}", total=n_images, note="images")
        self._progress.update(self._splits[split], completed=n_done)
        if n_done == n_images:
            self._progress.stop()
            self._progress.remove_task(self._splits.pop(split))

    def stack_started(self, n_lanes: int, n_epochs: int, n_steps: int) -> None:
        self._description = f"{n_lanes} lanes, epoch {{}}/{n_epochs}"
        self._stack = self._progress.add_task(self._description.format(1), total=n_steps, note="")
        self._n_epochs = n_epochs
        self._progress.start()

    def step(self) -> None:
        if self._stack is not None:
            self._progress.advance(self._stack)

    def epoch(self, epoch: int, best_val_top1: float, n_failed: int) -> None:
        if self._stack is not None:
            description = self._description.format(min(epoch + 1, self._n_epochs))
            self._progress.update(self._stack, description=description, note=_note(best_val_top1, n_failed))

    def stack_ended(self) -> None:
        self._progress.stop()
        if self._stack is not None:
            self._progress.remove_task(self._stack)
            self._stack = None

    def close(self) -> None:
        """Leave the terminal as it was, however the run ended."""
        self._progress.stop()


class LineReporter(Reporter):
    """A line when a part is done, and some ten lines a stack."""

    def __init__(self, console: Console):
        self.console = console
        self._n_epochs = 0

    def message(self, text: str) -> None:
        self.console.print(text, highlight=False, markup=False, soft_wrap=True)

    def features(self, split: str, n_done: int, n_images: int) -> None:
        if n_done == n_images:
            self.message(f"features of {split}: {n_images} images")

    def stack_started(self, n_lanes: int, n_epochs: int, n_steps: int) -> None:
        self._n_epochs = n_epochs
        self.message(f"training {n_lanes} lanes for {n_epochs} epochs")

    def step(self) -> None: ...

    def epoch(self, epoch: int, best_val_top1: float, n_failed: int) -> None:
        if epoch % -(-self._n_epochs // LINES_A_STACK) == 0 or epoch == self._n_epochs:
            self.message(f"epoch {epoch}/{self._n_epochs}: {_note(best_val_top1, n_failed)}")

    def stack_ended(self) -> None: ...

    def close(self) -> None:
        """Nothing is left open."""


def _note(best_val_top1: float, n_failed: int) -> str:
    failed = f", {n_failed} failed" if n_failed else ""
    return f"best val top-1 {best_val_top1:.3f}{failed}"
