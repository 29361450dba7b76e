"""What a run shows: bars where somebody watches, lines where the output is piped."""

import io

from rich.console import Console

from sweep.cli.progress import LineReporter, TerminalReporter, reporter_for
from sweep.reporter import Reporter


def drive(reporter: Reporter) -> None:
    """A run of 20 epochs of two steps, one lane of which fails."""
    reporter.message("data: [photos]")
    for done in (32, 40):
        reporter.features("train", done, 40)
    reporter.stack_started(8, 20, 40)
    for epoch in range(1, 21):
        reporter.step()
        reporter.step()
        reporter.epoch(epoch, 0.5 + epoch / 100, n_failed=1)
    reporter.stack_ended()


def test_bars_show_lanes_epoch_best_and_failures() -> None:
    screen = Console(file=io.StringIO(), force_terminal=True, width=100, color_system=None)
    reporter = reporter_for(screen)
    assert isinstance(reporter, TerminalReporter)
    drive(reporter)
    assert isinstance(screen.file, io.StringIO)
    shown = screen.file.getvalue()
    for part in (
        "data: [photos]",
        "features of train",
        "8 lanes, epoch 20/20",
        "best val top-1 0.700, 1 failed",
        "40/40",
    ):
        assert part in shown


def test_lines_are_few_and_plain() -> None:
    pipe = Console(file=io.StringIO(), width=100)
    reporter = reporter_for(pipe)
    assert isinstance(reporter, LineReporter)
    drive(reporter)
    assert isinstance(pipe.file, io.StringIO)
    lines = pipe.file.getvalue().splitlines()
    assert lines[:3] == ["data: [photos]", "features of train: 40 images", "training 8 lanes for 20 epochs"]
    assert lines[-1] == "epoch 20/20: best val top-1 0.700, 1 failed"
    assert len(lines) == 3 + 10
