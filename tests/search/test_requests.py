"""`sweep stop` and `sweep clone`: requests from another process are carried out exactly once."""

import math
import sys
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pandas as pd
import pytest
import torch
from conftest import RecordingReporter, Search, optuna_study, search_in
from optuna.trial import TrialState

import sweep.cli
import sweep.search.search
from sweep import Halving, Results, Study, UsageError, load_results
from sweep.records.folder import RunFolder
from sweep.records.reporter import Reporter
from sweep.running.resume import resume_run
from sweep.running.snapshot_files import SnapshotFiles
from sweep.search.ledger import Ledger
from sweep.search.own_attributes import CLONE
from sweep.search.proposals import Proposals
from sweep.search.requests import Inbox, Request, send
from sweep.search.steering import ask_to_clone, ask_to_stop
from sweep.study.finding import LoadedStudy
from sweep.study.stored_values import RESERVED
from sweep.verify.verify import verify_trial

Cli = Callable[..., str]
TIMES = ["seconds"]


class Asking(RecordingReporter):
    """Makes requests at the end of given epochs, as another process would."""

    def __init__(self, at: dict[int, Callable[[], object]]) -> None:
        super().__init__()
        self.on_epoch = lambda epoch: at.get(epoch, lambda: None)()


@pytest.fixture
def folder(tmp_path: Path) -> RunFolder:
    return RunFolder(tmp_path / "run")


def stop(folder: RunFolder, trial: int) -> Callable[[], None]:
    return lambda: ask_to_stop(folder, trial, storage_url=None)


def clone(folder: RunFolder, trial: int, **changes: str) -> Callable[[], dict[str, Any]]:
    return lambda: ask_to_clone(folder, trial, changes, storage_url=None)


def test_a_stopped_trial_leaves_its_lane_to_the_next(small_study: Study, search: Search, folder: RunFolder) -> None:
    reporter = Asking({1: stop(folder, 2)})
    trials = search(small_study, reporter=reporter).trials.set_index("trial").sort_index()
    assert list(trials["state"]) == ["COMPLETE", "COMPLETE", "PRUNED", "COMPLETE", "COMPLETE"]
    assert trials.loc[2, "stopped"] == "on request, after epoch 1"
    assert trials.loc[2, "epochs"] == 1
    assert trials.loc[3, ["lane", "first_order"]].to_list() == [2, 2]
    told = optuna_study(folder.path).get_trials()
    assert [t.state for t in told].count(TrialState.PRUNED) == 1
    assert told[2].user_attrs["sweep:stopped"] == "on request, after epoch 1"
    assert "trial 2 was stopped on request, after epoch 1" in reporter.messages


def test_a_clone_trains_beside_the_studys_own_trials(small_study: Study, search: Search, folder: RunFolder) -> None:
    reporter = Asking({2: clone(folder, 1, lr="0.025")})
    results = search(small_study, reporter=reporter)
    trials = results.trials.set_index("trial").sort_index()
    assert len(trials) == small_study.trials + 1
    assert (trials["state"] == "COMPLETE").all()
    assert results.summary["ended"] == "all 6 trials have ended"
    (number,) = trials.index[trials["clone_of"] == 1]
    assert number == 3, "its turn comes right after the first stack of three"
    parameters = [name for name in trials if name.startswith("params_")]
    expected = {**trials.loc[1, parameters], "params_lr": 0.025}
    assert trials.loc[number, parameters].to_dict() == expected
    assert optuna_study(folder.path).get_trials()[number].user_attrs[f"{RESERVED}{CLONE}"] == 1


def test_a_clone_requested_after_the_last_proposal(small_study: Study, search: Search, folder: RunFolder) -> None:
    """All of the study's own trials have been proposed. A repeated clone does not add a further trial."""
    reporter = Asking({4: clone(folder, 0, lr="0.05"), 5: clone(folder, 0, lr="0.05")})
    results = search(small_study, reporter=reporter)
    assert len(results.trials) == small_study.trials + 1
    assert reporter.messages.count("a clone of trial 0 is next in line") == 2
    assert reporter.progress[-1].n_trials == 6


def test_a_clone_when_the_grid_is_exhausted(small_study: Study, search: Search, folder: RunFolder) -> None:
    grid = {"lr": [1e-2, 3e-2], "rank": [2], "loss": ["cross_entropy"]}
    study = replace(small_study, sampler="grid", grid=grid, baseline={"lr": 1e-2, "rank": 2, "loss": "cross_entropy"})
    results = search(study, reporter=Asking({2: clone(folder, 0, lr="0.05")}))
    assert sorted(results.trials["params_lr"]) == [1e-2, 3e-2, 5e-2]


def test_stopped_trials_and_clones_can_be_verified(small_study: Study, search: Search, folder: RunFolder) -> None:
    study = replace(small_study, seeds=2, epochs=4, halving=Halving(eta=4, first_rung=2))
    reporter = Asking({1: stop(folder, 1), 2: clone(folder, 0, rank="1")})
    trials = search(study, n_parallel=4, reporter=reporter).trials.set_index("trial")
    assert trials.loc[1, "stopped"] == "on request, after epoch 1"
    (number,) = trials.index[trials["clone_of"] == 0]
    for trial in (1, int(number)):
        cpu = torch.device("cpu")
        assert verify_trial(folder.path, trial, cache_dir=folder.path.parent / "cache", device=cpu).kept


KILLS: dict[str, tuple[type, str, int]] = {
    "read": (Inbox, "look", 1),
    "written down": (SnapshotFiles, "write", 2),
    "stopped": (Ledger, "prune", 1),
    "enqueued": (Proposals, "add_clone", 1),
    "later": (SnapshotFiles, "write", 4),
}
"""For each case, the class, the method, and the number of the call after which the run is killed."""


def asking_both(folder: RunFolder) -> Asking:
    """Return a reporter that asks to stop a trial and to clone another, both after the first epoch."""

    def ask() -> None:
        stop(folder, 2)()
        clone(folder, 1, lr="0.025")()

    return Asking({1: ask})


Told = list[tuple[TrialState, dict[str, Any]]]


def told(run: Path) -> Told:
    """What a run has told Optuna of its trials."""
    return [(t.state, t.params) for t in optuna_study(run).get_trials()]


@pytest.fixture(scope="module")
def untouched(small_study: Study, tmp_path_factory: pytest.TempPathFactory) -> tuple[Results, Told]:
    """The results of a run with both requests that is not killed, and what it has told Optuna."""
    root = tmp_path_factory.mktemp("untouched")
    return search_in(root, small_study, reporter=asking_both(RunFolder(root / "run"))), told(root / "run")


@pytest.mark.parametrize("killed_at", KILLS)
def test_requests_survive_a_kill(
    small_study: Study,
    search: Search,
    folder: RunFolder,
    tmp_path: Path,
    untouched: tuple[Results, Told],
    killed_at: str,
) -> None:
    """Wherever the run is killed, a request is carried out once, and the tables equal those of a run without a kill."""
    expected, told_by_expected = untouched
    reporter = asking_both(folder)
    owner, name, n_calls = KILLS[killed_at]
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(sweep.search.search, "SAVING_SHARE", math.inf)
        kill_after(patch, owner, name, n_calls)
        with pytest.raises(KeyboardInterrupt):
            search(small_study, reporter=reporter)
    study = LoadedStudy("small", Path("small.py"), small_study)
    resume_run(folder.path, study, storage_url=None, cache_dir=tmp_path / "cache", reporter=Reporter())
    resumed = load_results(folder.path)
    pd.testing.assert_frame_equal(resumed.trials.drop(columns=TIMES), expected.trials.drop(columns=TIMES))
    pd.testing.assert_frame_equal(resumed.curves, expected.curves)
    assert told(folder.path) == told_by_expected


def kill_after(patch: pytest.MonkeyPatch, owner: type, name: str, n_calls: int) -> None:
    """Raise KeyboardInterrupt right after the `n_calls`-th call of a method."""
    method, calls = getattr(owner, name), []

    def killing(*arguments: Any, **options: Any) -> Any:
        result = method(*arguments, **options)
        calls.append(name)
        if len(calls) == n_calls:
            raise KeyboardInterrupt
        return result

    patch.setattr(owner, name, killing)


def test_wrong_requests_are_refused(
    small_study: Study,
    search: Search,
    folder: RunFolder,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    refused: list[str] = []

    def ask() -> None:
        for arguments in (
            ("stop", "--trial", "9"),
            ("stop", "--trial", "0"),
            ("clone", "--trial", "1", "--set", "lr"),
            ("clone", "--trial", "1", "--set", "lr=7"),
            ("clone", "--trial", "1", "--set", "lr=fast"),
            ("clone", "--trial", "1", "--set", "rank=3"),
            ("clone", "--trial", "1", "--set", "width=3"),
        ):
            refused.append(call(monkeypatch, capsys, folder.path, *arguments))
        given = optuna_study(folder.path).get_trials()[1].params["rank"]
        refused.append(call(monkeypatch, capsys, folder.path, "clone", "--trial", "1", "--set", f"rank={given}"))
        (folder.path / "requests").mkdir()
        (folder.path / "requests" / "1.json").write_text('{"action": "erase", "trial": 1, "params": {}}')

    reporter = Asking({1: ask})
    results = search(small_study, reporter=reporter)
    assert len(results.trials) == small_study.trials
    assert (results.trials["state"] == "COMPLETE").all()
    parts = (
        "has no trial 9; it has 0 to 2",
        "trial 0 is the baseline",
        "--set lr is not of the form NAME=VALUE",
        "--set lr=7: lr = 7 lies outside its range; suggest asks for a number from 0.001 to 0.1",
        "--set lr=fast: lr = 'fast' is not a number; suggest asks for a number from 0.001 to 0.1",
        "--set rank=3: rank = '3' is none of the choices; suggest asks for one of 1, 2, 4",
        "--set width=3: the study has no parameter width; it has lr, rank, loss",
        "the clone would be trial 1 again",
    )
    for message, part in zip(refused, parts, strict=True):
        assert part in message
    assert any("1.json is ignored: it is not a request" in message for message in reporter.messages)
    assert "has ended" in call(monkeypatch, capsys, folder.path, "stop", "--trial", "1")
    folder.summary_path.unlink()
    assert "no process works on" in call(monkeypatch, capsys, folder.path, "stop", "--trial", "1")


@pytest.mark.parametrize("trial", [99, 10**400])
def test_a_clone_of_a_missing_trial_is_refused(
    small_study: Study, search: Search, folder: RunFolder, trial: int
) -> None:
    reporter = Asking({1: lambda: send(folder, Request("clone", trial, {"lr": 0.025, "rank": 1}))})
    trials = search(small_study, reporter=reporter).trials
    assert len(trials) == small_study.trials
    assert f"trial {trial} is not cloned: this run has none of that number" in reporter.messages


def test_trials_that_have_ended_are_not_stopped(small_study: Study, search: Search, folder: RunFolder) -> None:
    def ask() -> None:
        with pytest.raises(UsageError, match="trial 1 is not in training: it is COMPLETE"):
            ask_to_stop(folder, 1, storage_url=None)

    assert len(search(small_study, reporter=Asking({4: ask})).trials) == 5


def call(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], run: Path, command: str, *options: str
) -> str:
    """Run a command that is refused in this process. Return its message."""
    monkeypatch.setattr(sys, "argv", ["sweep", command, str(run), *options])
    with pytest.raises(SystemExit) as ended:
        sweep.cli.main()
    assert ended.value.code == 2
    return " ".join(capsys.readouterr().err.split())


def test_the_commands(
    small_study: Study,
    search: Search,
    folder: RunFolder,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    def ask(*arguments: str) -> Callable[[], None]:
        def typed() -> None:
            monkeypatch.setattr(sys, "argv", ["sweep", arguments[0], str(folder.path), *arguments[1:]])
            with pytest.raises(SystemExit) as ended:
                sweep.cli.main()
            assert not ended.value.code

        return typed

    at = {1: ask("stop", "--trial", "2"), 2: ask("clone", "--trial", "2", "--set", "rank=1", "--set", "lr=2e-2")}
    trials = search(small_study, reporter=Asking(at)).trials
    assert list(trials.loc[trials["clone_of"] == 2, "params_lr"]) == [0.02]
    shown = capsys.readouterr().out
    assert "trial 2 will stop after its current epoch" in shown
    assert "trains next: " in shown
