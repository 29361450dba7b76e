"""`--help` and `--version`, which run nothing."""

import sys
import tomllib
from pathlib import Path
from typing import Any

import pytest
import typer

import sweep.cli
from sweep.cli import data_options, options

PYPROJECT = Path(__file__).parents[2] / "pyproject.toml"
COMMANDS: dict[str, Any] = typer.main.get_command(sweep.cli.app).commands  # type: ignore[attr-defined]
PANELS = [
    options.SEARCH,
    data_options.DATA,
    options.BACKBONE,
    options.SIDE_NETWORKS,
    options.TRAINING,
    options.BUDGET,
    options.PLACE,
]


def printed(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], *arguments: str) -> str:
    monkeypatch.setattr(sys, "argv", ["sweep", *arguments])
    with pytest.raises(SystemExit) as ended:
        sweep.cli.main()
    assert ended.value.code == 0
    return capsys.readouterr().out


def test_version_is_the_one_of_the_project(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    declared = tomllib.loads(PYPROJECT.read_text(encoding="utf-8"))["project"]["version"]
    assert printed(monkeypatch, capsys, "--version") == f"sweep {declared}\n"


@pytest.mark.parametrize("command", ["run", "plan"])
def test_every_option_stands_in_a_panel(command: str) -> None:
    panels = {option.name: option.rich_help_panel for option in COMMANDS[command].params}
    assert [name for name, panel in panels.items() if panel not in PANELS] == []


def test_help_shows_the_panels_in_order(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    shown = printed(monkeypatch, capsys, "run", "--help")
    places = [shown.index(f"─ {panel} ─") for panel in PANELS]
    assert places == sorted(places)


@pytest.mark.parametrize("command", sorted(COMMANDS))
def test_every_option_has_a_help_text_of_sentences(command: str) -> None:
    for parameter in COMMANDS[command].params:
        assert parameter.help, parameter.name
        assert parameter.help.endswith("."), parameter.help
    assert COMMANDS[command].help
