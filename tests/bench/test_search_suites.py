"""The suites `search`, `proposals`, `shapes` and `busy`: what they compare, and what is written."""

import io
import json
import os
from dataclasses import dataclass, replace
from pathlib import Path

import pytest
from rich.console import Console
from typer.testing import CliRunner

from sweep.bench import busy, proposals, shapes
from sweep.bench.measure import Spread
from sweep.bench.proposals import LEARNING, RANDOM, ProposalSizes, SearchOutcome, advantages
from sweep.bench.report import search_json, show_search
from sweep.bench.search import OPTUNA, WITH_RUNGS, ArmRun, SearchBenchmark, SearchSizes
from sweep.cli import app
from sweep.study.finding import LoadedStudy, load_study


@dataclass(frozen=True)
class FewProposals(ProposalSizes):
    data: tuple[str, ...] = ("digits",)
    image_size: int | None = 28
    n_parallel: int = 4
    epochs: int = 4
    n_seeds: int = 1


@pytest.fixture
def few_trials(monkeypatch: pytest.MonkeyPatch, cache_dir: Path) -> None:
    """Give the studies that both suites run fewer trials."""

    def shorter(name: str) -> LoadedStudy:
        loaded = load_study(name)
        return replace(loaded, study=replace(loaded.study, trials=8))

    monkeypatch.setenv("SWEEP_CACHE_DIR", str(cache_dir))
    monkeypatch.setattr(proposals, "load_study", shorter)
    monkeypatch.setattr(shapes, "load_study", shorter)


def test_search_reports_the_configurations_an_hour_of_every_arm() -> None:
    ours, theirs = ArmRun([(9.0, 0.7)], 10, 50, 70, 72.0, 1.0), ArmRun([(3.0, 0.6)], 4, 5, 10, 75.0, 1.0)
    benchmark = SearchBenchmark({WITH_RUNGS: [ours], OPTUNA: [theirs]}, Spread.of([8.0]))
    content = search_json(benchmark, SearchSizes(image_size=112))
    (run,) = content["arms"][WITH_RUNGS]
    assert (run["complete_per_hour"], run["started_per_hour"]) == (3600 * 10 / 72, 3600 * 70 / 72)
    assert content["speedup_over_optuna"]["median"] == 8.0
    console = Console(file=io.StringIO(), width=200)
    with console.capture() as capture:
        show_search(console, benchmark, SearchSizes(image_size=112))
    row = next(line for line in capture.get().splitlines() if WITH_RUNGS in line)
    assert [" 500 " in row, " 3500 " in row] == [True, True]


@pytest.mark.slow
def test_search_runs_its_arms_at_another_size(monkeypatch: pytest.MonkeyPatch, cache_dir: Path, tmp_path: Path) -> None:
    monkeypatch.setenv("SWEEP_CACHE_DIR", str(cache_dir))
    path = tmp_path / "search.json"
    small = ["--image-size", "28", "--n-parallel", "3", "--epochs", "3", "--time", "5s", "--seeds", "1"]
    result = CliRunner().invoke(app, ["bench", "--suite", "search", *small, "--json", str(path)])
    assert result.exit_code == 0, result.output
    arms = json.loads(path.read_text())["arms"]
    assert len(arms) == 4
    for (run,) in arms.values():
        assert run["n_started"] >= max(1, run["n_complete"] + run["n_pruned"])
        assert run["started_per_hour"] >= run["complete_per_hour"]
        assert run["wall_seconds"] >= 5


@pytest.mark.slow
def test_both_arms_of_proposals_train_as_many_lane_epochs(
    few_trials: None, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setattr(proposals, "ProposalSizes", FewProposals)
    path = tmp_path / "proposals.json"
    result = CliRunner().invoke(app, ["bench", "--suite", "proposals", "--json", str(path)])
    assert result.exit_code == 0, result.output
    content = json.loads(path.read_text())
    searches = content["searches"]
    assert [s["arm"] for s in searches] == [LEARNING, RANDOM]
    learning, at_random = searches
    assert learning["n_trials"] == 8
    assert learning["lane_epochs"] < 8 * FewProposals.epochs, "the rungs stopped some trials"
    assert abs(learning["lane_epochs"] - at_random["lane_epochs"]) <= FewProposals.epochs / 2
    assert at_random["lane_epochs"] == FewProposals.epochs * at_random["n_trials"], "no trial is stopped early"
    (gain,) = content["advantages"]
    assert gain["test"] == pytest.approx(learning["test"] - at_random["test"])
    assert f"{gain['test']:+.3f} ±" in result.output


def test_advantage_is_over_pairs_of_equal_seeds() -> None:
    def outcome(data: str, arm: str, seed: int, val: float, test: float) -> SearchOutcome:
        return SearchOutcome(data, arm, seed, val, test, 1, 1)

    found = advantages(
        [
            *(outcome("a", LEARNING, 0, 0.9, 0.8), outcome("a", RANDOM, 0, 0.8, 0.8)),
            *(outcome("a", LEARNING, 1, 0.7, 0.6), outcome("a", RANDOM, 1, 0.4, 0.7)),
        ]
    )
    (gain,) = found
    assert (gain.val, gain.val_error) == pytest.approx((0.2, 0.1))
    assert (gain.test, gain.test_error) == pytest.approx((-0.05, 0.05))


@dataclass(frozen=True)
class FewShapes(shapes.ShapeSizes):
    image_size: int = 28
    n_parallel: int = 4
    epochs: int = 3
    trials: int = 8
    n_seeds: int = 1


@pytest.mark.slow
def test_shapes_compares_filled_stacks_with_stacks_as_they_fall(
    few_trials: None, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setattr(shapes, "ShapeSizes", FewShapes)
    path = tmp_path / "shapes.json"
    result = CliRunner().invoke(app, ["bench", "--suite", "shapes", "--json", str(path)])
    assert result.exit_code == 0, result.output
    content = json.loads(path.read_text())
    assert [run["filled"] for run in content["runs"]] == [True, False]
    for run in content["runs"]:
        numbers, best = zip(*run["best"], strict=True)
        assert numbers[-1] == FewShapes.trials, "the curve ends with the last trial"
        assert list(best) == sorted(best)
    filled, plain = (run["configs_per_hour"] for run in content["runs"])
    assert content["filling_speedup"]["median"] == pytest.approx(filled / plain)
    assert content["buckets"][-1] == max(shapes.RANKS)
    assert "best on val" in result.output


@dataclass(frozen=True)
class FewLanes(busy.BusySizes):
    image_size: int = 28
    n_parallel: int = 2
    rank: int = 2
    epochs: int = 1
    n_batches: int = 2
    batch_size: int = 4


@pytest.mark.slow
def test_busy_measures_every_part_with_and_without_a_program_that_takes_a_core(
    monkeypatch: pytest.MonkeyPatch, cache_dir: Path, tmp_path: Path
) -> None:
    monkeypatch.setenv("SWEEP_CACHE_DIR", str(cache_dir))
    monkeypatch.setattr(busy, "BusySizes", FewLanes)
    started = tmp_path / "started"
    monkeypatch.setattr(
        busy, "BURN", f"import os; open({str(started)!r}, 'w').write(str(os.getpid()))\nwhile True: pass"
    )
    path = tmp_path / "busy.json"
    result = CliRunner().invoke(app, ["bench", "--suite", "busy", "--json", str(path)])
    assert result.exit_code == 0, result.output
    with pytest.raises(ProcessLookupError):  # the other program ran, and has ended
        os.kill(int(started.read_text()), 0)
    rows = json.loads(path.read_text())["rows"]
    assert [row["what"] for row in rows] == [busy.PASS, busy.DIVIDED, busy.TRAINING]
    for row in rows:
        quiet, beside, ratio = (row[name]["median"] for name in ("quiet_seconds", "busy_seconds", "slowdown"))
        assert ratio == pytest.approx(beside / quiet)
