"""Runs the commands and the code of docs/dense.md in order, on small folders of drawn images with masks and boxes."""

import re
import shlex
import shutil
import sys
from pathlib import Path

import pytest
from scenes import draw_scenes
from squares import SPLITS, draw_squares

import sweep.cli

PAGE = Path(__file__).parents[2] / "docs" / "dense.md"
TINY = ("--backbone", "tiny-untrained", "--group-size", "2", "--trials", "3", "--epochs", "2", "--n-parallel", "3")


def newest(found: re.Match[str]) -> str:
    """The newest run of a study, in place of `runs/STUDY-…`."""
    return str(max(Path("runs").glob(f"{found[1]}-*"), key=lambda path: path.stat().st_mtime))


def test_every_command(tmp_path: Path, cache_dir: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("SWEEP_CACHE_DIR", str(cache_dir))
    monkeypatch.chdir(tmp_path)
    draw_scenes(Path("scenes"))
    draw_squares(Path("cells"))
    text = PAGE.read_text(encoding="utf-8")
    commands = re.findall(r"^    sweep (.*)$", text, re.MULTILINE)
    assert len(commands) > 10
    for command in commands:
        arguments = shlex.split(re.sub(r"runs/(\w+)-…", newest, command))
        if arguments[0] in ("run", "plan"):
            arguments += [*TINY, "--image-size", "32"] + ([] if "--data" in arguments else ["--data", "./scenes"])
        monkeypatch.setattr(sys, "argv", ["sweep", *arguments])
        with pytest.raises(SystemExit) as ended:
            sweep.cli.main()
        assert not ended.value.code, command
    assert len(list(Path("predicted").rglob("*.png"))) == len(list(Path("scenes/images").rglob("*.png")))
    assert len(Path("counts.csv").read_text().splitlines()) == sum(SPLITS.values()) + 1
    shutil.copy("cells/JPEGImages/test_1.jpg", "photo.jpg")
    (code,) = re.findall(r"```python\n(.*?)```", text, re.DOTALL)
    exec(code, {})
