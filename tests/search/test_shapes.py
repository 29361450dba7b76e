"""Stacks of several shapes: a lane is the same in any stack, how stacks are filled, and what happens after failures."""

import threading
import time
from collections import Counter
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import optuna
import pandas as pd
import pytest
import torch
from conftest import RecordingReporter, Search
from hypothesis import given
from hypothesis import strategies as st

import sweep
import sweep.training.lane_stack
from sweep import LaneConfig, Study, UsageError
from sweep.export.write import export_run, model_of_run
from sweep.machine.settings import computing_on
from sweep.records.folder import RunFolder
from sweep.records.reporter import Reporter
from sweep.report.evidence import winner_on_val
from sweep.running.resume import resume_run
from sweep.search.admission import Admission
from sweep.search.filling import Filling
from sweep.search.occupancy import Occupancy
from sweep.search.samplers import make_sampler
from sweep.search.shape_space import FollowingSampler, ShapeSpace
from sweep.side_networks.cost import enough_lanes, rank_buckets
from sweep.study.finding import LoadedStudy
from sweep.study.shape import Shape, padded_rank, shape_of
from sweep.training.engine import EpochResult, Training
from sweep.verify.verify import verify_trial

TIMES = ["seconds", "inference_seconds"]
BASELINE = {"lr": 1e-2, "rank": 2, "size": 32}


def suggest_size(trial: optuna.Trial, forced: int | None = None) -> LaneConfig:
    """A search space of two image sizes. With `forced`, all trials have that size and are otherwise the same."""
    lr, rank = trial.suggest_float("lr", 1e-3, 1e-1, log=True), trial.suggest_categorical("rank", [1, 2, 4])
    size = trial.suggest_categorical("size", [32, 16])
    return LaneConfig(lr=lr, rank=rank, image_size=forced or size)


@pytest.fixture
def sizes(small_study: Study) -> Study:
    return replace(small_study, suggest=suggest_size, baseline=BASELINE, sampler="random", trials=6)


def without_times(table: pd.DataFrame, *others: str) -> pd.DataFrame:
    return table.drop(columns=[*TIMES, *others]).set_index("trial").sort_index()


def test_a_lane_is_the_same_in_a_search_of_two_shapes_as_in_a_search_of_one(
    sizes: Study, search: Search, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setattr(Filling, "wants_follower", lambda *args: False)  # all searches train the enqueued trials alone
    enqueued = [
        {"lr": 1e-2 * i, "rank": rank, "size": size}
        for i, (rank, size) in enumerate([(1, 16), (4, 32), (2, 16), (4, 16), (1, 32)], 1)
    ]
    both = search(sizes, n_parallel=6, enqueued=enqueued, out=tmp_path / "both")
    of_size = {
        size: search(
            replace(sizes, suggest=lambda trial, size=size: suggest_size(trial, size)),
            n_parallel=6,
            enqueued=enqueued,
            out=tmp_path / f"only{size}",
        )
        for size in (32, 16)
    }
    table = without_times(both.trials, "lane", "lane_config", "shape")
    for trial, size in table["params_size"].items():
        alone = without_times(of_size[size].trials, "lane", "lane_config")
        differing = [f"top1_vs_baseline{end}" for end in ("", "_low", "_high")]
        pd.testing.assert_series_equal(table.loc[trial].drop(differing), alone.loc[trial].drop(differing))
        tables = (both.curves, of_size[size].curves)
        curves = [table[table["trial"] == trial].reset_index(drop=True) for table in tables]
        pd.testing.assert_frame_equal(*curves)
    assert set(table["params_size"]) == {32, 16}


def test_tables_do_not_depend_on_the_order_of_stacks(
    sizes: Study, search: Search, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    first = search(sizes, n_parallel=6, out=tmp_path / "first").trials
    train_epoch = Occupancy.train_epoch

    def reversed_stacks(self: Occupancy, reporter: Reporter) -> Iterator[tuple[Shape, object]]:
        self.stacks = dict(reversed(self.stacks.items()))
        return train_epoch(self, reporter)

    monkeypatch.setattr(Occupancy, "train_epoch", reversed_stacks)
    second = search(sizes, n_parallel=6, out=tmp_path / "second").trials
    pd.testing.assert_frame_equal(without_times(first), without_times(second))


def test_a_winner_of_another_shape_is_verified_exported_and_shown(sizes: Study, search: Search, tmp_path: Path) -> None:
    results = search(replace(sizes, suggest=lambda trial: suggest_size(trial, 16), rank_buckets=()), n_parallel=6)
    run, cache = tmp_path / "run", tmp_path / "cache"
    trial = int(results.trials["trial"].iloc[0])
    verified = verify_trial(run, trial, device=torch.device("cpu"), cache_dir=cache)
    assert [c.difference for c in verified.comparisons[:3]] == [0.0, 0.0, 0.0]
    assert verified.kept

    evidence = winner_on_val(results, RunFolder.open(run), trial, cache)
    right = (evidence.predicted == evidence.labels).mean()
    assert right == pytest.approx(results.trials["val_top1"].iloc[0])
    model = model_of_run(run, trial=trial, cache_dir=cache)
    assert model.transform.image_size == 16
    export_run(run, tmp_path / "shipped", cache_dir=cache)
    logits = sweep.load_model(tmp_path / "shipped")(torch.zeros(1, 3, 16, 16))
    assert torch.equal(logits, model(torch.zeros(1, 3, 16, 16)))


def test_an_ensemble_of_several_shapes_gives_one_clear_error(sizes: Study, search: Search, tmp_path: Path) -> None:
    search(sizes, n_parallel=6)
    with pytest.raises(UsageError, match="differ in backbone, stages or side-network"):
        export_run(tmp_path / "run", tmp_path / "shipped", ensemble="top6", cache_dir=tmp_path / "cache")


def test_a_backbone_that_fails_to_load_fails_its_trials_and_the_search_goes_on(sizes: Study, search: Search) -> None:
    def suggest(trial: optuna.Trial) -> LaneConfig:
        name = trial.suggest_categorical("backbone", ["tiny-untrained", "no_such_network"])
        return LaneConfig(lr=trial.suggest_float("lr", 1e-3, 1e-1, log=True), rank=2, backbone=name)

    baseline = {"lr": 1e-2, "backbone": "tiny-untrained"}
    trials = search(replace(sizes, suggest=suggest, baseline=baseline, trials=16, seed=1)).trials
    lost = trials["params_backbone"] == "no_such_network"
    assert 0 < lost.sum() < 16
    assert set(trials.loc[lost, "state"]) == {"FAIL"}
    assert trials.loc[lost, "failure"].str.contains("unknown backbone 'no_such_network'").all()
    assert set(trials.loc[~lost, "state"]) == {"COMPLETE"}


def test_small_stacks_train_at_the_same_time_and_change_nothing(
    sizes: Study, search: Search, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    study, threads, epoch = replace(sizes, trials=9), set[str](), Training.epoch

    def noted(self: Training, *args: Any) -> EpochResult:
        threads.add(threading.current_thread().name)
        return epoch(self, *args)

    monkeypatch.setattr(Training, "epoch", noted)
    with computing_on(1):
        in_turns = search(study, n_parallel=4, out=tmp_path / "in turns")
    assert threads == {threading.main_thread().name}
    with computing_on(2):
        began = time.perf_counter()
        together = search(study, n_parallel=4, out=tmp_path / "together")
        took = time.perf_counter() - began
    assert len(threads) > 1
    pd.testing.assert_frame_equal(without_times(together.trials), without_times(in_turns.trials))
    pd.testing.assert_frame_equal(together.curves, in_turns.curves)
    assert together.trials["seconds"].sum() <= together.summary["wall_seconds"]["training"] * 1.001
    assert together.summary["wall_seconds"]["training"] < took


@pytest.mark.usefixtures("one_part")
def test_a_shape_that_runs_out_of_memory_is_halved_alone(
    sizes: Study, search: Search, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    fine = search(replace(sizes, trials=9), n_parallel=9, out=tmp_path / "fine")
    tried: list[tuple[int, int]] = []

    class Limited(Training):
        def epoch(self, *args: object, **options: object) -> EpochResult:
            tokens = self.val_data.stages.shape[2]
            tried.append((tokens, self.n_lanes))
            if tokens == 5 and self.n_lanes > 2:  # 16 px: 4 patches and a class token
                raise torch.OutOfMemoryError("CUDA out of memory")
            return super().epoch(*args, **options)  # type: ignore[arg-type]

    monkeypatch.setattr(sweep.training.lane_stack, "Training", Limited)
    reporter = RecordingReporter()
    halved = search(replace(sizes, trials=9), n_parallel=9, out=tmp_path / "halved", reporter=reporter)
    assert sum("do not fit" in message for message in reporter.messages) >= 1
    large = [n_lanes for tokens, n_lanes in tried if tokens == 17]
    assert max(large) == (fine.trials["params_size"] == 32).sum(), "the other stack kept all its lanes"
    drop = ("lane", "first_order", *(name for name in fine.trials if "vs_baseline" in name))
    of_32 = [without_times(t, *drop).query("params_size == 32") for t in (fine.trials, halved.trials)]
    pd.testing.assert_frame_equal(*of_32)
    assert (halved.trials["state"] == "COMPLETE").all()


def test_a_search_of_two_shapes_can_be_resumed_after_an_interrupt(sizes: Study, search: Search, tmp_path: Path) -> None:
    study = replace(sizes, trials=10, sampler="tpe")
    whole = search(study, n_parallel=4, out=tmp_path / "whole")
    reporter = RecordingReporter()

    def interrupt(epoch: int) -> None:
        if len(reporter.progress) == 4:
            raise KeyboardInterrupt

    reporter.on_epoch = interrupt
    with pytest.raises(KeyboardInterrupt):
        search(study, n_parallel=4, out=tmp_path / "run", reporter=reporter)
    assert any("s of search if trials spread evenly over " in message for message in reporter.messages)
    loaded = LoadedStudy("small", Path("small.py"), study)
    resume_run(tmp_path / "run", loaded, storage_url=None, cache_dir=tmp_path / "cache", reporter=RecordingReporter())
    resumed = sweep.load_results(tmp_path / "run")
    pd.testing.assert_frame_equal(resumed.trials.drop(columns=TIMES), whole.trials.drop(columns=TIMES))


def test_follower_keeps_the_shape_and_leaves_the_rest_to_the_sampler(sizes: Study) -> None:
    study = replace(sizes, rank_buckets=(2, 4))
    lead = {"lr": 1e-2, "rank": 1, "size": 16}
    optuna_study = optuna.create_study()
    trial = optuna_study.ask()
    study.suggest(trial)
    follow = ShapeSpace(study).follow(lead, trial.distributions)
    assert set(follow.fixed) == {"rank", "size"}
    assert follow.keeps("rank", 2)
    assert not follow.keeps("rank", 4)

    sampler = make_sampler("random", seed=0, grid=None, n_objectives=1)
    optuna_study.sampler = FollowingSampler(sampler, follow)
    drawn = []
    for _ in range(20):
        trial = optuna_study.ask()
        study.suggest(trial)
        drawn.append(trial.params)
    assert {params["size"] for params in drawn} == {16}
    assert {params["rank"] for params in drawn} == {1, 2}, "any rank of the bucket"
    assert len({params["lr"] for params in drawn}) == 20


@pytest.mark.parametrize("sampler", ["tpe", "gp", "random", "nsga2", "qmc", "cmaes", "grid"])
def test_every_sampler_searches_several_shapes(sizes: Study, search: Search, sampler: str) -> None:
    grid = {"lr": [1e-3, 1e-2], "rank": [1, 4], "size": [32, 16]} if sampler == "grid" else None
    trials = search(replace(sizes, sampler=sampler, grid=grid, trials=8, epochs=1), n_parallel=4).trials
    assert len(trials) == 8
    assert set(trials["params_size"]) == {32, 16}


def _shape(study: Study, size: int) -> Shape:
    return shape_of(study, LaneConfig(lr=1.0, image_size=size))


@given(
    preferences=st.lists(st.integers(0, 3), min_size=1, max_size=200),
    enough=st.integers(1, 12),
    n=st.integers(1, 64),
    n_given=st.integers(1, 10),
)
def test_filling_rule(preferences: list[int], enough: int, n: int, n_given: int) -> None:
    """No lane stays idle, every shape that the sampler chose gets lanes, and none gets far more than its share."""
    study = Study(suggest=lambda trial: LaneConfig(lr=1.0), baseline={})
    shapes = [_shape(study, size) for size in (1, 2, 3, 4)]
    filling = Filling(n, lambda shape: enough, n_given)
    running: Counter[Shape] = Counter()
    leads: Counter[Shape] = Counter()
    free = n
    for number, preference in enumerate(preferences):
        if free == 0:
            break
        shape = shapes[preference]
        filling.lead(number, shape)
        leads[shape] += 1
        running[shape] += 1
        free -= 1
        while free and filling.wants_follower(shape, running[shape]):
            running[shape] += 1
            free -= 1
        assert running[shape] - leads[shape] <= min(enough, n), "no more lanes follow once the stack has enough"
    assert all(running[shape] >= leads[shape] > 0 for shape in leads), "every chosen shape has its lanes"
    assert free == n - running.total()


def test_the_first_shapes_get_a_few_trials_each() -> None:
    """The sampler soon sees results of several shapes."""
    study = Study(suggest=lambda trial: LaneConfig(lr=1.0), baseline={})
    filling = Filling(32, lambda shape: 1000, 1)
    for number in range(4):
        shape = _shape(study, 1 + number)
        filling.lead(number, shape)
        assert filling.wants_follower(shape, 7)
        assert not filling.wants_follower(shape, 8)
    filling.lead(4, _shape(study, 1))
    assert filling.wants_follower(_shape(study, 1), 12), "chosen twice out of five times"
    assert not filling.wants_follower(_shape(study, 1), 13)


@pytest.mark.parametrize(
    ("n", "n_given", "first"),
    [(2, 1, 1), (4, 1, 1), (8, 1, 2), (16, 1, 4), (32, 1, 8), (256, 1, 8), (32, 4, 8), (32, 8, 4), (32, 40, 1)],
)
def test_a_first_shape_leaves_room_for_others(n: int, n_given: int, first: int) -> None:
    study = Study(suggest=lambda trial: LaneConfig(lr=1.0), baseline={})
    filling, shape = Filling(n, lambda shape: 1000, n_given), _shape(study, 1)
    filling.lead(0, shape)
    assert [filling.wants_follower(shape, running) for running in (first - 1, first)] == [True, False]


def test_every_configuration_to_begin_with_is_among_few_trials(
    sizes: Study, search: Search, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(Admission, "_enough", lambda *args: 8)
    given = [{"lr": lr, "rank": 4, "size": 16} for lr in (2e-2, 3e-2)]
    study = replace(sizes, enqueue=given, trials=6)
    trials = search(study, enqueued=[{"lr": 4e-2, "rank": 1, "size": 32}], n_parallel=32).trials.sort_values("trial")
    assert {1e-2, 2e-2, 3e-2, 4e-2} <= set(trials["params_lr"])


def test_every_configuration_to_begin_with_is_followed_by_trials_of_its_shape(
    sizes: Study, search: Search, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setattr(Admission, "_enough", lambda *args: 2)
    study = replace(sizes, enqueue=[{"lr": 2e-2, "rank": 4, "size": 16}], trials=8)
    trials = search(study, enqueued=[{"lr": 3e-2, "rank": 1, "size": 32}], n_parallel=8).trials.sort_values("trial")
    assert trials["params_size"].tolist()[:5] == [32, 32, 16, 16, 32]
    assert trials["params_lr"].iloc[[0, 2, 4]].tolist() == [1e-2, 2e-2, 3e-2]
    assert not set(trials["params_lr"].iloc[[1, 3]]) & {1e-2, 2e-2, 3e-2}, "followers are the sampler's own"


def test_configurations_to_begin_with_are_not_tried_twice_after_an_interrupt(
    sizes: Study, search: Search, tmp_path: Path
) -> None:
    study = replace(sizes, enqueue=[{"lr": lr, "rank": 4, "size": 16} for lr in (2e-2, 3e-2, 4e-2)])
    whole = search(study, n_parallel=2, out=tmp_path / "whole").trials
    reporter = RecordingReporter()

    def interrupt(epoch: int) -> None:
        raise KeyboardInterrupt

    reporter.on_epoch = interrupt
    with pytest.raises(KeyboardInterrupt):
        search(study, n_parallel=2, out=tmp_path / "run", reporter=reporter)
    loaded = LoadedStudy("small", Path("small.py"), study)
    resume_run(tmp_path / "run", loaded, storage_url=None, cache_dir=tmp_path / "cache", reporter=RecordingReporter())
    resumed = sweep.load_results(tmp_path / "run").trials
    pd.testing.assert_frame_equal(without_times(resumed), without_times(whole))
    assert whole["params_lr"].isin([2e-2, 3e-2, 4e-2]).sum() == 3


def test_share_follows_the_last_leads() -> None:
    study = Study(suggest=lambda trial: LaneConfig(lr=1.0), baseline={})
    small, large = _shape(study, 1), _shape(study, 2)
    filling = Filling(32, lambda shape: 1000, 1)
    for number in range(64):
        filling.lead(number, small if number % 4 else large)
    assert filling.share(small) == 0.75
    assert filling.wants_follower(large, 7)
    assert not filling.wants_follower(large, 8), "a quarter of 32 lanes"


def test_rank_buckets_split_where_padding_costs_more() -> None:
    def work(rank: int) -> float:
        return float(rank)

    assert rank_buckets({2: 1, 32: 1}, 10.0, work) == (2, 32)
    assert rank_buckets({7: 1, 8: 1}, 10.0, work) == (8,)
    assert rank_buckets({2: 1, 32: 1}, 1e9, work) == (32,), "another stack would cost more than all the padding"
    assert rank_buckets({4: 3}, 1.0, work) == (4,)
    assert [padded_rank(rank, (2, 8)) for rank in (1, 2, 3, 8, 9, 17)] == [2, 2, 8, 8, 16, 32]


def test_enough_lanes_is_where_the_shared_part_no_longer_matters() -> None:
    assert enough_lanes(stack_work=100.0, lane_work=100.0) == 4
    assert enough_lanes(stack_work=1.0, lane_work=100.0) == 2


def test_a_configuration_that_repeats_the_study_has_the_studys_shape(small_study: Study) -> None:
    study = replace(small_study, suggest=lambda trial: LaneConfig(lr=1.0, rank=1, batch_size=16, stages=1), baseline={})
    config = study.lane_config(optuna.trial.FixedTrial({}))
    assert config.batch_size is None
    assert config.stages == 1


@pytest.mark.parametrize(
    ("field", "value"),
    [("batch_size", 0), ("image_size", "large"), ("pool", "sum"), ("stages", [1.5]), ("precision", "fp8")],
)
def test_a_shape_that_cannot_be_declared_is_refused(small_study: Study, field: str, value: object) -> None:
    study = replace(small_study, suggest=lambda trial: LaneConfig(lr=1.0, rank=1, **{field: value}), baseline={})  # type: ignore[arg-type]
    with pytest.raises(UsageError, match=field):
        study.lane_config(optuna.trial.FixedTrial({}))


def test_shapes_that_differ_in_stages_share_one_pass_of_the_backbone(
    small_study: Study, search: Search, tmp_path: Path
) -> None:
    def suggest(trial: optuna.Trial) -> LaneConfig:
        stages = trial.suggest_categorical("stages", [1, 2, 4])
        return LaneConfig(lr=trial.suggest_float("lr", 1e-3, 1e-1, log=True), rank=2, stages=stages)

    baseline = {"lr": 1e-2, "stages": 2}
    study = replace(small_study, suggest=suggest, baseline=baseline, trials=18, sampler="random")
    results = search(study, n_parallel=3)
    assert set(results.trials["params_stages"]) == {1, 2, 4}
    assert results.summary["n_images_computed"] == 60, "one pass for all shapes"
    for trial in results.trials["trial"].head(2):
        verified = verify_trial(tmp_path / "run", int(trial), device=torch.device("cpu"), cache_dir=tmp_path / "cache")
        assert verified.kept, "the lane is the same with the features of its own stages alone"
