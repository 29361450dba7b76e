"""What `sweep run` and `sweep results` say of the winner beside the linear probe."""

import io
import json
import shutil
from pathlib import Path

import pytest
from rich.console import Console

from sweep import load_results
from sweep.cli.show import show_summary
from sweep.records.folder import RunFolder


@pytest.mark.parametrize(("winner", "probe", "said"), [(0.6, 0.6, True), (0.6, 0.7, True), (0.6, 0.5, False)])
def test_a_probe_that_is_as_good_is_said(
    finished_run: Path, tmp_path: Path, winner: float, probe: float, said: bool
) -> None:
    run = tmp_path / "run"
    shutil.copytree(finished_run, run)
    path = RunFolder(run).summary_path
    summary = json.loads(path.read_text())
    summary["winner"]["test"]["top1"], summary["linear_probe"]["test"]["top1"] = winner, probe
    path.write_text(json.dumps(summary))
    console = Console(file=io.StringIO(), width=120)
    with console.capture() as capture:
        show_summary(console, load_results(run), run)
    assert ("the linear probe is as good on test" in capture.get()) == said
