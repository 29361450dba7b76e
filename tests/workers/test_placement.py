"""Which worker trains which trial."""

from sweep.study.shape import FeatureSource, Shape
from sweep.workers.balance import TrialCost
from sweep.workers.placement import Placement

SOURCE = FeatureSource("tiny-untrained", None, None, 1, "none", None)
NARROW, WIDE = (Shape(SOURCE, (), 32, "fp32", rank) for rank in (2, 8))


def placed(costs: dict[int, TrialCost], workers: list[int]) -> Placement:
    placement = Placement()
    placement.costs = costs
    assert placement.place(workers) == list(costs)
    return placement


def test_equal_trials_are_spread_evenly() -> None:
    placement = placed({trial: TrialCost(WIDE, 1.0, 5.0) for trial in range(10)}, [3, 7])
    assert [len(placement.on(worker)) for worker in (3, 7)] == [5, 5]
    assert placement.place([3, 7]) == []
    assert placement.moves([3, 7]) == {}


def test_stacks_that_cost_much_by_themselves_are_kept_whole() -> None:
    costs = {trial: TrialCost(NARROW if trial % 2 else WIDE, 1.0, 50.0) for trial in range(8)}
    placement = placed(costs, [0, 1])
    assert [len({trial % 2 for trial in placement.on(worker)}) for worker in (0, 1)] == [1, 1]


def test_trials_move_to_a_new_worker_while_it_is_worth_it() -> None:
    placement = placed({trial: TrialCost(WIDE, 1.0, 0.0) for trial in range(8)}, [0])
    moves = placement.moves([0, 1])
    assert len(moves) == 4
    assert set(moves.values()) == {1}
    assert set(placement.where.values()) == {0}
    placement.where |= moves
    assert placement.moves([0, 1]) == {}


def test_a_slow_worker_gets_fewer_trials() -> None:
    placement = placed({trial: TrialCost(WIDE, 1.0, 0.0) for trial in range(10)}, [0, 1])
    placement.trained(0, placement.on(0), 1.0)
    placement.trained(1, placement.on(1), 4.3)
    moves = placement.moves([0, 1])
    assert set(moves.values()) == {0}
    placement.where |= moves
    assert [len(placement.on(worker)) for worker in (0, 1)] == [8, 2]
    assert placement.moves([0, 1]) == {}


def test_no_trial_moves_because_of_noise_or_very_short_epochs() -> None:
    placement = placed({trial: TrialCost(WIDE, 1.0, 0.0) for trial in range(10)}, [0, 1])
    placement.trained(0, placement.on(0), 0.001)
    placement.trained(1, placement.on(1), 0.2)
    assert placement.moves([0, 1]) == {}
    placement.trained(0, placement.on(0), 1.0)
    placement.trained(1, placement.on(1), 1.3)
    placement.trained(1, placement.on(1), 30.0)  # this worker once had to wait for another program
    assert placement.moves([0, 1]) == {}
