"""What trials are proposed: samplers, repeats, grids, enqueued trials, conditional spaces and constraints."""

from dataclasses import replace
from pathlib import Path

import optuna
import pandas as pd
import pytest
from conftest import BASELINE, RecordingReporter, Search, optuna_study
from optuna.trial import TrialState

from sweep import LaneConfig, Study, UsageError
from sweep.search.samplers import SAMPLERS, experiments_allowed
from sweep.study.enqueued import read_enqueued, settled

GRID = {"lr": [1e-3, 1e-2, 1e-1], "rank": [1, 2], "loss": ["cross_entropy"]}


def tiny_suggest(trial: optuna.Trial) -> LaneConfig:
    """A search space of four configurations."""
    return LaneConfig(lr=trial.suggest_categorical("lr", [1e-3, 1e-2]), rank=trial.suggest_categorical("rank", [1, 2]))


TINY = {"suggest": tiny_suggest, "baseline": {"lr": 1e-2, "rank": 2}, "max_rank": 2}


@pytest.mark.parametrize("sampler", SAMPLERS)
def test_every_sampler_runs_and_repeats_itself(
    small_study: Study, search: Search, tmp_path: Path, sampler: str
) -> None:
    study = replace(small_study, sampler=sampler, grid=GRID, trials=6, epochs=1)
    tables = [search(study, n_parallel=3, out=tmp_path / str(i)).trials for i in range(2)]
    pd.testing.assert_frame_equal(*(table.drop(columns="seconds") for table in tables))
    parameters = tables[0][["params_lr", "params_rank", "params_loss"]]
    assert not parameters.duplicated().any()
    if sampler == "grid":
        assert parameters["params_lr"].isin(GRID["lr"]).all()


def test_a_users_own_sampler_is_used(small_study: Study, search: Search) -> None:
    class Lowest(optuna.samplers.RandomSampler):
        def sample_independent(self, study: object, trial: object, name: str, distribution: object) -> object:
            if name == "lr":
                return 1.25e-3 + 1e-4 * len(study.get_trials())  # type: ignore[attr-defined]
            return super().sample_independent(study, trial, name, distribution)  # type: ignore[arg-type]

    results = search(replace(small_study, sampler=Lowest(seed=0), trials=3, epochs=1))
    assert results.trials["params_lr"].max() == BASELINE["lr"]
    assert (results.trials["params_lr"] < 2e-3).sum() == 2
    assert results.config["sampler"] == "Lowest"


def test_unusable_samplers_are_named(small_study: Study, search: Search) -> None:
    with pytest.raises(UsageError, match=r"--sampler must be one of tpe, gp, .*, not 'best'"):
        search(replace(small_study, sampler="best"))
    with pytest.raises(UsageError, match=r"--sampler grid needs values: declare grid="):
        search(replace(small_study, sampler="grid"))
    several = {"val_top1": "maximize", "val_nll": "minimize"}
    with pytest.raises(UsageError, match="--sampler cmaes is for one objective, but the study has 2"):
        search(replace(small_study, sampler="cmaes", objectives=several))


@pytest.mark.parametrize("sampler", ["tpe", "random", "brute force"])
def test_a_tiny_space_is_tried_once_and_then_the_run_ends(
    small_study: Study, search: Search, tmp_path: Path, sampler: str
) -> None:
    reporter = RecordingReporter()
    with experiments_allowed():
        own = optuna.samplers.BruteForceSampler(seed=0)
    study = replace(small_study, **TINY, sampler=own if sampler == "brute force" else sampler, trials=50, epochs=1)
    results = search(study, n_parallel=3, reporter=reporter)
    tried = results.trials[["params_lr", "params_rank"]]
    assert len(tried) == 4
    assert not tried.duplicated().any()
    assert results.summary["ended"] == "nothing new was left to propose after 4 trials"
    assert "the search ended because nothing new was left to propose after 4 trials" in reporter.messages
    told = optuna_study(tmp_path / "run").get_trials()
    repeats = [t for t in told if "sweep:duplicate_of" in t.user_attrs]
    assert len(repeats) == results.summary["n_repeats_dropped"] == len(told) - 4
    of = {t.number: t for t in told}
    for t in repeats:
        assert t.state == TrialState.FAIL
        assert t.params == of[t.user_attrs["sweep:duplicate_of"]].params


def test_an_exhausted_grid_ends_the_run(small_study: Study, search: Search) -> None:
    results = search(replace(small_study, sampler="grid", grid=GRID, trials=50, epochs=1), n_parallel=4)
    tried = {tuple(row) for row in results.trials[["params_lr", "params_rank"]].to_numpy()}
    assert tried == {(lr, rank) for lr in GRID["lr"] for rank in GRID["rank"]}
    assert len(results.trials) == 6, "the baseline lies on the grid"
    assert results.summary["ended"].startswith("nothing new was left")


def test_near_repeats_are_dropped(small_study: Study, search: Search, tmp_path: Path) -> None:
    rates = iter([1e-2, 1.0001e-2, 2e-2, 3e-2])

    class Scripted(optuna.samplers.RandomSampler):
        def sample_independent(self, study: object, trial: object, name: str, distribution: object) -> object:
            return next(rates) if name == "lr" else BASELINE[name]

    results = search(replace(small_study, sampler=Scripted(), trials=3, epochs=1))
    assert sorted(results.trials["params_lr"]) == [1e-2, 2e-2, 3e-2]
    assert results.summary["n_repeats_dropped"] == 2


def test_enqueued_trials_come_after_the_baseline(small_study: Study, search: Search, tmp_path: Path) -> None:
    file = tmp_path / "configs.csv"
    file.write_text("lr,rank,loss\n0.02,4,bce\n0.05,,\n")
    enqueued = read_enqueued(file)
    assert enqueued == [{"lr": "0.02", "rank": "4", "loss": "bce"}, {"lr": "0.05"}]
    assert settled(small_study, enqueued) == [{"lr": 0.02, "rank": 4, "loss": "bce"}, {"lr": 0.05}]
    trials = search(replace(small_study, epochs=1), enqueued=enqueued).trials.set_index("trial")
    assert trials.loc[0, "params_lr"] == BASELINE["lr"]
    assert trials.loc[1, ["params_lr", "params_rank", "params_loss"]].to_list() == [0.02, 4, "bce"]
    assert trials.loc[2, "params_lr"] == 0.05
    assert trials.loc[2, "params_rank"] in (1, 2, 4)

    trials.to_csv(tmp_path / "again.csv")
    again = settled(small_study, read_enqueued(tmp_path / "again.csv"))
    assert {"lr": 0.02, "rank": 4, "loss": "bce"} in again


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("lr,rank\n5.0,2\n", r"enqueued trial 1 has lr = 5\.0, but suggest asks for a number from"),
        ("lr,colour\n0.01,3\n", "enqueued trial 1 names 'colour'"),
        ("lr,rank\n", "has no rows"),
        ("", "has no rows"),
        ("lr\n0.1,7\n", "has a row with more cells than the first line has names"),
        ("lr\nfast\n", "enqueued trial 1: lr = 'fast' is not a number; suggest asks for a number from 0.001 to 0.1"),
    ],
)
def test_wrong_enqueued_trials_are_named(
    small_study: Study, search: Search, tmp_path: Path, text: str, message: str
) -> None:
    file = tmp_path / "configs.csv"
    file.write_text(text)
    with pytest.raises(UsageError, match=message):
        search(small_study, enqueued=read_enqueued(file))
    assert not (tmp_path / "run").exists()


def conditional(trial: optuna.Trial) -> LaneConfig:
    loss = trial.suggest_categorical("loss", ["cross_entropy", "focal"])
    rank = trial.suggest_categorical("rank", [1, 2, 4])
    trial.set_constraint("small", rank - 2)
    trial.set_user_attr("kind", f"{loss}/{rank}")
    return LaneConfig(
        lr=trial.suggest_float("lr", 1e-3, 1e-1, log=True),
        rank=rank,
        loss=loss,
        focal_gamma=trial.suggest_float("focal_gamma", 0, 4) if loss == "focal" else 2.0,
    )


def test_conditions_constraints_and_attributes_work_as_in_optuna(
    small_study: Study, search: Search, tmp_path: Path
) -> None:
    baseline = {"loss": "cross_entropy", "rank": 1, "lr": 1e-2}
    results = search(replace(small_study, suggest=conditional, baseline=baseline, trials=12), n_parallel=6)
    trials = results.trials
    focal = trials["params_loss"] == "focal"
    assert focal.any()
    assert (trials["params_focal_gamma"].notna() == focal).all()
    assert (trials["feasible"] == (trials["params_rank"] <= 2)).all()
    assert not trials["feasible"].all()
    assert trials["feasible"].is_monotonic_decreasing, "infeasible trials rank below all feasible ones"
    assert (trials["user_attrs_kind"] == trials["params_loss"] + "/" + trials["params_rank"].astype(str)).all()
    assert results.summary["winner"]["params"]["rank"] <= 2
    assert optuna_study(tmp_path / "run").best_trial.number == trials.loc[0, "trial"]
