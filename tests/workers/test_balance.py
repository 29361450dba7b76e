"""How trials of several shapes are divided among workers."""

import math
import random
from collections import Counter

import pytest

from sweep.study.shape import FeatureSource, Shape
from sweep.workers.balance import Balance, TrialCost, load_of
from sweep.workers.placement import Placement

SOURCE = FeatureSource("tiny-untrained", None, None, 1, "none", None)


def of_rank(rank: int, own: float, shared: float = 4.0, n_lanes: int = 1) -> TrialCost:
    return TrialCost(Shape(SOURCE, (), 32, "fp32", rank), own, shared, n_lanes)


NARROW, WIDE = of_rank(4, 1.0), of_rank(8, 2.0)


def no_limit(worker: int, shape: Shape) -> float:
    return math.inf


def test_as_few_shapes_as_possible_are_on_several_workers() -> None:
    held = {0: Counter({NARROW: 20, WIDE: 5}), 1: Counter({NARROW: 20, WIDE: 6})}
    balance = Balance(held, {0: 1.0, 1: 1.0}, no_limit)
    best = balance.best()
    assert sorted(len(trials) for trials in best.values()) == [1, 2]
    assert max(load_of(trials) for trials in best.values()) == pytest.approx((40 + 22 + 3 * 4) / 2, abs=1.0)


def test_a_worker_keeps_the_shape_that_it_has() -> None:
    held = {0: Counter({NARROW: 9, WIDE: 1}), 1: Counter({NARROW: 1, WIDE: 4})}
    assert Balance(held, {0: 1.0, 1: 1.0}, no_limit).best() == {0: Counter({NARROW: 10}), 1: Counter({WIDE: 5})}


@pytest.mark.parametrize("seed", range(20))
def test_no_trial_is_lost_and_limits_are_kept(seed: int) -> None:
    draw = random.Random(seed)
    costs = [of_rank(rank, draw.uniform(1, 9), draw.uniform(0, 9), draw.randint(1, 3)) for rank in range(1, 6)]
    workers = range(draw.randint(1, 6))
    held = {worker: Counter(draw.choices(costs, k=draw.randint(0, 30))) for worker in workers}
    held[0][costs[0]] += 1
    everything = sum(held.values(), Counter[TrialCost]())
    most_lanes = max(math.ceil(n * cost.n_lanes / len(workers)) for cost, n in everything.items()) + 3
    balance = Balance(held, {worker: draw.choice([0.5, 1.0]) for worker in workers}, lambda worker, shape: most_lanes)
    best = balance.best()
    assert sum(best.values(), Counter[TrialCost]()) == everything
    assert max(n * cost.n_lanes for trials in best.values() for cost, n in trials.items()) <= most_lanes
    fair_share = sum(cost.own * n for cost, n in everything.items()) / sum(balance.speeds.values())
    assert fair_share <= balance.seconds(best)


def test_if_no_worker_has_room_some_get_more_than_they_have_room_for() -> None:
    held = {0: Counter({NARROW: 10}), 1: Counter[TrialCost]()}
    best = Balance(held, {0: 1.0, 1: 1.0}, lambda worker, shape: 3).best()
    assert [sum(trials.values()) for trials in best.values()] == [5, 5]


def test_trials_that_have_not_been_sent_move_for_any_gain() -> None:
    placement = Placement()
    placement.costs = dict(enumerate([of_rank(4, 1.0, 1.0)] * 21 + [of_rank(8, 2.0, 1.0)] * 11))
    placement.where = {trial: trial % 2 for trial in placement.costs}
    assert placement.moves([0, 1]) == {}
    moves = placement.moves([0, 1], free=placement.costs)
    assert moves
    placement.where |= moves
    assert sum(len(shapes) for shapes in placement.lanes([0, 1]).values()) < 4
