"""The script behind docs/image-generation.md runs, on fewer images."""

import re
import runpy
from pathlib import Path

import pytest

SCRIPT = Path(__file__).parents[2] / "docs" / "decode_images.py"


@pytest.mark.slow
def test_the_script_prints_errors_and_distances(capsys: pytest.CaptureFixture[str]) -> None:
    runpy.run_path(str(SCRIPT))["main"](n_train=100, n_test=60, n_epochs=1)
    rows = {row.split(" | ")[0].strip("| "): row for row in capsys.readouterr().out.splitlines()}
    assert {"linear decoder", "ladder", "train images themselves", "mean of two train images"} <= rows.keys()
    assert len(re.findall(r"\d+\.\d+", rows["ladder"])) == 3
