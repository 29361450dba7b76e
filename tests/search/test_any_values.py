"""A `suggest` may set or choose values of any type. The run still writes its tables and can be resumed."""

import math
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import optuna
import pytest
from conftest import RecordingReporter, Search, optuna_study

from sweep import LaneConfig, Study, UsageError, load_results
from sweep.records.reporter import Reporter
from sweep.records.results import table_for_csv
from sweep.running.resume import resume_run
from sweep.search.own_attributes import MARK
from sweep.study.asking import check_enqueued
from sweep.study.enqueued import read_enqueued, settled
from sweep.study.finding import LoadedStudy

ODD = [None, "None", "", "NA", "1", 1.5, True, "\ud800"]


def odd(trial: optuna.Trial) -> LaneConfig:
    trial.set_user_attr("mixed", (3, "three", True, None, [1], 2**70)[trial.number % 6])
    trial.set_user_attr("huge", 2**80)
    trial.set_user_attr("surrogate", "\ud800")
    trial.set_user_attr("object", object)
    trial.set_user_attr("clone_of", 0)
    trial.set_user_attr("duplicate_of", 0)
    trial.set_user_attr("lane", "left")
    trial.set_user_attr("trainable_parameters", -1)
    trial.set_user_attr("curve", {"epoch": None})
    trial.suggest_categorical("odd", ODD)
    rank, smoothing = trial.suggest_categorical("shape", [[1, 0.0], (2, 0.1), {"rank": 4}.values()][:2])
    return LaneConfig(lr=trial.suggest_float("lr", 1e-3, 1e-1, log=True), rank=rank, label_smoothing=smoothing)


@pytest.fixture
def odd_study(small_study: Study) -> Study:
    baseline = {"odd": "NA", "shape": (2, 0.1), "lr": 1e-2}
    return replace(small_study, suggest=odd, baseline=baseline, trials=10, epochs=1)


def test_attributes_and_choices_of_any_kind(odd_study: Study, search: Search, tmp_path: Path) -> None:
    reporter = RecordingReporter()
    trials = search(odd_study, reporter=reporter).trials.set_index("trial")
    assert len(trials) == 10, "the user's own attribute clone_of makes no trial a clone"
    assert trials.loc[0, "params_shape"] == "[2, 0.1]"
    assert set(trials["params_shape"]) <= {"[1, 0.0]", "[2, 0.1]"}
    assert (trials["user_attrs_huge"] == str(2**80)).all()
    assert (trials["user_attrs_surrogate"] == "\\ud800").all()
    assert (trials["user_attrs_clone_of"] == 0).all()
    assert (trials["user_attrs_trainable_parameters"] == -1).all()
    assert trials.loc[[0, 1, 4], "user_attrs_mixed"].to_list() == ["3", "three", "[1]"]
    notes = [line for line in reporter.messages if "user_attrs_mixed" in line]
    assert notes == ["note: the values of user_attrs_mixed are of several types; the tables hold them as text"]
    told = optuna_study(tmp_path / "run").get_trials()[0].user_attrs
    assert (told["lane"], told["sweep:lane"]) == ("left", 0)
    assert told["sweep:trainable_parameters"] == trials.loc[0, "trainable_parameters"]

    file = tmp_path / "again.csv"
    table_for_csv(load_results(tmp_path / "run").trials).to_csv(file, index=False)
    again = settled(odd_study, read_enqueued(file))
    told_params = {t.number: t.params for t in optuna_study(tmp_path / "run").get_trials()}
    for number, params in zip(load_results(tmp_path / "run").trials["trial"], again, strict=True):
        assert {name: (type(v), v) for name, v in params.items()} == {
            name: (type(v), v) for name, v in told_params[number].items()
        }
    check_enqueued(odd_study, again)


def stopped_after(epoch: int) -> RecordingReporter:
    def stop(ended: int) -> None:
        if ended == epoch:
            raise KeyboardInterrupt

    reporter = RecordingReporter()
    reporter.on_epoch = stop
    return reporter


def resumed(study: Study, folder: Path, cache_dir: Path) -> Any:
    loaded = LoadedStudy("small", Path("small.py"), study)
    return resume_run(folder, loaded, storage_url=None, cache_dir=cache_dir, reporter=Reporter())


def test_a_stopped_run_with_odd_values_can_be_resumed(odd_study: Study, search: Search, tmp_path: Path) -> None:
    whole = search(odd_study, out=tmp_path / "whole").trials.drop(columns="seconds")
    with pytest.raises(KeyboardInterrupt):
        search(odd_study, out=tmp_path / "stopped", reporter=stopped_after(2))
    resumed(odd_study, tmp_path / "stopped", tmp_path / "cache")
    found = load_results(tmp_path / "stopped").trials.drop(columns="seconds")
    assert found.equals(whole)


def test_resuming_with_an_edited_suggest_is_refused(small_study: Study, search: Search, tmp_path: Path) -> None:
    with pytest.raises(KeyboardInterrupt):
        search(small_study, reporter=stopped_after(2))

    def edited(trial: optuna.Trial) -> LaneConfig:
        return replace(small_study.suggest(trial), weight_decay=0.1)

    with pytest.raises(
        UsageError,
        match=r"suggest now gives trial 0 weight_decay = 0\.1, but the trial began with 0\.05; undo the change",
    ):
        resumed(replace(small_study, suggest=edited), tmp_path / "run", tmp_path / "cache")
    resumed(small_study, tmp_path / "run", tmp_path / "cache")
    assert len(load_results(tmp_path / "run").trials) == small_study.trials


def test_a_run_of_version_0_3_0_keeps_its_names(
    small_study: Study, search: Search, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("sweep.search.own_attributes.OwnAttributes.mark", lambda study: None)
    with pytest.raises(KeyboardInterrupt):
        search(small_study, reporter=stopped_after(2))
    monkeypatch.undo()
    resumed(small_study, tmp_path / "run", tmp_path / "cache")
    study = optuna_study(tmp_path / "run")
    assert MARK not in study.user_attrs
    assert all(not name.startswith("sweep:") for trial in study.get_trials() for name in trial.user_attrs)
    assert [trial.user_attrs["seed"] for trial in study.get_trials()]
    assert len(load_results(tmp_path / "run").trials) == small_study.trials


def test_numpy_values_in_a_search(small_study: Study, search: Search) -> None:
    def suggest(trial: optuna.Trial) -> LaneConfig:
        trial.set_user_attr("count", np.int64(trial.number))
        return LaneConfig(
            lr=trial.suggest_categorical("lr", np.geomspace(1e-3, 1e-1, 3)),
            rank=trial.suggest_categorical("rank", np.array([1, 2])),
        )

    grid = {"lr": np.geomspace(1e-3, 1e-1, 3), "rank": np.array([1, 2])}
    baseline = {"lr": np.float64(1e-3), "rank": np.int64(1)}
    study = replace(
        small_study, suggest=suggest, baseline=baseline, sampler="grid", grid=grid, trials=np.int64(9), epochs=1
    )
    trials = search(study, enqueued=[{"lr": np.float64(1e-1), "rank": np.int32(2)}]).trials
    assert len(trials) == 6
    assert trials["user_attrs_count"].dtype.kind == "i"
    assert not math.isnan(trials["val_top1"].sum())
