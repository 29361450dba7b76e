"""Runs the commands and the code of docs/dense.md, and the commands of its measurements, on small folders of images."""

import re
import shlex
import shutil
import sys
from pathlib import Path

import pytest
from scenes import draw_scenes
from squares import SPLITS, draw_squares

import sweep.cli

DOCS = Path(__file__).parents[2] / "docs"
TINY = ("--backbone", "tiny-untrained", "--group-size", "2", "--trials", "3", "--epochs", "2", "--n-parallel", "3")


def newest(found: re.Match[str]) -> str:
    """The newest run of a study, in place of `runs/STUDY-…`."""
    return str(max(Path("runs").glob(f"{found[1]}-*"), key=lambda path: path.stat().st_mtime))


def run_commands(text: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """Run every command of a page, in order."""
    commands = re.findall(r"^    sweep (.*)$", text, re.MULTILINE)
    assert len(commands) > 5
    for command in commands:
        arguments = shlex.split(re.sub(r"runs/(\w+)-…", newest, command))
        if arguments[0] in ("run", "plan"):
            arguments += [*TINY, "--image-size", "32"] + ([] if "--data" in arguments else ["--data", "./scenes"])
        monkeypatch.setattr(sys, "argv", ["sweep", *arguments])
        with pytest.raises(SystemExit) as ended:
            sweep.cli.main()
        assert not ended.value.code, command


@pytest.fixture
def drawn(tmp_path: Path, cache_dir: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A working folder with drawn images: `scenes` with masks, `cells` with boxes."""
    monkeypatch.setenv("SWEEP_CACHE_DIR", str(cache_dir))
    monkeypatch.chdir(tmp_path)
    draw_scenes(Path("scenes"))
    draw_squares(Path("cells"))


def test_every_command_of_the_manual(drawn: None, monkeypatch: pytest.MonkeyPatch) -> None:
    text = (DOCS / "dense.md").read_text(encoding="utf-8")
    run_commands(text, monkeypatch)
    assert len(list(Path("predicted").rglob("*.png"))) == len(list(Path("scenes/images").rglob("*.png")))
    assert len(Path("counts.csv").read_text().splitlines()) == sum(SPLITS.values()) + 1
    shutil.copy("cells/JPEGImages/test_1.jpg", "photo.jpg")
    (code,) = re.findall(r"```python\n(.*?)```", text, re.DOTALL)
    exec(code, {})


def test_every_command_of_the_measurements(drawn: None, monkeypatch: pytest.MonkeyPatch) -> None:
    run_commands((DOCS / "benchmarks" / "masks-and-boxes.md").read_text(encoding="utf-8"), monkeypatch)
