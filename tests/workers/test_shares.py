"""Workers measure themselves, and get lanes by what they have. Tables do not depend on it."""

import math
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any

import pytest
import torch
from in_process_pool import InProcessPool
from small_searches import STUDIES, assert_same, result_of, search_of, settings_of

import sweep.training.lane_stack
from sweep.machine import memory
from sweep.records.worker_words import shares_in_words
from sweep.study.shape import FeatureSource, Shape
from sweep.training.engine import Lane, Training
from sweep.workers.balance import TrialCost
from sweep.workers.measured import CPU, Measured, measured
from sweep.workers.patience import Patience
from sweep.workers.placement import Placement
from sweep.workers.shares import Shares
from sweep.workers.training import TrainingOnWorkers

MIB = 2**20
SMALL = Measured("a", "old", CPU, free_bytes=8 * MIB, n_threads=1, speed=1e9)
SOURCE = FeatureSource("tiny-untrained", None, None, 1, "none", None)
NARROW, WIDE = (Shape(SOURCE, (), 32, "fp32", rank) for rank in (2, 8))


@dataclass(frozen=True)
class MemoryOf:
    """A `MemoryModel` in which every lane takes a MiB, and nothing is shared."""

    def lanes_that_fit(self, shape: Shape, free_bytes: int) -> int:
        """See `MemoryModel`."""
        return free_bytes // MIB

    def left_for_features(self, shape: Shape, n_lanes: int, free_bytes: int) -> int:
        """See `MemoryModel`."""
        return free_bytes - n_lanes * MIB


def shares_of(*workers: Measured, n_lanes: int = 6, lanes_each: int | None = None) -> Shares:
    """Shares of workers with the numbers 0, 1, …."""
    shares = Shares(MemoryOf(), n_lanes, lanes_each)
    answers = list(enumerate(workers))
    assert shares.measure(range(len(workers)), lambda calls, seconds: iter(answers), [WIDE]) == [*range(len(workers))]
    return shares


def test_a_worker_measures_what_this_process_has(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(memory, "_system_bytes", lambda: 5 * 2**30)
    monkeypatch.setattr(memory, "_group_bytes", lambda: [3 * 2**30, 4 * 2**30])
    own = measured(torch.device("cpu"))
    assert own.free_bytes == 3 * 2**30
    assert own.n_threads == torch.get_num_threads()
    assert not own.on_gpu
    assert 1e6 < own.speed < 1e15


def test_workers_of_one_machine_share_its_memory() -> None:
    elsewhere, gpu = replace(SMALL, host="b"), replace(SMALL, memory="GPU-1")
    shares = shares_of(SMALL, SMALL, elsewhere, replace(SMALL, free_bytes=6 * MIB))
    assert [shares.most_lanes(worker, WIDE) for worker in range(4)] == [2, 2, 8, 2]
    shares.leave(0)
    assert [shares.most_lanes(worker, WIDE) for worker in range(1, 4)] == [4, 8, 3]
    assert shares.unmeasured([0, 1, 2, 7]) == [0, 7]
    shares.limit(2, {WIDE: 3})
    assert [shares.most_lanes(worker, WIDE) for worker in range(1, 4)] == [4, 3, 3]
    assert shares.most_lanes(2, NARROW) == shares.most_lanes(1, NARROW) * 2, "only one shape did not fit"
    limited = shares_of(SMALL, elsewhere, lanes_each=5)
    assert [limited.most_lanes(worker, WIDE) for worker in (0, 1)] == [5, 5]
    assert shares_of(replace(SMALL, free_bytes=0)).most_lanes(0, WIDE) == 1
    calls: dict[int, bytes] = {}

    def call(called: dict[int, bytes], seconds: float) -> Any:
        calls.update({worker: content for worker, content in called.items() if b"take_room" in content})
        return iter([(worker, [SMALL, gpu][worker]) for worker in called])

    assert Shares(MemoryOf(), n_lanes=4).measure([0, 1], call, [WIDE]) == [0, 1]
    assert calls.keys() == {1}, "only a GPU keeps features in its memory"


def test_equal_processors_are_as_fast_as_the_fastest_of_them() -> None:
    slower, newer = replace(SMALL, speed=0.4e9), replace(SMALL, processor="new", speed=8e9)
    assert shares_of(slower, SMALL, newer, replace(newer, n_threads=4)).speeds == {0: 1e9, 1: 1e9, 2: 8e9, 3: 8e9}


def placed(placement: Placement, costs: Sequence[TrialCost], workers: Sequence[int]) -> list[int]:
    """Place trials, and return how many each worker has."""
    placement.costs = dict(enumerate(costs))
    placement.place(workers)
    return [len(placement.on(worker)) for worker in workers]


def test_lanes_are_shared_by_speed_before_speeds_are_known_by_training() -> None:
    placement = Placement()
    placement.first_speeds = {0: 1e9, 1: 4.2e9}
    assert placed(placement, [TrialCost(WIDE, 1.0, 0.0)] * 10, [0, 1]) == [2, 8]
    placement.trained(0, placement.on(0), 2.0)
    assert placement.moves([0, 1]) == {}
    placement.trained(1, placement.on(1), 8.0)  # it is no faster than the other one
    moves = placement.moves([0, 1])
    assert list(moves.values()) == [0, 0, 0]


def test_no_worker_gets_more_lanes_than_fit_while_another_one_has_room() -> None:
    most = {(0, WIDE): 3, (1, WIDE): math.inf, (0, NARROW): 4, (1, NARROW): 1}
    placement = Placement(lambda worker, shape: most[worker, shape])
    placement.first_speeds = {0: 8e9, 1: 1e9}
    costs = [TrialCost(WIDE, 1.0, 0.0, 2)] * 4 + [TrialCost(NARROW, 1.0, 0.0)] * 7
    assert placed(placement, costs, [0, 1]) == [1 + 4 + 2, 3 + 1], (
        "the last two are on the faster worker, as both are full"
    )
    assert placement.lanes([0, 1]) == {0: {WIDE: 2, NARROW: 6}, 1: {WIDE: 6, NARROW: 1}}
    assert placement.moves([0, 1]) == {}, "the faster worker is full, though it has less to do"
    most[0, WIDE] = 4
    assert list(placement.moves([0, 1]).values()) == [0]


def test_a_worker_on_which_no_trial_fits_gets_none_unless_that_is_so_for_all() -> None:
    most = {(0, WIDE): 0, (1, WIDE): 2, (0, NARROW): 4, (1, NARROW): 4}
    placement = Placement(lambda worker, shape: most[worker, shape])
    placement.first_speeds = {0: 8e9, 1: 1e9}
    costs = [TrialCost(WIDE, 1.0, 0.0)] * 5 + [TrialCost(NARROW, 1.0, 0.0)] * 2
    assert placed(placement, costs, [0, 1]) == [2, 5]
    assert placement.lanes([0, 1]) == {0: {NARROW: 2}, 1: {WIDE: 5}}
    assert placement.moves([0, 1]) == {}, "the faster worker has less to do, but no trial fits there"
    placement.where[0] = 0
    assert placement.moves([0, 1], free=[0]) == {}, "it would be slower elsewhere"
    most[1, WIDE] = 0
    assert set(placement.moves([0, 1]).values()) == {0}, "one of them has to train them"
    placement.where = {}
    assert placed(placement, costs, [0, 1]) == [6, 1]


@pytest.mark.usefixtures("one_part")
def test_unequal_workers_get_unequal_shares_and_change_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("lr and rank", "replicates", "two shapes"):
        alone = search_of(STUDIES[name])
        alone.run()
        sizes: list[int] = []

        class Counted(Training):
            def __init__(self, lanes: Sequence[Lane], *args: Any, sizes: list[int] = sizes, **options: Any):
                super().__init__(lanes, *args, **options)
                sizes.append(len(lanes))

        with monkeypatch.context() as patch:
            patch.setattr(sweep.training.lane_stack, "Training", Counted)
            fast = replace(SMALL, host="b", processor="new", speed=8e9, free_bytes=4 * MIB)
            pool = InProcessPool(3, {}, measured={0: replace(SMALL, free_bytes=2 * MIB), 1: fast, 2: fast})
            lines, messages = list[str](), list[str]()
            trainer = TrainingOnWorkers(
                settings_of(STUDIES[name]),
                pool,
                Shares(MemoryOf(), n_lanes=6),
                patience=Patience(60.0),
                on_message=messages.append,
                on_shares=lines.append,
            )
            search = search_of(STUDIES[name], trainer)
            search.run()
        assert_same(result_of(search), result_of(alone))
        assert max(sizes) == 2, "as many as fit on each of the three workers"
        assert messages == []
        assert lines == ["lanes: 2 (at most 2 at a time) on each of workers 0 to 2"]


def test_shares_are_told_in_one_line() -> None:
    assert shares_in_words({0: "4"}) == "4 on worker 0"
    words = shares_in_words({0: "4", 1: "4", 2: "4", 3: "1", 5: "4", 9: "4"})
    assert words == "4 on each of workers 0 to 2, 5 and 9, 1 on worker 3"
