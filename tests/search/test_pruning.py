"""Rungs: which trials continue. The order in which trials report must not matter."""

from dataclasses import replace
from pathlib import Path

import pandas as pd
import pytest
import torch
from conftest import RecordingReporter, Search, optuna_study
from hypothesis import given
from hypothesis import strategies as st
from optuna.trial import TrialState

from sweep import Halving, Study, UsageError
from sweep.search.rungs import Arrival, RungTable
from sweep.training.engine import Lane, Training

HALVING = Halving(eta=3, first_rung=1)

arrivals = st.lists(
    st.tuples(st.tuples(st.integers(0, 3), st.integers(0, 3)), st.integers(0, 1)), min_size=1, max_size=12
)


@given(st.lists(arrivals, min_size=1, max_size=4), st.randoms(use_true_random=False))
def test_decisions_do_not_depend_on_the_order_of_arrivals(batches: list[list[object]], random: object) -> None:
    tables = RungTable(HALVING), RungTable(HALVING)
    number = 0
    for batch in batches:
        together = []
        for costs, tie in batch:  # type: ignore[misc]
            together.append(Arrival(number, costs, tie))
            number += 1
        shuffled = together.copy()
        random.shuffle(shuffled)  # type: ignore[attr-defined]
        assert tables[0].stopped({1: together}) == tables[1].stopped({1: shuffled})


@pytest.mark.parametrize(("n_lanes", "n_passing"), [(1, 1), (2, 1), (3, 1), (4, 2), (9, 3), (32, 11)])
def test_trials_that_arrive_together_are_cut_to_a_third(n_lanes: int, n_passing: int) -> None:
    together = [Arrival(i, [-i / n_lanes], 0.0) for i in range(n_lanes)]
    stopped = RungTable(HALVING).stopped({1: together})
    assert stopped == set(range(n_lanes - n_passing))


def test_a_single_arrival_is_compared_with_earlier_ones() -> None:
    table = RungTable(HALVING)
    table.stopped({1: [Arrival(i, [float(i)], 0.0) for i in range(6)]})
    assert table.stopped({1: [Arrival(6, [1.5], 0.0)]}) == set(), "it is third of seven, and three may pass"
    assert table.stopped({1: [Arrival(7, [2.5], 0.0)]}) == {7}
    assert table.stopped({3: [Arrival(8, [9.0], 0.0)]}) == set(), "it is the first at its rung"


def test_a_trial_that_trains_again_counts_once() -> None:
    table, again = RungTable(HALVING), RungTable(HALVING)
    first, later = [Arrival(i, [float(i)], 0.0) for i in range(4)], [Arrival(4, [1.5], 0.0)]
    table.stopped({1: first})
    again.stopped({1: first})
    assert again.stopped({1: first[2:]}) == {2, 3}
    assert again.stopped({1: later}) == table.stopped({1: later}) == {4}


def test_equal_trials_are_ordered_by_tie_and_then_by_number() -> None:
    together = [Arrival(0, [0.5], 2.0), Arrival(1, [0.5], 1.0), Arrival(2, [0.5], 1.0)]
    assert RungTable(HALVING).stopped({1: together}) == {0, 2}


def test_rungs_lie_below_the_last_epoch() -> None:
    assert Halving(eta=3, first_rung=1).rungs(12) == [1, 3, 9]
    assert Halving(eta=3, first_rung=1).rungs(9) == [1, 3]
    assert Halving(eta=2, first_rung=2, top_rung=5).rungs(100) == [2, 4]
    assert Halving(eta=2, first_rung=5).rungs(5) == []
    assert Halving(eta=2, first_rung=5).beyond(6) == ""
    assert "first rung is at epoch 5, and a trial has 5" in Halving(eta=2, first_rung=5).beyond(5)
    assert Halving(eta=2, first_rung=2, top_rung=5).beyond(6) == ""
    assert "top_rung is 6, and a trial has 6 epochs, so the last rung is at epoch 4" in Halving(
        eta=2, first_rung=2, top_rung=6
    ).beyond(6)
    # one epoch for all, two for a third, six for a ninth, three for a 27th
    assert Halving(eta=3, first_rung=1).expected_epochs(12) == pytest.approx(1 + 2 / 3 + 6 / 9 + 3 / 27)


@pytest.mark.parametrize("wrong", [{"eta": 1}, {"first_rung": 0}, {"eta": 2.5}, {"first_rung": 4, "top_rung": 3}])
def test_impossible_rungs_are_refused(wrong: dict[str, int]) -> None:
    with pytest.raises(UsageError, match=r"Halving\."):
        Halving(**wrong)


def halving_study(study: Study, **declared: object) -> Study:
    return replace(study, trials=12, epochs=4, halving=Halving(eta=2, first_rung=1), **declared)


def test_rungs_stop_the_weaker_trials_and_their_lanes_are_refilled(
    small_study: Study, search: Search, tmp_path: Path
) -> None:
    reporter = RecordingReporter()
    results = search(halving_study(small_study), n_parallel=4, reporter=reporter)
    trials = results.trials.set_index("trial").sort_index()
    assert set(trials["state"]) == {"COMPLETE", "PRUNED"}
    pruned = trials[trials["state"] == "PRUNED"]
    assert set(pruned["epochs"]) <= {1, 2}, "the rungs are at epochs 1 and 2"
    assert (pruned["stopped"] == "at the rung of epoch " + pruned["epochs"].astype(str)).all()
    assert (trials.loc[trials["state"] == "COMPLETE", "epochs"] == 4).all()
    assert reporter.epochs[:3] == [4, 4, 4], "freed lanes are filled before the next epoch"
    assert (trials["first_order"] > 1).any()
    assert sum(reporter.epochs) == trials["epochs"].sum()

    # The first four are compared together. The better half by val top-1, then NLL, continues, and so does the baseline.
    after_one = results.curves[results.curves["epoch"] == 1].pivot(index="trial", columns="metric", values="value")
    order = after_one.loc[:3].sort_values(["val_top1", "val_nll"], ascending=[False, True]).index
    assert set(trials.index[trials["epochs"] == 1]) & {0, 1, 2, 3} == set(order[2:]) - {0}

    told = {
        t.number: t for t in optuna_study(tmp_path / "run").get_trials() if "sweep:duplicate_of" not in t.user_attrs
    }
    for number, row in trials.iterrows():
        assert told[number].state == TrialState[row["state"]]
        curve = results.curves[(results.curves["trial"] == number) & (results.curves["metric"] == "val_top1")]
        assert told[number].intermediate_values == dict(zip(curve["epoch"], curve["value"], strict=True))
    assert 0 < results.summary["occupied_share"] <= 1


def test_a_trial_in_a_refilled_lane_equals_the_trial_alone(
    small_study: Study, search: Search, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The trial is repeated from the table alone: its configuration, seed and first data order."""
    data: list[Training] = []
    init = Training.__init__

    def remember(self: Training, *args: object, **options: object) -> None:
        init(self, *args, **options)  # type: ignore[arg-type]
        data.append(self)

    study = halving_study(small_study)
    monkeypatch.setattr(Training, "__init__", remember)
    results = search(study, n_parallel=4)
    monkeypatch.undo()
    trials = results.trials
    late = trials[(trials["first_order"] > 1) & (trials["epochs"] > 1)].iloc[0]
    config = next(
        lane.config
        for training in data
        for lane in training.lanes
        if (lane.config.lr, lane.config.rank, lane.config.loss)
        == (late["params_lr"], late["params_rank"], late["params_loss"])
    )
    from sweep.side_networks.spec import SideNetworkSpec

    spec = SideNetworkSpec(
        width=32, n_stages=3, n_classes=3, n_prefix_tokens=1, modules_per_block=1, pool="mean", max_rank=4
    )
    alone = Training(
        [Lane(config, spec.lane(config.rank, int(late["seed"])), int(late["seed"]))],
        data[0].train_data,
        data[0].val_data,
        n_epochs=study.epochs,
        batch_size=study.batch_size,
        seed=study.seed,
    )
    losses = [alone.epoch(int(late["first_order"]) + i).train_loss.item() for i in range(int(late["epochs"]))]
    curve = results.curves[(results.curves["trial"] == late["trial"]) & (results.curves["metric"] == "train_loss")]
    assert losses == curve.sort_values("epoch")["value"].to_list()


def test_the_baseline_passes_every_rung(small_study: Study, search: Search) -> None:
    hopeless = {"lr": 1e-3, "rank": 1, "loss": "bce"}
    trials = search(halving_study(small_study, baseline=hopeless), n_parallel=6).trials.set_index("trial")
    assert trials.loc[0, "state"] == "COMPLETE"
    assert trials.loc[0, "top1_vs_baseline"] == 0
    compared = trials[["top1_vs_baseline", "top1_vs_baseline_low", "top1_vs_baseline_high"]]
    assert compared.notna().all(axis=None)


def test_the_same_seed_prunes_and_refills_alike(small_study: Study, search: Search, tmp_path: Path) -> None:
    first, second = (search(halving_study(small_study), n_parallel=4, out=tmp_path / name) for name in ("a", "b"))
    pd.testing.assert_frame_equal(first.trials.drop(columns="seconds"), second.trials.drop(columns="seconds"))
    pd.testing.assert_frame_equal(first.curves, second.curves)


def test_several_objectives_are_pruned_too(small_study: Study, search: Search, tmp_path: Path) -> None:
    objectives = {"val_top1": "maximize", "trainable_parameters": "minimize"}
    results = search(halving_study(small_study, objectives=objectives), n_parallel=6)
    trials = results.trials
    assert (trials["state"] == "PRUNED").any()
    complete = trials[trials["state"] == "COMPLETE"]
    for _, row in complete[complete["front"] == 0].iterrows():
        better = (complete["val_top1"] >= row["val_top1"]) & (
            complete["trainable_parameters"] <= row["trainable_parameters"]
        )
        strictly = (complete["val_top1"] > row["val_top1"]) | (
            complete["trainable_parameters"] < row["trainable_parameters"]
        )
        assert not (better & strictly).any()
    study = optuna_study(tmp_path / "run")
    assert study.metric_names == list(objectives)
    front = {t.number for t in study.best_trials}
    assert front == set(complete.loc[complete["front"] == 0, "trial"])
    pruned = [t for t in study.get_trials(states=[TrialState.PRUNED])]
    assert pruned
    for t in pruned:
        assert t.user_attrs["sweep:curve"]["epoch"][-1] in (1, 2)
        assert len(t.user_attrs["sweep:curve"]["val_top1"]) == len(t.user_attrs["sweep:curve"]["epoch"])
    assert torch.tensor([volume for _, volume in results.summary["hypervolume"]["after_trial"]]).diff().ge(0).all()
