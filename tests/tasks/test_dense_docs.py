"""Runs the commands of docs/dense.md in order, on a small folder of drawn images with masks."""

import re
import shlex
import sys
from pathlib import Path

import pytest
from scenes import draw_scenes

import sweep.cli

PAGE = Path(__file__).parents[2] / "docs" / "dense.md"
TINY = ("--backbone", "tiny-untrained", "--group-size", "2", "--trials", "3", "--epochs", "2", "--n-parallel", "3")


def test_every_command(tmp_path: Path, cache_dir: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("SWEEP_CACHE_DIR", str(cache_dir))
    monkeypatch.chdir(tmp_path)
    draw_scenes(Path("scenes"))
    commands = re.findall(r"^    sweep (.*)$", PAGE.read_text(encoding="utf-8"), re.MULTILINE)
    assert len(commands) > 4
    for command in commands:
        runs = sorted(Path("runs").glob("segmentation-*"), key=lambda path: path.stat().st_mtime)
        arguments = shlex.split(command.replace("runs/segmentation-…", str(runs[-1]) if runs else "none yet"))
        if arguments[0] == "run":
            arguments += [*TINY, "--image-size", "64"] + ([] if "--data" in arguments else ["--data", "./scenes"])
        monkeypatch.setattr(sys, "argv", ["sweep", *arguments])
        with pytest.raises(SystemExit) as ended:
            sweep.cli.main()
        assert not ended.value.code, command
    assert len(list(Path("predicted").rglob("*.png"))) == len(list(Path("scenes/images").rglob("*.png")))
