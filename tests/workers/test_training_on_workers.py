"""Tables do not depend on how many workers train the lanes, nor on which workers die."""

import re
from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from functools import cache
from typing import Any

import pytest
import torch
from in_process_pool import InProcessPool, plenty
from optuna.storages import InMemoryStorage
from small_searches import STUDIES, assert_same, result_of, search_of, settings_of

import sweep.training.lane_stack
from sweep import SweepError
from sweep.records.worker_log import WorkerLog
from sweep.search.snapshot import capture, restore
from sweep.study.shape import Shape
from sweep.training.engine import EpochResult, Lane, Training
from sweep.training.lane_stack import StackSetting
from sweep.workers.messages import WorkerLost
from sweep.workers.packing import packed
from sweep.workers.patience import Patience
from sweep.workers.placement import Placement
from sweep.workers.shares import Shares
from sweep.workers.training import TrainingOnWorkers


def on_workers(name: str, n_workers: int, deaths: dict[int, tuple[int, str]], messages: list[str]) -> TrainingOnWorkers:
    pool = InProcessPool(n_workers, deaths)
    return TrainingOnWorkers(
        settings_of(STUDIES[name]), pool, plenty(), patience=Patience(60.0), on_message=messages.append
    )


@cache
def without_workers(name: str) -> dict[str, Any]:
    search = search_of(STUDIES[name])
    search.run()
    return result_of(search)


def run_on(name: str, n_workers: int, deaths: dict[int, tuple[int, str]] | None = None, **options: Any) -> list[str]:
    """Run a study on workers, and compare it with a run without workers. Return its messages."""
    messages: list[str] = []
    search = search_of(STUDIES[name], on_workers(name, n_workers, deaths or {}, messages), **options)
    search.run()
    assert_same(result_of(search), without_workers(name))
    return messages


@pytest.mark.parametrize("n_workers", [1, 2, 4])
@pytest.mark.parametrize("name", STUDIES)
def test_tables_do_not_depend_on_the_number_of_workers(name: str, n_workers: int) -> None:
    assert run_on(name, n_workers) == []


def test_the_searches_have_all_that_a_table_could_depend_on() -> None:
    pruned = without_workers("rungs and refill")["trials"]
    assert {"COMPLETE", "PRUNED"} <= set(pruned["state"])
    assert pruned["first_order"].nunique() > 2
    assert "FAIL" in {state for name in STUDIES for state in without_workers(name)["trials"]["state"]}
    assert {rank <= 2 for rank in without_workers("two shapes")["trials"]["params_rank"]} == {True, False}
    assert without_workers("replicates")["curves"]["replicate"].nunique() == 2


@pytest.mark.parametrize("when", ["before", "after"])
@pytest.mark.parametrize("number", [1, 3, 6])
@pytest.mark.parametrize("name", ["replicates", "two shapes"])
def test_a_worker_that_dies_changes_nothing(name: str, number: int, when: str) -> None:
    """A worker's first calls ask what it has, and bring settings. Then come epochs, and weights of complete trials."""
    messages = run_on(name, 2, {1: (number, when)})
    assert messages[0].startswith("worker 1 has died")


class Restless(Placement):
    """Moves every trial to the next worker before each epoch."""

    def moves(self, workers: Sequence[int], free: Collection[int] = ()) -> dict[int, int]:
        after = {worker: workers[(i + 1) % len(workers)] for i, worker in enumerate(workers)}
        return {trial: after[worker] for trial, worker in self.where.items() if worker in after}


class Mortal(InProcessPool):
    """A pool that does not go on forever."""

    def call(self, calls: Mapping[int, bytes], timeout_seconds: float) -> Iterator[tuple[int, Any]]:
        assert sum(self.n_calls.values()) < 400
        return super().call(calls, timeout_seconds)


@pytest.mark.parametrize("number", range(4, 14))
def test_a_worker_that_dies_while_trials_move_changes_nothing(number: int, monkeypatch: pytest.MonkeyPatch) -> None:
    """It may be the one that trials leave, or the one that they go to; and some of them have not been sent yet."""
    monkeypatch.setattr("sweep.workers.training.Placement", Restless)
    messages: list[str] = []
    trainer = trained_by(Mortal(2, {1: (number, "before")}), "rungs and refill", messages)
    search = search_of(STUDIES["rungs and refill"], trainer)
    search.run()
    assert_same(result_of(search), without_workers("rungs and refill"))
    assert "worker 1 has died" in messages[0]


def test_a_worker_that_dies_while_weights_are_fetched_changes_nothing() -> None:
    """It has two trials, which go to two other workers. These do not have the second one before the next step."""
    messages: list[str] = []
    search = search_of(STUDIES["lr and rank"], trained_by(Mortal(4, {0: (6, "before")}), "lr and rank", messages))
    search.run()
    assert messages[0] == "worker 0 has died; 2 trials in training continue on other workers"
    assert_same(result_of(search), without_workers("lr and rank"))


@pytest.mark.parametrize("often", [False, True])
def test_all_workers_that_die_again_and_again_change_nothing(often: bool) -> None:
    """The search is tested without snapshots, and with snapshots, for which workers send their states."""
    deaths = {worker: (4 + worker % 2, "after") for worker in range(40)}
    options: dict[str, Any] = {"save_snapshot": capture} if often else {}
    messages = run_on("rungs and refill", 3, deaths, **options)
    assert sum("has died" in message for message in messages) >= 6


def test_workers_that_die_with_the_same_trial_end_the_run() -> None:
    messages: list[str] = []
    trainer = on_workers("lr and rank", 1, {worker: (3, "before") for worker in range(9)}, messages)
    with pytest.raises(SweepError, match="5 workers were lost one after the other while they trained trial 0"):
        search_of(STUDIES["lr and rank"], trainer).run()
    assert sum("has died" in message for message in messages) == 5


class Growing(InProcessPool):
    """A pool in which one more worker is ready when the second epoch begins."""

    n_welcomes = 0

    def welcome(self, wait_seconds: float = 0.0) -> list[int]:
        self.n_welcomes += 1
        if self.n_welcomes == 3:
            self._starting.append(self.n_workers)
        return super().welcome(wait_seconds)


class Shrinking(InProcessPool):
    """A pool that does not replace workers that have died."""

    def welcome(self, wait_seconds: float = 0.0) -> list[int]:
        return [] if self.n_calls else super().welcome(wait_seconds)


def trained_by(pool: InProcessPool, name: str, messages: list[str], shares: Shares | None = None) -> TrainingOnWorkers:
    return TrainingOnWorkers(
        settings_of(STUDIES[name]), pool, shares or plenty(), patience=Patience(60.0), on_message=messages.append
    )


def test_a_worker_that_joins_gets_lanes_at_the_next_epoch() -> None:
    pool, messages = Growing(2, {}), list[str]()
    search = search_of(STUDIES["lr and rank"], trained_by(pool, "lr and rank", messages))
    search.run()
    assert messages == ["worker 2 takes part"]
    assert pool.n_calls[2] >= 3  # what it has, the setting, and an epoch
    assert_same(result_of(search), without_workers("lr and rank"))


def test_a_worker_that_dies_while_features_are_computed_changes_nothing() -> None:
    """Features of a shape may be computed on the workers when its setting is sent; here one is replaced meanwhile."""
    pool, messages = InProcessPool(2, {1: (2, "before")}), list[str]()
    setting_of = settings_of(STUDIES["two shapes"])

    def computed_on_workers(shape: Shape) -> StackSetting:
        if 1 in pool.ready and pool.n_calls[1] == 1:
            assert all(isinstance(answer, WorkerLost) for _, answer in pool.call({1: packed(("measure", ()))}, 1.0))
            assert pool.welcome() == [2]
        return setting_of(shape)

    trainer = TrainingOnWorkers(
        computed_on_workers, pool, plenty(), patience=Patience(60.0), on_message=messages.append
    )
    search = search_of(STUDIES["two shapes"], trainer)
    search.run()
    assert_same(result_of(search), without_workers("two shapes"))
    assert re.fullmatch(r"worker 1 has died; \d trials in training continue on other workers", messages[0])


def test_a_run_without_any_worker_left_waits_for_new_ones_and_ends() -> None:
    messages: list[str] = []
    trainer = trained_by(Shrinking(2, {0: (4, "after"), 1: (3, "before")}), "lr and rank", messages)
    with pytest.raises(SweepError, match=r"no worker was ready within 60 s, .* --worker-timeout .* with sweep resume"):
        search_of(STUDIES["lr and rank"], trainer).run()
    assert messages[-1] == "no worker is left; waiting for one for up to 60 s"


def test_the_speed_of_a_worker_is_that_of_the_trials_that_it_has_trained(monkeypatch: pytest.MonkeyPatch) -> None:
    """After a worker has died, others train its trials in the same epoch, and not once more their own."""
    trained: list[int] = []

    class Told(Placement):
        def trained(self, worker: int, trials: Sequence[int], wall_seconds: float) -> None:
            trained.extend(trials)

    monkeypatch.setattr("sweep.workers.training.Placement", Told)
    search_of(STUDIES["lr and rank"], trained_by(Shrinking(2, {1: (3, "before")}), "lr and rank", [])).run()
    assert len(trained) == without_workers("lr and rank")["trials"]["epochs"].sum()


@pytest.mark.usefixtures("one_part")
def test_a_limit_on_the_lanes_of_a_worker_makes_several_stacks_and_changes_nothing(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    without_workers("replicates")
    sizes: list[int] = []

    class Counted(Training):
        def __init__(self, lanes: Sequence[Lane], *args: Any, **options: Any):
            super().__init__(lanes, *args, **options)
            sizes.append(len(lanes))

    monkeypatch.setattr(sweep.training.lane_stack, "Training", Counted)
    search = search_of(STUDIES["replicates"], trained_by(InProcessPool(1, {}), "replicates", [], plenty(lanes_each=4)))
    search.run()
    assert max(sizes) == 4
    assert_same(result_of(search), without_workers("replicates"))


def test_patience_grows_with_the_longest_epoch() -> None:
    patience = Patience(10.0, epoch_seconds=100.0)
    assert patience.beyond(patience.epoch_seconds) == 510.0
    patience.learn(6.0, 3)
    patience.learn(1.0, 1)
    assert patience.beyond(2 * patience.epoch_seconds) == 30.0


@pytest.mark.parametrize(("name", "first", "then"), [("replicates", None, 2), ("two shapes", 2, None)])
def test_a_search_can_be_resumed_on_other_workers(name: str, first: int | None, then: int | None) -> None:
    def trainer(n_workers: int | None) -> TrainingOnWorkers | None:
        return None if n_workers is None else on_workers(name, n_workers, {}, [])

    storage = InMemoryStorage()
    before = search_of(STUDIES[name], trainer(first), storage)
    for _ in range(2):
        before._advance()
    snapshot = capture(before)
    after = search_of(STUDIES[name], trainer(then), storage)
    restore(after, snapshot)
    after.run()
    assert_same(result_of(after), without_workers(name))


@pytest.mark.usefixtures("one_part")
def test_out_of_memory_halves_the_stack_of_one_worker_and_changes_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    """Memory runs out in the third epoch of the lanes, when a worker no longer has the states that it was given."""
    sizes: list[int] = []

    class Limited(Training):
        def __init__(self, lanes: Sequence[Lane], *args: Any, **options: Any):
            super().__init__(lanes, *args, **options)
            sizes.append(len(lanes))

        def epoch(self, order: int, on_step: Callable[[], None] = lambda: None) -> EpochResult:
            if self.n_lanes > 2 and self.lanes[0].epochs == 2:
                sizes.append(0)
                raise torch.OutOfMemoryError("CUDA out of memory")
            return super().epoch(order, on_step)

    without_workers("lr and rank")
    monkeypatch.setattr(sweep.training.lane_stack, "Training", Limited)
    messages = run_on("lr and rank", 2)
    failed = [place for place, size in enumerate(sizes) if size == 0]
    assert failed
    assert max(sizes[: failed[0]]) == 3
    assert max(sizes[failed[-1] :]) == 2
    assert len(messages) == len(failed)
    assert all("ran out of memory; it trains half as many lanes at a time" in message for message in messages)


class Telling(InProcessPool):
    """A pool that tells which worker is at work."""

    at_work = -1

    def call(self, calls: Mapping[int, bytes], timeout_seconds: float) -> Iterator[tuple[int, Any]]:
        for worker, call in calls.items():
            self.at_work = worker
            yield from super().call({worker: call}, timeout_seconds)


@pytest.mark.usefixtures("one_part")
@pytest.mark.parametrize("name", ["lr and rank", "replicates"])
def test_lanes_leave_a_worker_whose_memory_runs_out_for_one_with_room(
    name: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Of two workers, the first one turns out to have memory for two lanes only, in the second epoch."""
    pool = Telling(2, {})

    class Limited(Training):
        def epoch(self, order: int, on_step: Callable[[], None] = lambda: None) -> EpochResult:
            if pool.at_work == 0 and self.n_lanes > 2 and self.lanes[0].epochs == 1:
                raise torch.OutOfMemoryError("CUDA out of memory")
            return super().epoch(order, on_step)

    without_workers(name)
    monkeypatch.setattr(sweep.training.lane_stack, "Training", Limited)
    messages, shares, logs = list[str](), list[str](), list[WorkerLog]()
    trainer = TrainingOnWorkers(
        settings_of(STUDIES[name]),
        pool,
        plenty(),
        patience=Patience(60.0),
        on_message=messages.append,
        on_epoch=logs.append,
        on_shares=shares.append,
    )
    search = search_of(STUDIES[name], trainer)
    search.run()
    assert_same(result_of(search), without_workers(name))
    assert len(messages) == 1
    assert shares[1].startswith("lanes: 2 (at most 2 at a time) on worker 0, 4 (at most ")
    held = [len(log.trials[0]) * STUDIES[name].seeds for log in logs]
    assert held[0] > 2
    assert max(held[1:]) == 2


def test_a_trial_that_does_not_fit_at_all_gives_one_clear_error(monkeypatch: pytest.MonkeyPatch) -> None:
    class TooLarge(Training):
        def epoch(self, order: int, on_step: Callable[[], None] = lambda: None) -> EpochResult:
            raise torch.OutOfMemoryError("CUDA out of memory")

    monkeypatch.setattr(sweep.training.lane_stack, "Training", TooLarge)
    error = r"one trial \(1 lane of batch size 8\) does not fit in the memory of any worker; lower --batch-size"
    for n_workers in (1, 2):
        messages: list[str] = []
        with pytest.raises(SweepError, match=error):
            search_of(STUDIES["lr and rank"], on_workers("lr and rank", n_workers, {}, messages)).run()
        assert sum("does not fit there alone" in message for message in messages) == n_workers


def is_wide(training: Training) -> bool:
    """Whether lanes have the wider one of the "two shapes"."""
    return training.lanes[0].config.rank > 2


def no_memory_on(
    monkeypatch: pytest.MonkeyPatch, pool: "Telling", fails: Callable[[int, Training], bool]
) -> list[tuple[int, bool]]:
    """Let memory run out in some epochs. Return the workers of all others, and whether they are wide."""
    trained: list[tuple[int, bool]] = []

    class TooLarge(Training):
        def epoch(self, order: int, on_step: Callable[[], None] = lambda: None) -> EpochResult:
            if fails(pool.at_work, self):
                raise torch.OutOfMemoryError("CUDA out of memory")
            trained.append((pool.at_work, is_wide(self)))
            return super().epoch(order, on_step)

    monkeypatch.setattr(sweep.training.lane_stack, "Training", TooLarge)
    return trained


@pytest.mark.usefixtures("one_part")
@pytest.mark.parametrize("name", ["lr and rank", "replicates"])
def test_a_worker_on_which_not_even_one_trial_fits_gets_none_and_nothing_changes(
    name: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    without_workers(name)
    pool, messages, shares = Telling(3, {}), list[str](), list[str]()
    trained = no_memory_on(monkeypatch, pool, lambda worker, training: worker == 0)
    trainer = trained_by(pool, name, messages)
    trainer.on_shares = shares.append
    search = search_of(STUDIES[name], trainer)
    search.run()
    assert_same(result_of(search), without_workers(name))
    assert {worker for worker, _ in trained} == {1, 2}
    assert [message for message in messages if "alone" in message] == [
        "worker 0 ran out of memory; one trial of batch size 8 does not fit there alone, so it gets no more of that "
        "shape; workers with room take the others"
    ]
    assert shares[-1].startswith("lanes: 0 (at most 0 at a time) on worker 0, ")


@pytest.mark.usefixtures("one_part")
def test_a_worker_on_which_one_shape_does_not_fit_trains_the_other_one(monkeypatch: pytest.MonkeyPatch) -> None:
    name = "two shapes"
    without_workers(name)
    pool, messages, small = Telling(2, {}), list[str](), list[int]()

    def fails(worker: int, training: Training) -> bool:
        if is_wide(training) and not small:
            small.append(worker)
        return is_wide(training) and worker in small

    trained = no_memory_on(monkeypatch, pool, fails)
    search = search_of(STUDIES[name], trained_by(pool, name, messages))
    search.run()
    assert_same(result_of(search), without_workers(name))
    assert set(trained) >= {(small[0], False), (1 - small[0], True)}
    assert (small[0], True) not in trained
    assert sum("does not fit there alone" in message for message in messages) == 1


@pytest.mark.usefixtures("one_part")
def test_a_trial_for_which_no_worker_has_room_waits_for_one_that_is_being_started(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    class Slow(Telling):
        def welcome(self, wait_seconds: float = 0.0) -> list[int]:
            return super().welcome(wait_seconds) if wait_seconds or not self.ready else []

    name = "lr and rank"
    without_workers(name)
    pool, messages = Slow(2, {1: (6, "before")}), list[str]()
    trained = no_memory_on(monkeypatch, pool, lambda worker, training: worker == 0)
    search = search_of(STUDIES[name], trained_by(pool, name, messages))
    search.run()
    assert_same(result_of(search), without_workers(name))
    assert {worker for worker, _ in trained} == {1, 2}
    assert messages[-1] == "worker 2 takes part"


def test_an_unexpected_error_on_a_worker_is_raised_with_its_traceback(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    def epoch(self: Training, order: int, on_step: Callable[[], None]) -> EpochResult:
        raise ZeroDivisionError("a bug")

    monkeypatch.setattr(Training, "epoch", epoch)
    with pytest.raises(
        RuntimeError, match=r"(?s)worker \d failed:.*test_training_on_workers.py.*ZeroDivisionError: a bug"
    ):
        search_of(STUDIES["lr and rank"], on_workers("lr and rank", 2, {}, [])).run()
