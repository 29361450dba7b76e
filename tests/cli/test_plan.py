"""`sweep plan`, and a run that takes its number of lanes from the plan."""

import json
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

import sweep.cli
import sweep.running.planner
from sweep.study.budget import whole_seconds

Cli = Callable[..., str]


@pytest.fixture
def cli(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], photos: Path, tmp_path: Path) -> Cli:
    """Run a subcommand in this process on a small study.

    Return its standard output with runs of spaces made one space.
    """
    monkeypatch.setenv("SWEEP_CACHE_DIR", str(tmp_path / "cache"))
    monkeypatch.chdir(tmp_path)
    small = "--study lr_rank --backbone tiny-untrained --group-size 2 --trials 5 --epochs 3 --batch-size 4 --device cpu"

    def call(command: str, *options: str) -> str:
        monkeypatch.setattr(sys, "argv", ["sweep", command, *small.split(), "--data", str(photos), *options])
        with pytest.raises(SystemExit) as ended:
            sweep.cli.main()
        captured = capsys.readouterr()
        assert ended.value.code == 0, captured.err
        return " ".join(captured.out.split())

    return call


def test_plan_prints_every_cost_and_runs_nothing(cli: Cli, tmp_path: Path) -> None:
    printed = cli("plan", "--n-parallel", "2")
    n_images = 16
    for text in (
        f"s for {n_images} images; 0 are in the cache",
        f"MiB on disk for {n_images} images",
        "available",
        "stack up to 2 lanes",
        "epochs 3 per trial, of",
        "form rank space",
    ):
        assert text in printed
    assert not (tmp_path / "runs").exists()
    assert not list((tmp_path / "cache").glob("features/*")), "no feature was computed"
    assert "stack up to 5 lanes" in cli("plan"), "5 trials need 5 lanes only, although 32 are the default"


def test_auto_takes_as_many_lanes_as_fit(cli: Cli, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sweep.running.planner, "lanes_that_fit", lambda *args: 4)
    assert "stack up to 4 lanes" in cli("plan", "--n-parallel", "auto")
    printed = cli("run", "--n-parallel", "auto", "--out", "here")
    summary = json.loads(Path("here/summary.json").read_text())
    planned, took = summary["plan"]["search_wall_seconds"], summary["wall_seconds"]["search"]
    assert f"the search was planned to take {whole_seconds(planned)} and took {whole_seconds(took)}" in printed
    assert summary["plan"]["n_parallel"] == 4
    assert "s for 0 images; 16 are in the cache" in cli("plan")
