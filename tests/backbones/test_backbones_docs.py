"""Runs the examples of docs/backbones.md: its files as they are, and its commands on a few small images.

To run all commands, including those with large networks: `pytest -m slow tests/backbones/test_backbones_docs.py`
"""

import re
import shlex
import shutil
import sys
from pathlib import Path

import pandas as pd
import pytest

import sweep.cli
from backbones.packaged import PACKAGED
from sweep.records.results import load_results

TEXT = (Path(__file__).parents[2] / "docs" / "backbones.md").read_text(encoding="utf-8")
FILES = re.findall(r"```python\n(# (\w+\.py):  (sweep run [^\n]*)\n.*?)```", TEXT, flags=re.DOTALL)
EVERY = [line.strip().partition(" #")[0] for line in re.findall(r"^    (sweep .*)$", TEXT, flags=re.MULTILINE)]
TEXT_COMMANDS = [command for command in EVERY if "text_lr_rank" in command]
COMMANDS = [command for command in EVERY if command not in TEXT_COMMANDS]
SMALL = ["--trials", "2", "--epochs", "1", "--n-parallel", "2", "--out", "run"]


def run(monkeypatch: pytest.MonkeyPatch, cache_dir: Path, arguments: list[str]) -> None:
    monkeypatch.setenv("SWEEP_CACHE_DIR", str(cache_dir))
    monkeypatch.setattr(sys, "argv", ["sweep", *arguments])
    with pytest.raises(SystemExit) as ended:
        sweep.cli.main()
    assert not ended.value.code


def test_all_examples_of_the_page_are_found() -> None:
    assert len(FILES) == 2
    assert len(COMMANDS) == 8
    assert len(TEXT_COMMANDS) == 4


@pytest.mark.parametrize(("source", "name", "command"), FILES, ids=[name for _, name, _ in FILES])
def test_files(
    source: str, name: str, command: str, photos: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    Path(name).write_text(source, encoding="utf-8")
    run(monkeypatch, tmp_path / "cache", [*shlex.split(command)[1:], "--data", str(photos), *SMALL])
    results = load_results(Path("run"))
    assert results.config["backbone"] == f"./{name}:build"
    assert (results.trials["state"] == "COMPLETE").all()


@pytest.mark.parametrize("command", TEXT_COMMANDS)
def test_text_commands(
    command: str,
    text_decoder: Path,
    text_table: Path,
    tmp_path: Path,
    cache_dir: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """Run the command on a few texts. A network that would be downloaded is replaced by the small one in the folder."""
    monkeypatch.chdir(tmp_path)
    shutil.copytree(text_decoder, "gpt2")
    arguments = [argument.replace("openai-community", ".") for argument in shlex.split(command)[1:]]
    if "--max-tokens" in arguments:  # the small network takes fewer tokens than the command asks for
        arguments[arguments.index("--max-tokens") + 1] = "32"
    pd.read_csv(text_table).head(24).to_csv("few.csv", index=False)
    run(monkeypatch, cache_dir, [*arguments, "--data", "few.csv", *SMALL])
    results = load_results(Path("run"))
    assert (results.trials["state"] == "COMPLETE").all()
    named = [name for name in ("./gpt2", "smollm2_135m") if name.removeprefix("./") in command]
    assert results.config["backbone"] == (named[0] if named else "minilm_l6")


@pytest.mark.slow
@pytest.mark.parametrize("command", COMMANDS)
def test_commands(command: str, photos: Path, tmp_path: Path, cache_dir: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Run the command. A network whose weights come from the hub gets random weights instead."""
    monkeypatch.chdir(tmp_path)
    arguments = shlex.split(command)[1:]
    if arguments[0] == "backbones":
        run(monkeypatch, cache_dir, arguments)
        return
    place = arguments.index("--backbone") + 1
    if arguments[place] not in PACKAGED:
        arguments[place] = f"untrained:{arguments[place]}"
    run(monkeypatch, cache_dir, [*arguments, "--data", str(photos), *SMALL])
    assert (load_results(Path("run")).trials["state"] == "COMPLETE").all()
