"""A resumed run keeps the choices that it began with, even if its study has more of them by now."""

import json
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import optuna
import pandas as pd
import pytest
from conftest import RecordingReporter, Search, search_in

from sweep import Halving, LaneConfig, Results, Study, UsageError, load_results
from sweep.machine.user_code import line_of
from sweep.running.resume import resume_run
from sweep.running.runner import run_study
from sweep.study.finding import LoadedStudy, load_study
from sweep.study.fixed import with_fixed, with_options
from sweep.study.going_on import as_in_0_11, going_on


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


def ladders(trial: optuna.Trial) -> LaneConfig:
    return LaneConfig(
        lr=trial.suggest_float("lr", 1e-3, 1e-1, log=True),
        rank=trial.suggest_categorical("rank", [1, 2, 4]),
        side_network=trial.suggest_categorical("side_network", ["ladder"]),
    )


def ladders_and_last(trial: optuna.Trial) -> LaneConfig:
    return LaneConfig(
        lr=trial.suggest_float("lr", 1e-3, 1e-1, log=True),
        rank=trial.suggest_categorical("rank", [1, 2, 4]),
        side_network=trial.suggest_categorical("side_network", ["ladder", "last"]),
    )


def with_modules(trial: optuna.Trial) -> LaneConfig:
    return LaneConfig(
        lr=trial.suggest_float("lr", 1e-3, 1e-1, log=True),
        rank=trial.suggest_categorical("rank", [1, 2, 4]),
        modules_per_block=trial.suggest_int("modules_per_block", 1, 2),
    )


STAGES = {"last": (2,), "even": 2}


def named_stages(trial: optuna.Trial) -> LaneConfig:
    return LaneConfig(
        lr=trial.suggest_float("lr", 1e-3, 1e-1, log=True),
        rank=trial.suggest_categorical("rank", [1, 2, 4]),
        stages=STAGES[trial.suggest_categorical("stages", list(STAGES))],
    )


def named_stages_and_weights(trial: optuna.Trial) -> LaneConfig:
    weights = trial.suggest_categorical("class_weights", ["none", "balanced"])
    return replace(named_stages(trial), class_weights=weights)


@pytest.fixture
def study(small_study: Study) -> Study:
    return replace(small_study, trials=9)


@pytest.fixture
def stopped(study: Study, search: Search, tmp_path: Path) -> Path:
    """A run that was stopped before it asked for its last trials."""
    stopped_run(search, study)
    return tmp_path / "run"


def stopped_run(search: Search, study: Study) -> None:
    """Run a study, and stop it before it asks for its last trials."""
    reporter = RecordingReporter()
    reporter.on_epoch = stop
    with pytest.raises(KeyboardInterrupt):
        search(study, reporter=reporter)


def assert_same_tables(found: Results, whole: Results) -> None:
    names = [name for name in whole.trials.columns if "seconds" not in name]
    pd.testing.assert_frame_equal(found.trials[names], whole.trials[names])


def resumed(run: Path, study: Study) -> Results:
    loaded = LoadedStudy("small", Path("small.py"), study)
    resume_run(run, loaded, storage_url=None, cache_dir=run.parent / "cache", reporter=RecordingReporter())
    return load_results(run)


def test_choices_that_were_added_are_left_out_and_the_table_is_the_same(
    study: Study, stopped: Path, tmp_path: Path
) -> None:
    assert len(load_results(stopped).trials) < study.trials
    found = resumed(stopped, replace(study, suggest=more_ranks))
    (tmp_path / "whole").mkdir()
    assert_same_tables(found, search_in(tmp_path / "whole", study))


def test_a_side_network_that_was_added_need_not_have_what_is_fixed(
    study: Study, search: Search, tmp_path: Path
) -> None:
    study = replace(study, suggest=ladders, baseline={"lr": 1e-2, "rank": 2, "side_network": "ladder"}, trials=4)
    stopped_run(search, with_options(study, {"attention": True}))
    trials = resumed(tmp_path / "run", replace(study, suggest=ladders_and_last)).trials
    assert list(trials["params_side_network"]) == ["ladder"] * 4


def test_a_run_whose_fixed_numbers_were_asked_for_as_in_0_11_goes_on_with_them(
    study: Study, search: Search, tmp_path: Path
) -> None:
    study = replace(study, suggest=with_modules, baseline={"lr": 1e-2, "rank": 2, "modules_per_block": 1}, trials=6)
    options = {"modules_per_block": 2}
    earlier = with_fixed(as_in_0_11(study).override(**options), options, among_names=False)
    stopped_run(search, earlier)
    forget(tmp_path / "run", "fixed_numbers", "fixed_names")
    found = resumed(tmp_path / "run", study)
    assert set(found.trials["params_modules_per_block"]) == {1, 2}
    assert {json.loads(lane).get("modules_per_block", 2) for lane in found.trials["lane_config"]} == {2}
    (tmp_path / "whole").mkdir()
    assert_same_tables(found, search_in(tmp_path / "whole", earlier))


def test_a_study_that_comes_with_sweep_may_have_got_other_rungs(small_study: Study, tmp_path: Path) -> None:
    packaged = load_study("lr_rank_halving")
    assert packaged.study.halving == Halving(eta=3, first_rung=1)
    alike = {name: getattr(small_study, name) for name in ("backbone", "data", "group_size", "epochs", "batch_size")}
    earlier = replace(packaged.study.override(**alike, trials=4), halving=Halving(eta=2, first_rung=2))
    reporter, arguments = RecordingReporter(), {"storage_url": None, "cache_dir": tmp_path / "cache"}
    reporter.on_epoch = stop
    with pytest.raises(KeyboardInterrupt):
        run_study(
            replace(packaged, study=earlier),
            n_parallel=2,
            out=tmp_path / "run",
            device_name="cpu",
            reporter=reporter,
            **arguments,
        )
    resume_run(tmp_path / "run", None, reporter=RecordingReporter(), **arguments)
    trained = load_results(tmp_path / "run").trials["epochs"]
    assert len(trained) == 4
    assert trained.min() == 2, "a trial was stopped at the rung that there is now"


def forget(run: Path, *entries: str) -> None:
    """Remove entries that earlier versions did not record."""
    path = run / "config.json"
    config = json.loads(path.read_text())
    path.write_text(json.dumps({name: value for name, value in config.items() if name not in entries}))


def test_a_run_whose_names_stayed_free_as_in_0_11_2_goes_on_with_them(
    study: Study, search: Search, tmp_path: Path
) -> None:
    study = replace(study, suggest=named_stages, baseline={"lr": 1e-2, "rank": 2, "stages": "last"}, trials=6)
    earlier = with_fixed(study.override(stages=2), ["stages"], among_names=False)
    stopped_run(search, earlier)
    forget(tmp_path / "run", "fixed_names")
    found = resumed(tmp_path / "run", study)
    assert set(found.trials["params_stages"]) == set(STAGES)
    (tmp_path / "whole").mkdir()
    assert_same_tables(found, search_in(tmp_path / "whole", earlier))


@pytest.mark.parametrize("options", [{"stages": (1, 2)}, {"class_weights": {"below": 2.0}}])
def test_the_table_shows_what_an_option_fixes_and_a_resumed_run_goes_on_with_it(
    options: Mapping[str, Any], study: Study, search: Search, tmp_path: Path
) -> None:
    (name,) = options
    baseline = {"lr": 1e-2, "rank": 2, "stages": "last", "class_weights": "balanced"}
    study = replace(study, suggest=named_stages_and_weights, baseline=baseline, trials=6)
    fixed = with_options(study, options)
    stopped_run(search, fixed)
    found = resumed(tmp_path / "run", study)
    shown = {"stages": "[1, 2]", "class_weights": '{"above": 1.0, "below": 2.0, "everywhere": 1.0}'}[name]
    assert set(found.trials[f"params_{name}"]) == {shown}
    other = "class_weights" if name == "stages" else "stages"
    assert found.trials[f"params_{other}"].nunique() == 2, "what no option fixes is searched"
    lanes = [json.loads(lane) for lane in found.trials["lane_config"]]
    if name == "class_weights":
        assert all(lane["class_weights"] == [1.0, 2.0, 1.0] for lane in lanes)
    (tmp_path / "whole").mkdir()
    assert_same_tables(found, search_in(tmp_path / "whole", fixed))


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
