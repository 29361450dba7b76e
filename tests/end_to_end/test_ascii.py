"""Whole commands on terminals, pipes and machines without UTF-8."""

import os
import subprocess
import sys
from pathlib import Path

import pytest

from sweep.export.write import export_run
from tests.conftest import draw_images

STUDY = """
from sweep import LaneConfig, Study


def suggest(trial):
    return LaneConfig(lr=trial.suggest_float("lr", 1e-3, 1e-1, log=True), rank=2)


study = Study(
    suggest=suggest, baseline={"lr": 1e-2}, max_rank=2, backbone="tiny-untrained", group_size=2, epochs=2, trials=2
)
"""
IN_ASCII = {"LC_ALL": "C", "PYTHONUTF8": "0", "PYTHONCOERCECLOCALE": "0", "PYTHONIOENCODING": "ascii"}


@pytest.mark.slow
def test_whole_commands_in_ascii(tmp_path: Path) -> None:
    """The class is named after its folder, `überall`. With an ASCII file system, this name cannot be decoded."""
    images = draw_images(tmp_path / "images", "überall")
    (tmp_path / "mine.py").write_text(STUDY, encoding="utf-8")
    environment = {**os.environ, "SWEEP_CACHE_DIR": str(tmp_path / "cache"), "COLUMNS": "200"}
    environment = {name: value for name, value in environment.items() if name not in ("LANG", "LC_CTYPE")}

    def printed(*arguments: str) -> str:
        done = subprocess.run(
            [sys.executable, "-m", "sweep", *arguments],
            cwd=tmp_path,
            env=environment | IN_ASCII,
            capture_output=True,
            timeout=600,
            check=False,
        )
        assert done.returncode == 0, done.stderr.decode(errors="replace")
        assert b"Traceback" not in done.stderr
        return done.stdout.decode("ascii")

    study = ("--study", "./mine.py", "--data", "images")
    assert "lanes that fit" in printed("plan", *study)
    assert "+/-" in printed("run", *study, "--n-parallel", "4", "--folds", "2", "--out", "run")
    assert "+/- is the standard error over folds" in printed("results", "run")
    printed("report", "run", "--out", "report.html")
    page = (tmp_path / "report.html").read_text(encoding="utf-8")
    assert "all" in page
    assert "±" in page
    export_run(tmp_path / "run", tmp_path / "model", cache_dir=tmp_path / "cache")
    table = printed("predict", "model", "images")
    assert len(table.splitlines()) == 1 + len(list(images.rglob("*.png")))
