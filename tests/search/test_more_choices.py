"""A resumed run keeps the choices that it began with, even if its study has more of them by now."""

from dataclasses import replace
from pathlib import Path

import optuna
import pandas as pd
import pytest
from conftest import RecordingReporter, Search, search_in

from sweep import LaneConfig, Results, Study, UsageError, load_results
from sweep.machine.user_code import line_of
from sweep.running.resume import resume_run
from sweep.study.finding import LoadedStudy
from sweep.study.going_on import going_on


def more_ranks(trial: optuna.Trial) -> LaneConfig:
    return LaneConfig(
        lr=trial.suggest_float("lr", 1e-3, 1e-1, log=True),
        rank=trial.suggest_categorical("rank", [1, 2, 3, 4]),
        loss=trial.suggest_categorical("loss", ["bce", "cross_entropy", "focal"]),
    )


def fewer_losses(trial: optuna.Trial) -> LaneConfig:
    return LaneConfig(
        lr=trial.suggest_float("lr", 1e-3, 1e-1, log=True),
        rank=trial.suggest_categorical("rank", [1, 2, 4]),
        loss=trial.suggest_categorical("loss", ["cross_entropy"]),
    )


def stop(epoch: int) -> None:
    if epoch == 2:
        raise KeyboardInterrupt


@pytest.fixture
def study(small_study: Study) -> Study:
    return replace(small_study, trials=9)


@pytest.fixture
def stopped(study: Study, search: Search, tmp_path: Path) -> Path:
    """A run that was stopped before it asked for its last trials."""
    reporter = RecordingReporter()
    reporter.on_epoch = stop
    with pytest.raises(KeyboardInterrupt):
        search(study, reporter=reporter)
    return tmp_path / "run"


def resumed(run: Path, study: Study) -> Results:
    loaded = LoadedStudy("small", Path("small.py"), study)
    resume_run(run, loaded, storage_url=None, cache_dir=run.parent / "cache", reporter=RecordingReporter())
    return load_results(run)


def test_choices_that_were_added_are_left_out_and_the_table_is_the_same(
    study: Study, stopped: Path, tmp_path: Path
) -> None:
    assert len(load_results(stopped).trials) < study.trials
    found = resumed(stopped, replace(study, suggest=more_ranks)).trials
    (tmp_path / "whole").mkdir()
    whole = search_in(tmp_path / "whole", study).trials
    names = [name for name in whole.columns if "seconds" not in name]
    pd.testing.assert_frame_equal(found[names], whole[names])


def test_a_choice_that_is_gone_is_named(study: Study, stopped: Path) -> None:
    with pytest.raises(UsageError, match=r"no longer has the choice 'bce' of the parameter loss.*; put it back, or"):
        resumed(stopped, replace(study, suggest=fewer_losses))


def test_lists_are_chosen_as_lists_and_errors_name_the_line_of_suggest(study: Study) -> None:
    def with_lists(trial: optuna.Trial) -> LaneConfig:
        (rank,) = trial.suggest_categorical("rank", [[1], [2], [4]])  # type: ignore[list-item, misc]
        if rank == 2:
            raise ValueError("not today")
        return LaneConfig(lr=1e-2, rank=rank)

    choices = optuna.distributions.CategoricalDistribution(["[1]", "[2]"])
    earlier = optuna.trial.create_trial(params={"rank": "[1]"}, distributions={"rank": choices}, value=0.0)
    one = going_on(replace(study, suggest=with_lists), [earlier])
    assert one.lane_config(optuna.trial.FixedTrial({"rank": "[1]"})).rank == 1
    with pytest.raises(UsageError, match=r"not today .*test_more_choices\.py, line \d+: raise ValueError"):
        one.lane_config(optuna.trial.FixedTrial({"rank": "[2]"}))
    assert going_on(study, []) is study
    assert line_of(one.suggest, ValueError()).startswith(__file__)
