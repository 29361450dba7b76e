"""`sweep watch`: what it reads from a run in progress, and how it shows it."""

import io
import json
import re
import shutil
import sys
from dataclasses import replace
from pathlib import Path
from typing import Any

import optuna
import pytest
from optuna.trial import TrialState
from rich.console import Console

import sweep.cli
from sweep import Halving, LaneConfig, Study, SweepError, UsageError, load_results
from sweep.api import run as api
from sweep.records.folder import RunFolder
from sweep.records.reporter import Reporter, SearchProgress
from sweep.report.watch import RunView, Watcher
from sweep.terminal.lanes_view import BARS, heading, sparkline, view
from sweep.terminal.progress import TerminalReporter

COMMAND = sys.modules["sweep.cli.watch"]  # the attribute `sweep.cli.watch` is the function, not the module


@pytest.fixture
def cache(finished_run: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("SWEEP_CACHE_DIR", str(finished_run.parent / "cache"))


class Watching(Reporter):
    """Reads the state of the run from its files after every epoch."""

    def __init__(self, run: Path, stop_after: int | None = None):
        self.run, self.stop_after = run, stop_after
        self.seen: list[tuple[SearchProgress, RunView]] = []

    def search_started(self, n_trials: int, n_epochs: int) -> None:
        self.before = Watcher(RunFolder.open(self.run), None).look()

    def epoch_ended(self, progress: SearchProgress) -> None:
        self.seen.append((progress, Watcher(RunFolder.open(self.run), None).look()))
        if len(self.seen) == self.stop_after:
            raise KeyboardInterrupt


def suggest(trial: optuna.Trial) -> LaneConfig:
    return LaneConfig(
        lr=trial.suggest_float("lr", 1e-3, 1e-1, log=True), rank=trial.suggest_categorical("rank", [1, 2])
    )


def drawn(finished_run: Path, **declared: Any) -> Study:
    return Study(
        suggest=suggest,
        baseline={"lr": 1e-2, "rank": 2},
        max_rank=2,
        backbone="tiny-untrained",
        data=str(finished_run.parent / "images"),
        group_size=2,
        batch_size=16,
        **declared,
    )


@pytest.fixture(scope="module")
def watching(finished_run: Path, tmp_path_factory: pytest.TempPathFactory) -> Watching:
    """A run with rungs that was watched after every epoch."""
    reporter = Watching(tmp_path_factory.mktemp("watched") / "run")
    study = drawn(finished_run, trials=6, epochs=4, halving=Halving(eta=2, first_rung=1))
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("SWEEP_CACHE_DIR", str(finished_run.parent / "cache"))
        api.run(study, n_parallel=3, out=reporter.run, device="cpu", reporter=reporter)
    return reporter


def test_watch_shows_what_the_run_itself_reports(watching: Watching) -> None:
    assert watching.before.trials == []
    assert "no trial has started yet; the features are computed first" in heading(watching.before)
    for progress, seen in watching.seen:
        assert seen.counts.get("training", 0) + seen.counts.get("refilled", 0) == seen.lanes == progress.n_running
        assert seen.counts.get("complete", 0) == progress.n_complete
        assert seen.counts.get("pruned", 0) == progress.n_pruned
        assert seen.best is not None
        assert seen.best.values[-1] == progress.best
        assert seen.configs_per_hour is not None
        assert not seen.ended
        running = [trial.in_training for trial in seen.trials]
        assert running == sorted(running, reverse=True)
        shown = f"{progress.n_running} of 3 lanes occupied" if progress.n_running else "now come the linear probe"
        assert shown in heading(seen)
    first = watching.seen[0][1]
    assert first.seconds_left is not None
    assert f"{first.configs_per_hour:.0f} configurations an hour" in heading(first)


def test_a_trial_in_a_used_lane_is_shown_as_refilled(watching: Watching) -> None:
    lanes = load_results(watching.run).trials.set_index("trial")["lane"]
    for _, seen in watching.seen:
        assert all(trial.lane == lanes[trial.number] for trial in seen.trials)
        left = {trial.lane for trial in seen.trials if not trial.in_training}
        for trial in seen.trials:
            if trial.in_training:
                assert trial.state == ("refilled" if trial.lane in left else "training")
    assert "refilled" in watching.seen[-2][1].counts


def test_curves_equal_those_of_the_table(watching: Watching) -> None:
    curves = load_results(watching.run).curves
    last = Watcher(RunFolder.open(watching.run), None).look()
    assert last.ended
    assert "the run has ended" in heading(last)
    for trial in last.trials:
        own = curves[(curves["trial"] == trial.number) & (curves["metric"] == "val_top1")].sort_values("epoch")
        assert trial.values == own["value"].to_list()
        assert trial.epoch == len(own)
        assert ("rung" in trial.why) == (trial.state == "pruned")


def test_a_stopped_run_is_shown_as_stopped(
    finished_run: Path, cache: None, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    reporter = Watching(tmp_path / "run", stop_after=2)
    monkeypatch.setattr("sweep.report.watch.SILENCE_OF_A_STOPPED_RUN", 0)
    with pytest.raises(KeyboardInterrupt):
        api.run(
            drawn(finished_run, trials=2, epochs=4), n_parallel=2, out=tmp_path / "run", device="cpu", reporter=reporter
        )
    assert not any(seen.stopped for _, seen in reporter.seen)
    seen = Watcher(RunFolder.open(tmp_path / "run"), None).look()
    assert (seen.ended, seen.stopped) == (False, True)
    assert "no process works on the run; continue it with sweep resume" in heading(seen)
    assert call(monkeypatch, tmp_path / "run") == 0


def test_several_objectives(pareto_run: Path) -> None:
    seen = Watcher(RunFolder.open(pareto_run), None).look()
    trials = load_results(pareto_run).trials
    assert seen.best is not None
    assert seen.best.values[-1] == trials["val_nll"].min()
    assert {trial.epoch for trial in seen.trials} == {3}


def test_the_best_of_equal_trials_is_the_winner(watching: Watching) -> None:
    watcher = Watcher(RunFolder.open(watching.run), None)
    frozen = [trial for trial in watcher.study.get_trials() if trial.state == TrialState.COMPLETE]
    trials = {trial.number: watcher._watched(trial, set()) for trial in frozen}
    assert len(frozen) > 1
    tie = watcher.own.name("val_nll")
    for place, winner in enumerate(frozen):  # equal in top-1, so the smallest loss decides, whatever the number
        for other, trial in enumerate(frozen):
            trial.values = [0.5]
            trial.user_attrs[tie] = float(abs(other - place))
        best = watcher._best(frozen, trials)
        assert best is not None
        assert best.number == winner.number
    last = watcher.look().best
    assert last is not None
    assert last.number == load_results(watching.run).trials["trial"].iloc[0]


def test_a_trial_that_breaks_a_constraint_is_not_the_best(finished_run: Path, cache: None, tmp_path: Path) -> None:
    def constrained(trial: optuna.Trial) -> LaneConfig:
        config = suggest(trial)
        trial.set_constraint("rank", config.rank - 1.5)
        return config

    study = replace(drawn(finished_run, trials=4, epochs=1), suggest=constrained)
    run = api.run(study, n_parallel=2, out=tmp_path / "run", device="cpu")
    assert not run.trials["feasible"].all()
    best = Watcher(RunFolder.open(tmp_path / "run"), None).look().best
    assert best is not None
    assert best.number == run.best.number


@pytest.mark.parametrize("width", [30, 60, 120])
def test_narrow_and_low_terminals(watching: Watching, width: int) -> None:
    seen = watching.seen[-2][1]
    console = Console(file=io.StringIO(), width=width, height=12, legacy_windows=False)
    with console.capture() as capture:
        console.print(view(seen, console))
    shown = capture.get()
    lines = shown.splitlines()
    assert max(map(len, lines)) <= width
    assert len(lines) <= 12
    n_shown = sum(re.match(r" +\d  ( +\d  )?[a-z]", line) is not None for line in lines)
    assert n_shown >= 1
    if n_shown < len(seen.trials):
        assert f"and {len(seen.trials) - n_shown} more" in shown
    assert "refilled" in shown or width == 30
    assert ("lane" in lines[-n_shown - 2]) == (width >= 40)
    assert any(bar in shown for bar in BARS) == (width >= 60)
    assert ("lr=" in shown) == (width >= 80)


def test_sparklines() -> None:
    assert sparkline([0.0, 0.5, 1.0], 0.0, 1.0) == BARS[0] + BARS[4] + BARS[7]
    assert sparkline([0.3, float("nan"), 0.3], 0.3, 0.3) == BARS[4] + " " + BARS[4]
    assert len(sparkline([1.0] * 100, 0.0, 1.0)) == 24


def call(monkeypatch: pytest.MonkeyPatch, run: Path) -> object:
    monkeypatch.setattr(sys, "argv", ["sweep", "watch", str(run)])
    with pytest.raises(SystemExit) as ended:
        sweep.cli.main()
    return ended.value.code


def test_without_a_terminal_lines_are_printed(
    watching: Watching, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    assert call(monkeypatch, watching.run) == 0
    assert "6 of 6 trials have ended (" in capsys.readouterr().out
    looks = [watching.before, *(seen for _, seen in watching.seen)]
    last = Watcher(RunFolder.open(watching.run), None).look()
    monkeypatch.setattr(COMMAND, "SECONDS_BETWEEN_LOOKS", 0)
    monkeypatch.setattr("sweep.report.watch.Watcher.look", lambda self: looks.pop(0) if looks else last)
    assert call(monkeypatch, watching.run) == 0
    lines = capsys.readouterr().out.splitlines()
    assert len(lines) == len(set(lines)) == 2 + len(watching.seen)


def test_the_table_in_a_terminal(
    watching: Watching, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    file = io.StringIO()
    monkeypatch.setattr(COMMAND, "stdout", Console(file=file, width=100, height=20, force_terminal=True))
    monkeypatch.setattr(COMMAND, "SECONDS_BETWEEN_LOOKS", 0)
    looks = [seen for _, seen in watching.seen]
    last = Watcher(RunFolder.open(watching.run), None).look()
    monkeypatch.setattr("sweep.report.watch.Watcher.look", lambda self: looks.pop(0) if looks else last)
    assert call(monkeypatch, watching.run) == 0
    assert "lanes occupied" in file.getvalue()
    assert "the run has ended" in file.getvalue()


def test_the_run_itself_shows_its_lanes(
    finished_run: Path, cache: None, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("sweep.terminal.progress.SECONDS_BETWEEN_LOOKS", 0)
    screen = Console(file=io.StringIO(), width=140, height=20, force_terminal=True, color_system=None)
    reporter = TerminalReporter(screen)
    study = drawn(finished_run, trials=6, epochs=4, halving=Halving(eta=2, first_rung=1))
    api.run(study, n_parallel=3, out=tmp_path / "run", device="cpu", reporter=reporter)
    assert isinstance(screen.file, io.StringIO)
    shown = screen.file.getvalue()
    assert "3 of 3 lanes occupied" in shown
    assert re.search(r"\d +\d +refilled +\d/4 +0\.\d+ ", shown)
    assert "lr=" in shown


def test_runs_that_cannot_be_watched_are_refused(
    watching: Watching, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    with pytest.raises(UsageError, match="is not a run folder"):
        RunFolder.open(tmp_path)
    assert call(monkeypatch, tmp_path) == 2
    shutil.copytree(watching.run, tmp_path / "copy")
    folder = RunFolder(tmp_path / "copy")
    config = json.loads(folder.config_path.read_text())
    folder.write_json(folder.config_path, {**config, "trials": "many"})
    with pytest.raises(SweepError, match=r"config.json is damaged: its entry trials is 'many'"):
        Watcher(folder, None)
    folder.write_json(folder.config_path, {**config, "data": "\x1b[2J"})
    folder.summary_path.unlink(missing_ok=True)
    console = Console(file=io.StringIO(), width=100, height=20, force_terminal=False)
    with console.capture() as capture:
        console.print(view(Watcher(folder, None).look(), console))
    assert "\x1b" not in capture.get()


def test_a_run_with_trials_in_a_storage_needs_its_url(finished_run: Path, cache: None, tmp_path: Path) -> None:
    """The user has to give the storage, both to watch the run and to draw its figures."""
    url = f"sqlite:///{tmp_path / 'trials.db'}"
    study = drawn(finished_run, trials=2, epochs=1)
    run = api.run(study, n_parallel=2, out=tmp_path / "run", device="cpu", storage=url, reporter=Reporter())
    with pytest.raises(UsageError, match=r"sweep watch .*run --storage URL"):
        Watcher(run.folder, None)
    seen = Watcher(run.folder, url).look()
    assert (seen.ended, seen.silent_seconds) == (True, None)
    assert [trial.values[-1] for trial in seen.trials if trial.number == run.best.number] == [run.best.row["val_top1"]]
    assert run.plot.slices().data
    with pytest.raises(UsageError, match=r"sweep.load_run\(.*, storage=URL\)"):
        sweep.load_run(tmp_path / "run").plot.slices()
