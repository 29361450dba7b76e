"""When a search ends, replicates, and metrics of a study's own."""

import math
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from conftest import RecordingReporter, Search, optuna_study
from optuna.trial import TrialState
from torch import Tensor

from sweep import Study, SweepError, UsageError
from sweep.records.paired import paired_difference
from sweep.study.budget import Budget, duration_text, parse_duration


@pytest.mark.parametrize(
    ("text", "seconds"), [("90s", 90), ("10m", 600), ("1h30m", 5400), ("45s", 45), ("0.5s", 0.5), ("1h5s", 3605)]
)
def test_durations_are_read(text: str, seconds: float) -> None:
    assert parse_duration(text) == seconds
    assert parse_duration(duration_text(seconds)) == seconds


@pytest.mark.parametrize("text", ["", "0", "10", "-5m", "ten", "5d", "m", "0s", "9" * 400 + "h"])
def test_malformed_durations_are_refused(text: str) -> None:
    with pytest.raises(UsageError, match="--time must be a duration with its unit, such as 90s, 10m or 1h30m"):
        parse_duration(text)


@pytest.mark.parametrize("target", [float("nan"), float("inf"), True, "much"])
def test_targets_that_are_no_number_are_refused(target: Any) -> None:
    with pytest.raises(UsageError, match=f"--target must be a finite number, not {target!r}"):
        Budget(target=target)


@pytest.mark.parametrize("target", [None, 1.0])
def test_time_ends_the_search_between_epochs(
    small_study: Study, search: Search, monkeypatch: pytest.MonkeyPatch, tmp_path: Path, target: float | None
) -> None:
    """A fake clock advances 10 s per epoch and otherwise stands still.

    A target that is never reached changes nothing.
    """
    now = [0.0]
    monkeypatch.setattr("sweep.search.search.time.perf_counter", lambda: now[0])
    reporter = RecordingReporter()

    def tick(epoch: int) -> None:
        now[0] += 10

    reporter.on_epoch = tick
    study = replace(small_study, trials=100, epochs=3)
    results = search(study, n_parallel=3, reporter=reporter, budget=Budget(wall_seconds=45, target=target))
    assert len(reporter.epochs) == 5, "the fifth epoch began at 40 s"
    states = results.trials["state"].value_counts().to_dict()
    assert states == {"COMPLETE": 3, "PRUNED": 3}
    pruned = results.trials[results.trials["state"] == "PRUNED"]
    assert (pruned["stopped"] == "the time of 45s was over").all()
    assert (pruned["epochs"] == 2).all()
    assert results.summary["ended"] == "the time of 45s was over"
    told = optuna_study(tmp_path / "run").get_trials()
    assert [t.state for t in told] == [TrialState.COMPLETE] * 3 + [TrialState.PRUNED] * 3
    assert results.config["budget"] == {"wall_seconds": 45, "target": target}


def test_a_time_too_short_for_one_trial_says_so(small_study: Study, search: Search) -> None:
    with pytest.raises(SweepError, match=r"time of 0\.001s was over, before any trial .* 3 epochs.*Give more --time"):
        search(small_study, budget=Budget(wall_seconds=0.001))


def test_target_ends_the_search_at_a_trials_last_epoch(small_study: Study, search: Search) -> None:
    results = search(replace(small_study, trials=100), n_parallel=3, budget=Budget(target=0.1))
    assert len(results.trials) == 3, "a trial of the first stack reaches the target"
    first = results.trials.loc[0]
    assert results.summary["ended"] == (
        f"trial {first['trial']} reached the target of 0.1 with val_top1 {first['val_top1']:.4g}"
    )


def test_replicates_are_lanes_and_rank_by_their_mean(small_study: Study, search: Search, tmp_path: Path) -> None:
    reporter = RecordingReporter()
    results = search(replace(small_study, seeds=3, trials=3), n_parallel=7, reporter=reporter)
    assert reporter.epochs == [6, 6, 6, 3, 3, 3], "seven lanes hold two trials of three replicates"
    curves = results.curves[results.curves["epoch"] == 3]
    for _, row in results.trials.iterrows():
        own = curves[(curves["trial"] == row["trial"]) & (curves["metric"] == "val_top1")]
        assert sorted(own["replicate"]) == [0, 1, 2]
        assert row["val_top1"] == pytest.approx(own["value"].mean())
        assert row["val_top1_std"] == pytest.approx(own["value"].std())
    losses = curves[curves["metric"] == "train_loss"].groupby("trial")["value"].nunique()
    assert (losses == 3).all(), "the replicates of a trial differ"
    told = optuna_study(tmp_path / "run").get_trials()
    values = results.trials.set_index("trial")["val_top1"]
    assert [t.value for t in told] == [values[t.number] for t in told]

    single = search(replace(small_study, trials=3), n_parallel=2, out=tmp_path / "single")
    one = single.curves[single.curves["trial"] == 0].reset_index(drop=True)
    first = results.curves[(results.curves["trial"] == 0) & (results.curves["replicate"] == 0)].reset_index(drop=True)
    assert one.equals(first), "the first replicate equals the trial without replicates"


def test_too_few_lanes_for_the_replicates_are_refused(small_study: Study, search: Search) -> None:
    with pytest.raises(UsageError, match="--n-parallel 2 is less than the 3 lanes of one trial"):
        search(replace(small_study, seeds=3), n_parallel=2)


def test_paired_difference_equals_that_of_a_table_of_predictions() -> None:
    rng = np.random.default_rng(0)
    trial, baseline = rng.random((2, 50)) < 0.8, rng.random((2, 50)) < 0.6
    difference = paired_difference(torch.from_numpy(trial), torch.from_numpy(baseline))
    of_images = trial.mean(0) - baseline.mean(0)
    error = of_images.std(ddof=1) / math.sqrt(50)
    assert difference.mean == pytest.approx(trial.mean() - baseline.mean())
    assert difference.high - difference.mean == pytest.approx(1.96 * error, rel=1e-4)
    assert difference.mean - difference.low == pytest.approx(1.96 * error, rel=1e-4)
    nothing = paired_difference(torch.from_numpy(trial), torch.from_numpy(trial))
    assert (nothing.low, nothing.mean, nothing.high) == (0, 0, 0)


def margin(logits: Tensor, labels: Tensor) -> float:
    best = logits.topk(2).values
    return float((best[:, 0] - best[:, 1]).mean())


def test_a_metric_of_the_studys_own_can_be_an_objective(small_study: Study, search: Search) -> None:
    study = replace(
        small_study,
        metrics={"margin": margin},
        objectives={"val_margin": "maximize", "inference_seconds": "minimize"},
    )
    results = search(study, n_parallel=5)
    trials = results.trials
    assert trials["val_margin"].notna().all()
    assert (trials["inference_seconds"] > 0).all()
    assert trials.groupby("params_rank")["inference_seconds"].nunique().eq(1).all(), "measured once per rank"
    assert trials.loc[0, "val_margin"] == trials.loc[trials["front"] == 0, "val_margin"].max()
    assert results.config["metrics"] == ["margin"]


def test_a_metric_that_breaks_fails_its_own_trial(small_study: Study, search: Search) -> None:
    calls: list[int] = []

    def fragile(logits: Tensor, labels: Tensor) -> float:
        calls.append(1)
        return 1 / (len(calls) - 2)  # raises for the second lane of the first epoch

    trials = search(replace(small_study, metrics={"fragile": fragile}), n_parallel=5).trials.set_index("trial")
    assert trials["state"].to_dict() == {**dict.fromkeys([0, 2, 3, 4], "COMPLETE"), 1: "FAIL"}
    assert "epoch 1: the study's metric fragile failed: ZeroDivisionError" in trials.loc[1, "failure"]
    assert "test_budget.py, line" in trials.loc[1, "failure"]


@pytest.mark.parametrize(
    ("value", "reason"),
    [(None, "returned nothing; it must return a number"), (math.nan, "gave nan"), (math.inf, "gave inf")],
)
def test_a_metric_that_never_gives_a_number_is_named(
    small_study: Study, search: Search, value: Any, reason: str
) -> None:
    study = replace(small_study, trials=2, epochs=1, metrics={"own": lambda logits, labels: value})
    with pytest.raises(
        SweepError,
        match=rf"no trial is complete: the study's metric own {reason} \(2 of 2 trials\)\. Mend the metric in small",
    ):
        search(study, n_parallel=2)
