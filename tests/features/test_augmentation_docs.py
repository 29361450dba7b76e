"""Runs the study and the commands in the section on augmentation of docs/data.md."""

import re
import sys
from pathlib import Path

import pytest

import sweep.cli
from sweep import load_results
from sweep.study.augmentation import OWN_FUNCTION

PAGE = Path(__file__).parents[2] / "docs" / "data.md"
TINY = "--backbone tiny-untrained --group-size 2 --trials 2 --epochs 2 --n-parallel 2 --device cpu"


def test_every_command_and_the_study(photos: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("SWEEP_CACHE_DIR", str(tmp_path / "cache"))
    section = PAGE.read_text(encoding="utf-8").split("\n## Augmentation\n")[1].split("\n## ")[0]
    (file,) = re.findall(r"```python\n(# augmented\.py.*?)```", section, re.DOTALL)
    Path("augmented.py").write_text(file)
    commands = re.findall(r"^    sweep (.*)$", section, re.MULTILINE)
    commands += [
        f"{command} --data {photos}" for command in re.findall(r"^# augmented\.py:  sweep (.*)$", file, re.MULTILINE)
    ]
    augmentations = set()
    for number, command in enumerate(commands):
        out = ["--out", f"run{number}"] if command.startswith("run") else []
        monkeypatch.setattr(sys, "argv", ["sweep", *command.split(), *TINY.split(), *out])
        with pytest.raises(SystemExit) as ended:
            sweep.cli.main()
        assert not ended.value.code, command
        if out:
            config = load_results(out[1]).config
            augmentations.add((config["augment"], config["views"], config["cache"]))
    assert augmentations == {("flip-crop", 4, "on"), ("flip-crop", None, "off"), (OWN_FUNCTION, 4, "on")}
