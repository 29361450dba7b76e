"""What tests of small runs of several tasks share: stopping a run, calling a command, and comparing tables."""

import sys
from pathlib import Path

import pandas as pd
import pytest

import sweep
import sweep.cli
from sweep.terminal.progress import LineReporter


class Stopped(LineReporter):
    """Stops a run after its third epoch, as Ctrl-C does."""

    n_left = 3

    def epoch_ended(self, progress: object) -> None:
        self.n_left -= 1
        if self.n_left == 0:
            raise KeyboardInterrupt


def call(command: str, *arguments: str) -> int:
    """Run a command, and return its exit code."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(sys, "argv", ["sweep", command, *arguments])
        with pytest.raises(SystemExit) as ended:
            sweep.cli.main()
    assert isinstance(ended.value.code, int)
    return ended.value.code


def tables_without_times(*paths: Path) -> list[pd.DataFrame]:
    """The runs' tables of trials without the columns of seconds, which no two runs have alike."""
    tables = [sweep.load_run(path).trials for path in paths]
    return [table[[name for name in table.columns if "seconds" not in name]] for table in tables]
