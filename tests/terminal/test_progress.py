"""What a run prints: progress bars in a terminal, lines if the output is piped."""

import io

from rich.console import Console

from sweep.records.reporter import Reporter, SearchProgress
from sweep.terminal.progress import LineReporter, TerminalReporter, reporter_for


def drive(reporter: Reporter) -> None:
    """Report a search of 8 trials and 20 epochs of two steps. One trial fails at once."""
    reporter.message("data: [photos]")
    for done in (32, 40):
        reporter.features("images of train", done, 40)
    reporter.search_started(8, 20)
    for epoch in range(1, 21):
        reporter.epoch_started(8, 8 / 40)
        reporter.step()
        reporter.step()
        progress = SearchProgress(
            n_trials=8,
            n_complete=7 if epoch == 20 else 0,
            n_pruned=0,
            n_failed=1,
            n_running=0 if epoch == 20 else 7,
            trials_done=1 + 7 * epoch / 20,
            objective="val_top1",
            best=0.5 + epoch / 100,
        )
        reporter.epoch_ended(progress)
    reporter.search_ended()


def test_bars_show_lanes_epoch_best_and_failures() -> None:
    screen = Console(file=io.StringIO(), force_terminal=True, width=100, color_system=None)
    reporter = reporter_for(screen)
    assert isinstance(reporter, TerminalReporter)
    drive(reporter)
    assert isinstance(screen.file, io.StringIO)
    shown = screen.file.getvalue()
    for part in (
        "data: [photos]",
        "features, images of train",
        "trials, 8 lanes",
        "best val_top1 0.700, 1 failed",
        "8/8",
    ):
        assert part in shown


def test_lines_are_few_and_plain() -> None:
    pipe = Console(file=io.StringIO(), width=100)
    reporter = reporter_for(pipe)
    assert isinstance(reporter, LineReporter)
    drive(reporter)
    assert isinstance(pipe.file, io.StringIO)
    lines = pipe.file.getvalue().splitlines()
    assert lines[:3] == ["data: [photos]", "features: 40 images of train", "training 8 trials of 20 epochs"]
    assert lines[-1] == "8.0 of 8 trials: best val_top1 0.700, 1 failed"
    assert len(lines) <= 3 + 10
