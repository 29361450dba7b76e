"""The estimate of a search of several shapes: what it counts, by hand and against real searches."""

from collections import Counter
from dataclasses import replace
from pathlib import Path

import optuna
import pytest
import torch
from conftest import RecordingReporter, Search

from sweep import Halving, LaneConfig, Study
from sweep.machine.device import device_named
from sweep.machine.settings import computing_on
from sweep.records.reporter import Reporter
from sweep.running.memory_model import shared_bytes
from sweep.running.planner import plan_features, plan_study
from sweep.running.preparation import prepare
from sweep.running.rehearsed_search import ShapeCost, rehearsed_seconds
from sweep.running.settings import ShapeSettings
from sweep.running.shape_plan import ShapePlanner
from sweep.search.occupancy import Occupancy
from sweep.study.shape import Shape, shape_of


def suggest(trial: optuna.Trial) -> LaneConfig:
    """Three shapes."""
    lr = trial.suggest_float("lr", 1e-3, 1e-1, log=True)
    return LaneConfig(lr=lr, rank=2, image_size=trial.suggest_categorical("size", [16, 32, 48]))


@pytest.fixture
def study(small_study: Study) -> Study:
    baseline = {"lr": 1e-2, "size": 32}
    return replace(small_study, suggest=suggest, baseline=baseline, sampler="random", trials=7, epochs=3)


def shape(study: Study, size: int) -> Shape:
    return shape_of(study, LaneConfig(lr=1.0, rank=2, image_size=size))


def cost(name: str, *, stack: float = 0.0, lane: float = 0.0, features: float = 0.0) -> ShapeCost:
    return ShapeCost(stack, lane, 4, name, features)


def test_time_of_lanes_and_stacks_by_hand(study: Study) -> None:
    one, two = shape(study, 16), shape(study, 32)
    costs = {one: cost("one", stack=1, lane=10, features=1000), two: cost("two", stack=2, lane=20, features=5000)}
    alone = rehearsed_seconds(study, 7, costs, [one], [one], follows=False)
    assert alone == pytest.approx((3 * (1 + 7 * 10), 1000)), "seven lanes of one stack, three epochs"
    halves = rehearsed_seconds(study, 4, costs, [one], [one], follows=False)
    assert halves[0] == pytest.approx(3 * (2 * 1 + 7 * 10)), "a stack of four, then one of three"
    both = rehearsed_seconds(study, 7, costs, [one, two, two, two, two, two, two], [one], follows=False)
    assert both == pytest.approx((3 * (1 + 10 + 2 + 6 * 20), 6000)), "each shape has its stack and its features"
    seeds = rehearsed_seconds(replace(study, seeds=2), 14, costs, [one], [one], follows=False)
    assert seeds[0] == pytest.approx(3 * (1 + 14 * 10))
    many = rehearsed_seconds(replace(study, trials=10 * 7), 7, costs, [one], [one], follows=False)
    assert many == pytest.approx((10 * alone[0], 1000))


def test_stacks_share_the_cores_and_much_larger_ones_are_divided(study: Study) -> None:
    sizes = [shape(study, size) for size in (16, 32, 48)]
    costs = {one: cost("one", stack=6, lane=1) for one in sizes}
    study, given, cpu = replace(study, trials=6), [sizes[0]] * 4 + sizes[1:], torch.device("cpu")

    def seconds(n_threads: int, cores: torch.device | None) -> float:
        with computing_on(n_threads):
            return rehearsed_seconds(study, 6, costs, given, sizes, follows=False, cores=cores)[0]

    assert seconds(1, cpu) == seconds(2, None) == pytest.approx(3 * (3 * 6 + 6))
    assert seconds(2, cpu) == pytest.approx(3 * (3 * 6 / 2 + 6)), "all stacks train whole, two at a time"
    costs[sizes[0]] = cost("one", stack=6, lane=20)
    assert seconds(2, cpu) == pytest.approx(3 * (6 + 4 * 20 + 2 * (6 / 2 + 1))), "four costly lanes train in two parts"


@pytest.mark.parametrize(("cache", "n_parts"), [("on", 2), ("off", 1)])
def test_a_plan_counts_the_streams_of_parts_that_will_train_at_the_same_time(
    small_study: Study, tmp_path: Path, cache: str, n_parts: int
) -> None:
    with computing_on(2):
        study = small_study.override(cache=cache)
        prepared = prepare(study, n_parallel=4, device=torch.device("cpu"), cache_dir=tmp_path / "cache")
        plan = plan_study(plan_features(prepared, tmp_path / "cache"), prepared)
    sizes = (prepared.spec, prepared.backbone.tokens, study.batch_size)
    assert plan.shared_bytes == shared_bytes(*sizes, n_parts=n_parts)


def test_rungs_end_trials_and_shapes_that_cannot_be_trained_take_no_time(study: Study) -> None:
    one, two = shape(study, 16), shape(study, 32)
    costs = {one: cost("one", lane=1)}
    halved = replace(study, trials=9, halving=Halving(eta=3, first_rung=1))
    seconds, _ = rehearsed_seconds(halved, 9, costs, [one], [one], follows=False)
    assert 9 + 3 * 2 <= seconds <= 9 + 4 * 2, "three of nine trials go on for two epochs, and the baseline in any case"
    failing, _ = rehearsed_seconds(study, 7, costs, [one, two, two, two], [one], follows=False)
    assert failing == pytest.approx(3 * 4)
    assert rehearsed_seconds(study, 7, costs, [one], [one, two], follows=True) == rehearsed_seconds(
        study, 7, costs, [one], [one, two], follows=True
    )


def test_followers_fill_stacks_as_in_a_search(study: Study, search: Search, monkeypatch: pytest.MonkeyPatch) -> None:
    """With the same leads, the rehearsal has as many stack-epochs and lane-epochs as the search."""
    counted: Counter[str] = Counter()
    train_epoch = Occupancy.train_epoch

    def counting(self: Occupancy, reporter: Reporter):  # type: ignore[no-untyped-def]
        counted.update(stacks=len(self.stacks), lanes=len(self.running))
        return train_epoch(self, reporter)

    monkeypatch.setattr(Occupancy, "train_epoch", counting)
    trials = search(replace(study, trials=12), n_parallel=6).trials.sort_values("trial")
    shapes = [shape(study, size) for size in trials["params_size"]]
    costs = {each: cost(str(each), stack=1) for each in shapes}
    stacks, _ = rehearsed_seconds(replace(study, trials=12), 6, costs, shapes, shapes, follows=False)
    lanes, _ = rehearsed_seconds(
        replace(study, trials=12), 6, {each: cost("", lane=1) for each in shapes}, shapes, shapes, follows=False
    )
    assert (stacks, lanes) == (pytest.approx(counted["stacks"]), pytest.approx(counted["lanes"]))


def test_a_run_plans_for_all_its_shapes(study: Study, tmp_path: Path, search: Search) -> None:
    reporter = RecordingReporter()
    results = search(study, n_parallel=4, reporter=reporter)
    assert results.summary["plan"]["n_shapes"] == 3
    assert any("s of search if trials spread evenly over 3 shapes" in message for message in reporter.messages)
    for_others = [message for message in reporter.messages if "for trials of another shape" in message]
    met = set(results.trials["params_size"]) - {32}
    assert len(for_others) == len(met), "the plan looks at other backbones, and says nothing of them"
    assert len(results.config["sources"]) == 1 + len(met)


def test_features_of_other_shapes_are_planned(study: Study, tmp_path: Path) -> None:
    cache = tmp_path / "empty"
    prepared = prepare(study, n_parallel=4, device=device_named("cpu"), cache_dir=cache)
    plan = plan_study(plan_features(prepared, cache), prepared)
    planner = ShapePlanner(ShapeSettings(prepared, cache, Reporter(), lambda source: None), plan)
    costs = {each.source.image_size: planner.costs[each] for each in planner.counts}
    assert costs[32].feature_seconds == 0, "these are in the plan of the feature pass"
    assert min(costs[16].feature_seconds, costs[48].feature_seconds) > 0
    assert costs[16].lane_seconds <= costs[32].lane_seconds <= costs[48].lane_seconds
    assert len({each.features for each in costs.values()}) == 3
    whole = planner.whole()
    assert whole.n_shapes == 3
    assert [each.share for each in planner.shapes()] == sorted((s.share for s in planner.shapes()), reverse=True)


@pytest.mark.parametrize("texts", [False, True])
def test_the_table_of_shapes_has_the_bytes_of_the_plan(
    study: Study, text_decoder: Path, text_table: Path, tmp_path: Path, texts: bool
) -> None:
    """Texts are stored without padding, so their size is not that of as many texts of the largest length."""

    def suggest_batch(trial: optuna.Trial) -> LaneConfig:
        lr = trial.suggest_float("lr", 1e-3, 1e-1, log=True)
        return LaneConfig(lr=lr, rank=2, batch_size=trial.suggest_categorical("size", [16, 32]))

    study = replace(study, suggest=suggest_batch)
    if texts:
        study = replace(study, backbone=str(text_decoder), data=str(text_table), image_size=None, max_tokens=24)
    prepared = prepare(study, n_parallel=4, device=device_named("cpu"), cache_dir=tmp_path)
    plan = plan_study(plan_features(prepared, tmp_path), prepared)
    settings = ShapeSettings(prepared, tmp_path, Reporter(), lambda source: None)
    shapes = ShapePlanner(settings, plan).shapes()
    assert len(shapes) == 2
    settings.compute(prepared.shape)
    on_disk = sum(path.stat().st_size for path in (tmp_path / "features").glob("*/stages.f16"))
    assert [plan.cache_bytes, *(shape.cache_bytes for shape in shapes)] == [on_disk] * 3
