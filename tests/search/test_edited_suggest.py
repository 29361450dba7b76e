"""Resuming with an edited `suggest`: trials and clones that have begun must stay the same."""

from dataclasses import replace
from pathlib import Path

import optuna
import pytest
from conftest import RecordingReporter, Search, optuna_study, suggest

from sweep import LaneConfig, Study, UsageError, load_results
from sweep.records.folder import RunFolder
from sweep.running.resume import resume_run
from sweep.search.occupancy import Occupancy
from sweep.search.own_attributes import LANE_CONFIG
from sweep.search.proposals import Proposals
from sweep.search.requests import Request, send
from sweep.study.finding import LoadedStudy
from sweep.study.stored_values import RESERVED

CLONE_PARAMS = {"lr": 0.09, "rank": 4, "loss": "bce"}
"""Parameters of the clone that the user requests. No other trial has such a large learning rate."""


def stopping_after(owner: type, name: str) -> pytest.MonkeyPatch:
    """Raise KeyboardInterrupt after the next call of a method. This is patched in once a clone has been requested."""
    patch, method = pytest.MonkeyPatch(), getattr(owner, name)

    def stopping(*arguments: object, **options: object) -> object:
        method(*arguments, **options)
        raise KeyboardInterrupt

    patch.setattr(owner, name, stopping)
    return patch


def stopped_run(study: Study, search: Search, folder: RunFolder, owner: type, name: str) -> None:
    """Run a search that is stopped while it handles a request for a clone, after its last snapshot."""
    patches = []

    def ask(epoch: int) -> None:
        if epoch == 3:
            send(folder, Request("clone", 1, CLONE_PARAMS))
            patches.append(stopping_after(owner, name))

    reporter = RecordingReporter()
    reporter.on_epoch = ask
    try:
        with pytest.raises(KeyboardInterrupt):
            search(study, reporter=reporter)
    finally:
        for patch in patches:
            patch.undo()


def resumed(study: Study, folder: RunFolder, cache_dir: Path) -> list[str]:
    """Resume a run with a study. Return its messages."""
    reporter = RecordingReporter()
    loaded = LoadedStudy("small", Path("small.py"), study)
    resume_run(folder.path, loaded, storage_url=None, cache_dir=cache_dir, reporter=reporter)
    return reporter.messages


def large_rates_decay(trial: optuna.Trial) -> LaneConfig:
    """An edited `suggest` that changes the lane of the clone and of no other trial."""
    config = suggest(trial)
    return replace(config, weight_decay=0.1) if config.lr > 0.08 else config


def no_large_rates(trial: optuna.Trial) -> LaneConfig:
    """An edited `suggest` that refuses the clone and changes no other trial."""
    config = suggest(trial)
    if config.lr > 0.08:
        raise UsageError("no learning rate above 0.08")
    return config


@pytest.fixture
def folder(tmp_path: Path) -> RunFolder:
    return RunFolder(tmp_path / "run")


@pytest.fixture
def study(small_study: Study) -> Study:
    return replace(small_study, sampler="grid", grid={"lr": [1e-3, 3e-3], "rank": [1, 2], "loss": ["bce"]})


def test_a_clone_that_has_entered_after_the_last_snapshot(
    study: Study, search: Search, folder: RunFolder, tmp_path: Path
) -> None:
    stopped_run(study, search, folder, Occupancy, "admit")
    told = optuna_study(folder.path).get_trials()[-1]
    assert told.params == CLONE_PARAMS
    assert told.user_attrs[f"{RESERVED}{LANE_CONFIG}"]["lr"] == 0.09
    with pytest.raises(
        UsageError,
        match=rf"suggest now gives trial {told.number} weight_decay = 0\.1, but the trial began with 0\.05; undo the",
    ):
        resumed(replace(study, suggest=large_rates_decay), folder, tmp_path / "cache")
    resumed(study, folder, tmp_path / "cache")
    trials = load_results(folder.path).trials
    assert trials.loc[trials["clone_of"] == 1, "params_lr"].to_list() == [0.09]


def test_a_clone_that_was_enqueued_after_the_last_snapshot(
    study: Study, search: Search, folder: RunFolder, tmp_path: Path
) -> None:
    stopped_run(study, search, folder, Proposals, "add_clone")
    assert optuna_study(folder.path).get_trials()[-1].state == optuna.trial.TrialState.WAITING
    with pytest.raises(
        UsageError,
        match=r"with the values of the clone of trial 1, .*no learning rate above 0\.08.*; undo the change of",
    ):
        resumed(replace(study, suggest=no_large_rates), folder, tmp_path / "cache")
    resumed(study, folder, tmp_path / "cache")
    trials = load_results(folder.path).trials
    assert trials.loc[trials["clone_of"] == 1, "params_lr"].to_list() == [0.09]


def test_a_request_that_was_not_read_yet_follows_the_edited_suggest(
    study: Study, search: Search, folder: RunFolder, tmp_path: Path
) -> None:
    def stop(epoch: int) -> None:
        if epoch == 3:
            raise KeyboardInterrupt

    reporter = RecordingReporter()
    reporter.on_epoch = stop
    with pytest.raises(KeyboardInterrupt):
        search(study, reporter=reporter)
    send(folder, Request("clone", 1, CLONE_PARAMS))
    said = resumed(replace(study, suggest=no_large_rates), folder, tmp_path / "cache")
    assert any("no learning rate above 0.08" in message and "the request is ignored" in message for message in said)
    assert "clone_of" not in load_results(folder.path).trials
