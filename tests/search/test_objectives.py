"""Pareto ranking, compared with brute force. The order of rows must not matter."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from sweep import Study, UsageError
from sweep.study.objectives import Objectives, best_first, crowding_distances, non_dominated_fronts

# Few distinct values, so that ties and equal points are common.
points = st.integers(1, 4).flatmap(
    lambda n_objectives: st.lists(st.tuples(*[st.integers(0, 4).map(float)] * n_objectives), min_size=1, max_size=12)
)


def dominates(a: tuple[float, ...], b: tuple[float, ...]) -> bool:
    return all(x <= y for x, y in zip(a, b, strict=True)) and any(x < y for x, y in zip(a, b, strict=True))


def fronts_by_hand(costs: list[tuple[float, ...]]) -> list[int]:
    """Compute the fronts one by one: each front holds the points that no remaining point dominates."""
    front_of: dict[int, int] = {}
    front = 0
    while len(front_of) < len(costs):
        left = [i for i in range(len(costs)) if i not in front_of]
        peeled = [i for i in left if not any(dominates(costs[j], costs[i]) for j in left)]
        front_of |= dict.fromkeys(peeled, front)
        front += 1
    return [front_of[i] for i in range(len(costs))]


@given(points)
def test_fronts_equal_those_of_brute_force(costs: list[tuple[float, ...]]) -> None:
    assert non_dominated_fronts(np.array(costs)).tolist() == fronts_by_hand(costs)


@given(points, st.randoms(use_true_random=False))
def test_order_does_not_depend_on_the_order_of_rows(costs: list[tuple[float, ...]], random: object) -> None:
    names = list(range(len(costs)))
    expected = [names[i] for i in best_first(costs, [(name,) for name in names])]
    shuffled = names.copy()
    random.shuffle(shuffled)  # type: ignore[attr-defined]
    order = best_first([costs[name] for name in shuffled], [(name,) for name in shuffled])
    assert [shuffled[i] for i in order] == expected


@given(points)
def test_a_better_front_comes_first(costs: list[tuple[float, ...]]) -> None:
    fronts = fronts_by_hand(costs)
    order = best_first(costs, [(i,) for i in range(len(costs))])
    assert [fronts[i] for i in order] == sorted(fronts)


def test_no_points_have_no_fronts() -> None:
    """As before the first trial of a run is complete."""
    assert len(non_dominated_fronts(np.array([]))) == 0


def test_ends_of_a_front_have_the_largest_crowding_distance() -> None:
    front = np.array([[0.0, 4.0], [1.0, 2.0], [1.5, 1.5], [4.0, 0.0]])
    distances = crowding_distances(front)
    assert np.isinf(distances[[0, 3]]).all()
    # neighbours of point 1: (1.5 - 0) / 4 and (4 - 1.5) / 4; of point 2: (4 - 1) / 4 and (2 - 0) / 4
    np.testing.assert_allclose(distances[1:3], [1.0, 1.25])


def test_one_objective_orders_trials_by_itself() -> None:
    objectives = Objectives({"val_top1": "maximize"})
    costs = [objectives.costs({"val_top1": value}) for value in (0.5, 0.9, 0.7, 0.9)]
    assert best_first(costs, [(3.0,), (2.0,), (1.0,), (1.0,)]) == [3, 1, 2, 0]


def test_a_target_is_reached_from_the_better_side() -> None:
    assert Objectives({"val_top1": "maximize"}).reaches(0.92, 0.92)
    assert not Objectives({"val_top1": "maximize"}).reaches(0.91, 0.92)
    assert Objectives({"val_nll": "minimize"}).reaches(0.3, 0.4)
    assert not Objectives({"val_nll": "minimize"}).reaches(0.5, 0.4)


@pytest.mark.parametrize(
    ("declared", "message"),
    [
        ({"objectives": {}}, "objectives is empty"),
        ({"objectives": {"val_top2": "maximize"}}, "has 'val_top2'; give one of val_top1"),
        ({"objectives": {"val_top1": "up"}}, "must be 'maximize' or 'minimize', not 'up'"),
        ({"metrics": {"top1": len}}, "'top1'"),
        ({"metrics": {"margin": 3}}, "'margin': 3"),
        ({"halving": 3}, "must be a sweep.Halving"),
        ({"seeds": 0}, "seeds must be a whole number of at least 1"),
    ],
)
def test_wrong_declarations_are_named(small_study: Study, declared: dict[str, object], message: str) -> None:
    with pytest.raises(UsageError, match=message):
        small_study.override(**declared)
