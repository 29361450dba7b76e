"""The search in one process: what is proposed, trained, reported to Optuna and written."""

import json
import weakref
from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import optuna
import pandas as pd
import pytest
import torch
from conftest import BASELINE, RecordingReporter, Search, optuna_study, search_in, suggest
from optuna.trial import TrialState
from safetensors.torch import load_file

import sweep.running.planner
import sweep.training.lane_stack
from sweep import LaneConfig, Results, Study, SweepError, UsageError
from sweep.machine.settings import computing_on
from sweep.search.proposals import Proposals
from sweep.side_networks import LAST
from sweep.training import linear_probe_reference
from sweep.training.engine import EpochResult, Lane, Training, train
from sweep.training.stack import Stack

TIMES = ["seconds"]


def test_every_trial_is_trained_told_and_ranked(small_study: Study, search: Search, tmp_path: Path) -> None:
    reporter = RecordingReporter()
    results = search(small_study, reporter=reporter)
    trials = results.trials

    assert sorted(trials["trial"]) == [0, 1, 2, 3, 4]
    assert (trials["state"] == "COMPLETE").all()
    assert list(trials["val_top1"]) == sorted(trials["val_top1"], reverse=True)
    assert reporter.epochs == [3, 3, 3, 2, 2, 2]
    assert reporter.n_steps == 6 * 3, "38 images in batches of 16"
    assert trials.set_index("trial")["lane"].sort_index().to_list() == [0, 1, 2, 0, 1]
    assert (trials["first_order"] == 1).all(), "a new stack sees the data in the same order as the first"
    assert results.summary["ended"] == "all 5 trials have ended"
    assert results.summary["n_trials"] == {"complete": 5, "pruned": 0, "fail": 0}
    assert trials["seed"].nunique() == 5

    told = optuna_study(tmp_path / "run").get_trials()
    assert [t.state for t in told] == [TrialState.COMPLETE] * 5
    values = trials.set_index("trial")["val_top1"]
    for t in told:
        assert t.value == values[t.number]
        assert sorted(t.intermediate_values) == [1, 2, 3]
        assert t.intermediate_values[3] == t.value
    assert told[0].params == BASELINE

    curves = results.curves
    assert set(curves["metric"]) == {
        "train_loss",
        "val_top1",
        "val_mean_class_accuracy",
        "val_worst_class_accuracy",
        "val_nll",
        "val_ece",
    }
    assert len(curves) == 5 * 3 * 6
    last = curves[(curves["epoch"] == 3) & (curves["metric"] == "val_nll")].set_index("trial")["value"]
    pd.testing.assert_series_equal(
        last.sort_index(), trials.set_index("trial")["val_nll"].sort_index(), check_names=False
    )


def test_later_stacks_use_earlier_results(small_study: Study, search: Search, monkeypatch: pytest.MonkeyPatch) -> None:
    """When trials of the second stack are proposed, those of the first stack have values."""
    seen: list[int] = []
    ask = Proposals._new_trial

    def counting_ask(self: Proposals) -> optuna.Trial:
        seen.append(sum(t.state == TrialState.COMPLETE for t in self.optuna_study.get_trials(deepcopy=False)))
        return ask(self)

    monkeypatch.setattr(Proposals, "_new_trial", counting_ask)
    search(small_study)
    assert seen == [0, 0, 0, 3, 3]


def test_same_seed_gives_the_same_tables_and_no_backbone_forward(
    small_study: Study, search: Search, tmp_path: Path
) -> None:
    first = search(small_study, out=tmp_path / "first")
    reporter = RecordingReporter()
    torch.manual_seed(99)  # the caller's random state must not matter
    second = search(small_study, out=tmp_path / "second", reporter=reporter)
    pd.testing.assert_frame_equal(first.trials.drop(columns=TIMES), second.trials.drop(columns=TIMES))
    pd.testing.assert_frame_equal(first.curves, second.curves)
    for key in ("winner", "linear_probe"):
        assert first.summary[key] == second.summary[key]
    assert first.summary["n_images_computed"] == 60
    assert second.summary["n_images_computed"] == 0
    assert any("no backbone forward" in message for message in reporter.messages)

    other = search(replace(small_study, seed=1), out=tmp_path / "other")
    assert not other.trials["params_lr"].equals(first.trials["params_lr"])


def test_stack_width_changes_no_result(small_study: Study, search: Search, tmp_path: Path) -> None:
    """At random start, proposals do not depend on results. They train to the same bits in a stack of any width."""
    wide = search(small_study, n_parallel=5, out=tmp_path / "wide").trials.set_index("trial").sort_index()
    narrow = search(small_study, n_parallel=3, out=tmp_path / "narrow").trials.set_index("trial").sort_index()
    columns = [name for name in wide if name not in ("seconds", "lane")]
    pd.testing.assert_frame_equal(wide[columns], narrow[columns], check_exact=True)


def test_winner_is_a_plain_last_that_repeats_its_numbers(small_study: Study, search: Search, tmp_path: Path) -> None:
    results = search(small_study)
    winner = results.summary["winner"]
    assert winner["trial"] == results.trials.loc[0, "trial"]
    assert winner["val"]["top1"] == results.trials.loc[0, "val_top1"]
    rank = winner["params"]["rank"]
    module = LAST(32, 3, 3, rank, n_prefix_tokens=1)
    module.load_state_dict(load_file(tmp_path / "run" / "winner.safetensors"))
    assert sum(p.numel() for p in module.parameters()) == winner["trainable_parameters"]
    assert 0 <= winner["test"]["top1"] <= 1
    probe = results.summary["linear_probe"]
    assert probe["n_configurations"] == 20
    assert probe["stage"] in (1, 2)


def test_config_records_what_was_run(small_study: Study, search: Search) -> None:
    config = search(replace(small_study, seed=3)).config
    assert (config["seed"], config["n_parallel"], config["backbone"]) == (3, 3, "tiny-untrained")
    assert (
        config["splits"]["train"]["images"] + config["splits"]["val"]["images"] + config["splits"]["test"]["images"]
        == 60
    )
    assert len({split["fingerprint"] for split in config["splits"].values()}) == 3
    assert {"torch", "timm", "optuna"} <= set(config["versions"])
    json.dumps(config)


def wild_suggest(trial: optuna.Trial) -> LaneConfig:
    """The search space, except that trial 1 diverges."""
    config = suggest(trial)
    return LaneConfig(lr=1e30, optimizer="sgd", rank=2) if trial.number == 1 else config


def test_a_diverging_trial_fails_with_its_reason_and_affects_no_other(
    small_study: Study, search: Search, tmp_path: Path
) -> None:
    healthy = search(small_study, n_parallel=5, out=tmp_path / "healthy").trials.set_index("trial")
    wild = search(replace(small_study, suggest=wild_suggest), n_parallel=5, out=tmp_path / "wild")
    trials = wild.trials.set_index("trial")
    assert trials.loc[1, "state"] == "FAIL"
    assert "epoch 1: diverged" in trials.loc[1, "failure"]
    assert wild.trials["trial"].iloc[-1] == 1, "failed trials come last"
    told = optuna_study(tmp_path / "wild").get_trials()[1]
    assert told.state == TrialState.FAIL
    assert told.user_attrs["sweep:failure"] == trials.loc[1, "failure"]
    others = ["val_top1", "val_nll", "train_loss"]
    pd.testing.assert_frame_equal(trials.loc[[0, 2, 3, 4], others], healthy.loc[[0, 2, 3, 4], others], check_exact=True)


def test_a_study_whose_trials_all_diverge_says_so(small_study: Study, search: Search) -> None:
    def diverge(trial: optuna.Trial) -> LaneConfig:
        trial.suggest_float("lr", 0, 1)
        return LaneConfig(lr=1e30, optimizer="sgd")

    with pytest.raises(SweepError, match=r"no trial ended with finite numbers.*trials\.parquet"):
        search(replace(small_study, suggest=diverge, baseline={"lr": 0.5}, max_rank=8))


def test_interrupt_keeps_the_table_so_far(small_study: Study, search: Search, tmp_path: Path) -> None:
    reporter = RecordingReporter()

    def interrupt(epoch: int) -> None:
        if epoch == 2:
            raise KeyboardInterrupt

    reporter.on_epoch = interrupt
    with pytest.raises(KeyboardInterrupt):
        search(small_study, reporter=reporter)
    trials = sweep.load_results(tmp_path / "run").trials
    assert list(trials["epochs"]) == [2] * 3
    assert trials["val_top1"].notna().all()
    assert [t.state for t in optuna_study(tmp_path / "run").get_trials()] == [TrialState.RUNNING] * 3


OUT_OF_MEMORY = [
    torch.OutOfMemoryError("CUDA out of memory"),
    RuntimeError("DefaultCPUAllocator: can't allocate memory: you tried to allocate 8 bytes"),
]


def fitting(monkeypatch: pytest.MonkeyPatch, n_lanes: int, error: Exception, n_epochs: int = 0) -> list[int]:
    """Make stacks above `n_lanes` lanes fail after `n_epochs`. Return a list that collects the sizes of stacks.

    The test needs the fixture `one_part`.
    """
    tried: list[int] = []
    alive: list[weakref.ref[Stack]] = []

    class Limited(Training):
        def __init__(self, lanes: Sequence[Lane], *args: Any, **options: Any):
            assert all(former() is None for former in alive), "an earlier stack still holds its memory"
            super().__init__(lanes, *args, **options)
            alive.append(weakref.ref(self.stack))
            tried.append(len(lanes))

        def epoch(self, order: int, on_step: Callable[[], None] = lambda: None) -> EpochResult:
            if self.n_lanes > n_lanes and self.lanes[0].epochs == n_epochs:
                raise type(error)(*error.args)  # a new one, because a stored error would keep the stack that raised it
            return super().epoch(order, on_step)

    monkeypatch.setattr(sweep.training.lane_stack, "Training", Limited)
    return tried


@pytest.mark.usefixtures("one_part")
@pytest.mark.parametrize("error", OUT_OF_MEMORY)
def test_one_lane_out_of_memory_is_one_clear_error(
    small_study: Study, search: Search, monkeypatch: pytest.MonkeyPatch, tmp_path: Path, error: Exception
) -> None:
    tried = fitting(monkeypatch, 0, error)
    with pytest.raises(SweepError, match=r"one trial \(1 lane of batch size 16\) does not fit .* lower --batch-size"):
        search(small_study)
    assert tried == [3, 2, 1]
    assert [t.state for t in optuna_study(tmp_path / "run").get_trials()] == [TrialState.RUNNING] * 3


@pytest.fixture(scope="module")
def nine_trials(small_study: Study) -> Study:
    """A study of so few trials that all proposals are random, and so do not depend on results."""
    return replace(small_study, trials=9)


@pytest.fixture(scope="module")
def in_twos(nine_trials: Study, tmp_path_factory: pytest.TempPathFactory) -> Results:
    """What a run of two lanes gives."""
    return search_in(tmp_path_factory.mktemp("in_twos"), nine_trials, n_parallel=2)


@pytest.mark.usefixtures("one_part")
@pytest.mark.parametrize("error", OUT_OF_MEMORY)
@pytest.mark.parametrize("n_epochs", [0, 2])
def test_out_of_memory_halves_the_stack_and_keeps_its_trials(
    nine_trials: Study,
    in_twos: Results,
    search: Search,
    monkeypatch: pytest.MonkeyPatch,
    tmp_path: Path,
    error: Exception,
    n_epochs: int,
) -> None:
    """The result equals that of a run with the smaller stack."""
    tried = fitting(monkeypatch, 2, error, n_epochs)
    reporter = RecordingReporter()
    halved = search(nine_trials, n_parallel=4, out=tmp_path / "halved", reporter=reporter)

    assert tried == [4, 2, 2, 2, 2, 1]
    assert [message for message in reporter.messages if "do not fit" in message] == [
        "4 lanes of batch size 16 do not fit in the memory of cpu; their trials start again, 2 at a time"
    ]
    pd.testing.assert_frame_equal(halved.trials.drop(columns=TIMES), in_twos.trials.drop(columns=TIMES))
    by = ["trial", "epoch", "metric"]
    curves = [results.curves.sort_values(by).reset_index(drop=True) for results in (halved, in_twos)]
    pd.testing.assert_frame_equal(*curves)
    assert halved.summary["winner"] == in_twos.summary["winner"]

    told = [t for t in optuna_study(tmp_path / "halved").get_trials() if "sweep:duplicate_of" not in t.user_attrs]
    assert [t.state for t in told] == [TrialState.COMPLETE] * 9
    values = halved.trials.set_index("trial")["val_top1"]
    assert [t.value for t in told] == [values[t.number] for t in told]
    assert all(sorted(t.intermediate_values) == [1, 2, 3] for t in told)


@pytest.mark.usefixtures("one_part")
def test_a_trial_that_diverged_before_its_stack_was_halved_stays_failed(
    small_study: Study, search: Search, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    tried = fitting(monkeypatch, 2, OUT_OF_MEMORY[0], n_epochs=1)
    trials = search(replace(small_study, suggest=wild_suggest), n_parallel=4).trials.set_index("trial")
    assert tried == [4, 4, 2, 2], "the lane of trial 1 went to trial 4, and all but trial 1 train again"
    assert trials["state"].to_dict() == {**dict.fromkeys([0, 2, 3, 4], "COMPLETE"), 1: "FAIL"}
    assert "epoch 1: diverged" in trials.loc[1, "failure"]


@pytest.mark.usefixtures("one_part")
def test_interrupt_after_halving_loses_no_trial_that_waits(
    small_study: Study, search: Search, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    fitting(monkeypatch, 2, OUT_OF_MEMORY[0])
    reporter = RecordingReporter()

    def interrupt(epoch: int) -> None:
        raise KeyboardInterrupt

    reporter.on_epoch = interrupt
    with pytest.raises(KeyboardInterrupt):
        search(small_study, n_parallel=4, reporter=reporter)
    epochs = sweep.load_results(tmp_path / "run").trials.set_index("trial")["epochs"].to_dict()
    assert epochs == {0: 1, 1: 1, 2: 0, 3: 0}


@pytest.mark.parametrize("error", OUT_OF_MEMORY)
def test_parts_of_which_one_runs_out_of_memory_start_again_as_a_smaller_stack(
    nine_trials: Study,
    in_twos: Results,
    search: Search,
    monkeypatch: pytest.MonkeyPatch,
    tmp_path: Path,
    error: Exception,
) -> None:
    n_parallel = 4
    alive: list[weakref.ref[Training]] = []
    sizes: list[int] = []

    class Limited(Training):
        def __init__(self, lanes: Sequence[Lane], *args: Any, **options: Any):
            held = sum(former.n_lanes for former in (one() for one in alive) if former is not None)
            assert held + len(lanes) <= n_parallel, "a part of an earlier stack still holds its memory"
            super().__init__(lanes, *args, **options)
            alive.append(weakref.ref(self))
            sizes.append(len(lanes))

        def epoch(self, order: int, on_step: Callable[[], None] = lambda: None) -> EpochResult:
            if len(sizes) == 2 and self is alive[1]():
                raise type(error)(*error.args)
            return super().epoch(order, on_step)

    monkeypatch.setattr(sweep.training.lane_stack, "Training", Limited)
    with computing_on(2):
        halved = search(nine_trials, n_parallel=n_parallel, out=tmp_path / "halved")
    assert sizes == [2, 2, 2, 2, 2, 2, 1]
    pd.testing.assert_frame_equal(halved.trials.drop(columns=TIMES), in_twos.trials.drop(columns=TIMES))


def test_the_plan_is_recorded_beside_the_measured_times(small_study: Study, search: Search, tmp_path: Path) -> None:
    first = search(small_study, out=tmp_path / "first").summary
    assert first["plan"]["n_parallel"] == 3
    assert first["plan"]["lane_epochs"] == 15
    assert first["plan"]["n_images_missing"] == first["n_images_computed"] == 60
    assert first["plan"]["search_wall_seconds"] > 0
    assert first["plan"]["feature_wall_seconds"] > 0
    stored = sum(path.stat().st_size for path in (tmp_path / "cache").glob("features/*/stages.f16"))
    assert first["plan"]["cache_bytes"] == stored
    second = search(small_study, out=tmp_path / "second").summary
    assert second["plan"]["feature_wall_seconds"] == 0, "nothing has to be computed, so the backbone is not timed"


@pytest.mark.parametrize(("n_fitting", "epochs"), [(100, [5] * 3), (2, [2] * 6 + [1] * 3), (0, [1] * 15)])
def test_auto_takes_the_lanes_that_fit_and_no_more_than_trials(
    small_study: Study, search: Search, monkeypatch: pytest.MonkeyPatch, n_fitting: int, epochs: list[int]
) -> None:
    monkeypatch.setattr(sweep.running.planner, "lanes_that_fit", lambda *args: n_fitting)
    reporter = RecordingReporter()
    results = search(small_study, n_parallel=None, reporter=reporter)
    assert reporter.epochs == epochs
    assert results.config["n_parallel"] == "auto"
    assert results.summary["plan"]["lanes_that_fit"] == n_fitting


def test_long_curves_reach_optuna_thinned_out(
    small_study: Study, search: Search, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("sweep.search.ledger.MAX_REPORTS", 5)
    results = search(replace(small_study, epochs=14, trials=2))
    told = optuna_study(tmp_path / "run").get_trials()[0]
    assert list(told.intermediate_values) == [3, 6, 9, 12, 14]
    assert results.curves["epoch"].nunique() == 14


def test_any_optuna_storage_serves(small_study: Study, search: Search, tmp_path: Path) -> None:
    url = f"sqlite:///{tmp_path / 'trials.db'}"
    search(small_study, storage_url=url)
    stored = optuna.load_study(study_name="run", storage=url)
    assert len(stored.get_trials()) == 5
    assert not (tmp_path / "run" / "optuna.journal").exists()
    with pytest.raises(UsageError, match="already holds a study named run"):
        search(small_study, storage_url=url, out=tmp_path / "elsewhere" / "run")


def test_unusable_requests_name_value_and_remedy(small_study: Study, search: Search, tmp_path: Path) -> None:
    with pytest.raises(UsageError, match=r"--n-parallel must be at least 1, not 0"):
        search(small_study, n_parallel=0)
    with pytest.raises(UsageError, match=r"--storage nonsense:// cannot be opened.*sqlite:///"):
        search(small_study, storage_url="nonsense://", out=tmp_path / "a")
    with pytest.raises(UsageError, match=r"--device abacus cannot be used here"):
        search(small_study, device_name="abacus", out=tmp_path / "b")
    for wrong, message in (
        ({**BASELINE, "colour": 1}, "baseline names 'colour'"),
        ({"lr": 1e-2, "rank": 2}, "baseline lacks loss"),
        ({**BASELINE, "lr": 5.0}, r"baseline has lr = 5\.0, but suggest asks for a number from 0\.001 to 0\.1"),
    ):
        with pytest.raises(UsageError, match=message):
            search(replace(small_study, baseline=wrong), out=tmp_path / "c")
        assert not (tmp_path / "c").exists(), "refused before anything was created"
    with pytest.raises(UsageError, match="rank 4, above its max_rank 2"):
        search(replace(small_study, max_rank=2, trials=9), out=tmp_path / "d", n_parallel=9)
    (tmp_path / "full").mkdir()
    (tmp_path / "full" / "file").touch()
    with pytest.raises(UsageError, match="is not empty"):
        search(small_study, out=tmp_path / "full")


def test_parameters_of_several_types_reach_the_table(small_study: Study, search: Search) -> None:
    def mixed(trial: optuna.Trial) -> LaneConfig:
        trial.suggest_categorical("size", [1, "auto"])
        return LaneConfig(lr=1e-2, rank=2)

    trials = search(replace(small_study, suggest=mixed, baseline={"size": "auto"})).trials
    assert set(trials["params_size"]) <= {"1", "auto"}
    assert trials.set_index("trial").loc[0, "params_size"] == "auto"


def test_interrupted_later_stack_keeps_the_winner_so_far(small_study: Study, search: Search, tmp_path: Path) -> None:
    reporter = RecordingReporter()

    def interrupt(epoch: int) -> None:
        if epoch == 4:
            raise KeyboardInterrupt

    reporter.on_epoch = interrupt
    with pytest.raises(KeyboardInterrupt):
        search(small_study, reporter=reporter)
    trials = sweep.load_results(tmp_path / "run").trials
    assert list(trials["state"]) == ["COMPLETE"] * 3 + ["RUNNING"] * 2
    weights = load_file(tmp_path / "run" / "winner.safetensors")
    assert sum(w.numel() for w in weights.values()) == trials.loc[0, "trainable_parameters"]


@pytest.mark.usefixtures("whole_probe")
def test_the_linear_probe_trains_four_times_as_long_as_the_trials(
    small_study: Study, search: Search, monkeypatch: pytest.MonkeyPatch
) -> None:
    n_epochs: list[int] = []

    def noted(*args: Any, **options: Any) -> Any:
        n_epochs.append(options["n_epochs"])
        return train(*args, **options)

    monkeypatch.setattr(linear_probe_reference, "train", noted)
    search(replace(small_study, trials=1))
    assert set(n_epochs) == {4 * small_study.epochs}
