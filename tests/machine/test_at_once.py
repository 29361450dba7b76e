"""Pieces of work at the same time: results in order, threads shared out, and an end for all when one fails."""

import os
import signal
import threading
import time
from contextlib import suppress
from functools import partial

import pytest
import torch

from sweep.machine.at_once import MOST_AT_ONCE, Check, at_once, each_at_once, n_at_once, shares
from sweep.machine.settings import computing_on


@pytest.mark.parametrize(("n_threads", "expected"), [(1, 1), (2, 2), (3, 3), (4, 4), (5, 1), (6, 3), (8, 4), (64, 4)])
def test_threads_are_divided_equally(n_threads: int, expected: int) -> None:
    assert n_at_once(n_threads) == expected <= MOST_AT_ONCE


@pytest.mark.parametrize(("n_threads", "most", "expected"), [(4, 2, 2), (3, 2, 1), (8, 3, 2), (2, 0, 1)])
def test_there_are_at_most_as_many_pieces_as_wanted(n_threads: int, most: int, expected: int) -> None:
    assert n_at_once(n_threads, most) == expected


@pytest.mark.parametrize("n_shares", [1, 2, 3, 4])
def test_shares_have_all_items_in_order_and_about_the_same_length(n_shares: int) -> None:
    found = shares(range(10), n_shares)
    assert [item for share in found for item in share] == list(range(10))
    assert len(found) == n_shares
    assert max(map(len, found)) - min(map(len, found)) <= 1


def test_pieces_run_at_the_same_time_and_share_the_threads() -> None:
    together = threading.Barrier(3)

    def work(number: int, check: Check) -> tuple[int, int, bool]:
        check()
        together.wait(timeout=60)  # breaks unless all three run at the same time
        return number, torch.get_num_threads(), threading.current_thread() is threading.main_thread()

    with computing_on(6):
        found = at_once([partial(work, number) for number in range(3)])
        assert torch.get_num_threads() == 6
    assert found == [(0, 2, True), (1, 2, False), (2, 2, False)]


@pytest.mark.parametrize("which", [0, 1])
@pytest.mark.parametrize("error", [MemoryError("no memory"), KeyboardInterrupt()])
def test_an_error_ends_all_pieces(which: int, error: BaseException) -> None:
    ended: list[int] = []

    def work(number: int, check: Check) -> None:
        if number == which:
            raise error
        try:
            while True:
                check()
        finally:
            ended.append(number)

    with computing_on(2), pytest.raises(type(error)) as raised:
        at_once([partial(work, number) for number in range(2)])
    assert raised.value is error
    assert ended == [1 - which]
    assert not [thread for thread in threading.enumerate() if thread.name.startswith("at once")]


def test_ctrl_c_ends_the_pieces_that_the_caller_waits_for() -> None:
    first_is_done = threading.Event()
    ended: list[int] = []

    def first(check: Check) -> None:
        first_is_done.set()

    def second(check: Check) -> None:
        first_is_done.wait(timeout=60)
        time.sleep(0.1)  # now the caller waits for this piece
        os.kill(os.getpid(), signal.SIGINT)
        until = time.monotonic() + 60
        try:
            while time.monotonic() < until:
                check()
        except Exception:
            ended.append(1)
            raise

    before = signal.signal(signal.SIGINT, signal.default_int_handler)  # tests may run in the background
    try:
        with computing_on(2), pytest.raises(KeyboardInterrupt):
            at_once([first, second])
    finally:
        signal.signal(signal.SIGINT, before)
    assert ended == [1]


def test_no_item_is_begun_after_an_error() -> None:
    has_failed = threading.Event()
    begun: list[int] = []

    def run(item: int, check: Check, in_callers_thread: bool) -> None:
        begun.append(item)
        if item == 0:
            has_failed.set()
            raise MemoryError
        has_failed.wait(timeout=60)
        with suppress(Exception):  # ends when the other thread has failed
            until = time.monotonic() + 60
            while time.monotonic() < until:
                check()

    with computing_on(2), pytest.raises(MemoryError):
        each_at_once(range(9), run, 2)
    assert begun in ([0], [0, 1], [1, 0])


def test_a_thread_takes_the_next_item_when_it_is_done_with_one() -> None:
    last_is_done = threading.Event()
    done: list[tuple[int, bool]] = []

    def run(item: int, check: Check, in_callers_thread: bool) -> None:
        check()
        if item == 0:
            last_is_done.wait(timeout=60)
        done.append((item, in_callers_thread))
        if item == 4:
            last_is_done.set()

    with computing_on(2):
        each_at_once(range(5), run, 2)
    assert [item for item, _ in done] == [1, 2, 3, 4, 0], "one thread did all others beside the long one"
    assert len({in_callers_thread for item, in_callers_thread in done if item}) == 1
