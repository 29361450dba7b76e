"""Features that workers compute in parts are those that one process computes, whoever dies on the way."""

import os
import re
import signal
import threading
from collections.abc import Callable, Iterator, Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from in_process_pool import InProcessPool
from PIL import Image
from small_passes import BATCH_SIZE, N_IMAGES, assert_same_entry, drawn_split, entry_of, on_workers

from backbones import Backbone, load_backbone
from sweep.data import load_data
from sweep.data.base import Split
from sweep.data.decoding import decode
from sweep.errors import SweepError
from sweep.features.cache import compute_features
from sweep.workers import feature_pass
from sweep.workers.feature_pass import MOST_LOSSES
from sweep.workers.feature_ranges import Computed
from sweep.workers.local_pool import LocalPool


@pytest.fixture(autouse=True)
def several_rounds(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(feature_pass, "MOST_BATCHES", 2)


@pytest.fixture(scope="module")
def split(tmp_path_factory: pytest.TempPathFactory) -> Split:
    return drawn_split(tmp_path_factory.mktemp("drawn") / "images")


@pytest.fixture(scope="module")
def backbone(tmp_path_factory: pytest.TempPathFactory) -> Backbone:
    return load_backbone("tiny-untrained", group_size=2, cache_dir=tmp_path_factory.mktemp("weights"))


@pytest.fixture(scope="module")
def expected(backbone: Backbone, split: Split, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The entry that one process computes."""
    folder = tmp_path_factory.mktemp("here")
    return entry_of(folder, compute_features(backbone, split, cache_dir=folder, batch_size=BATCH_SIZE))


@pytest.mark.parametrize(
    "deaths",
    [
        {},
        {0: (2, "before")},
        {1: (2, "after"), 2: (1, "before")},
        {0: (3, "after"), 1: (2, "before"), 3: (2, "before")},
    ],
)
def test_entry_is_that_of_one_process(
    deaths: dict[int, tuple[int, str]], backbone: Backbone, split: Split, expected: Path, tmp_path: Path
) -> None:
    messages: list[str] = []
    progress: list[tuple[int, int]] = []
    pool = InProcessPool(2, deaths)
    found = on_workers(
        pool, backbone, split, tmp_path, messages, on_progress=lambda done, of: progress.append((done, of))
    )
    assert_same_entry(entry_of(tmp_path, found), expected)
    assert found.n_computed == N_IMAGES
    assert len(messages) == len(deaths)
    assert len(progress) == -(-N_IMAGES // BATCH_SIZE), "every batch is told once"
    assert [done for done, _ in progress] == sorted({done for done, _ in progress})
    assert progress[-1] == (N_IMAGES, N_IMAGES)
    assert sum(pool.n_calls.values()) > 4, "both workers computed"
    again = on_workers(InProcessPool(0, {}), backbone, split, tmp_path, messages)
    assert again.from_cache


@pytest.fixture(scope="module")
def reader(text_decoder: Path, tmp_path_factory: pytest.TempPathFactory) -> Backbone:
    """A backbone that reads texts."""
    return load_backbone(str(text_decoder), group_size=2, max_tokens=24, cache_dir=tmp_path_factory.mktemp("unused"))


@pytest.fixture(scope="module")
def texts(text_table: Path) -> Split:
    return load_data(str(text_table), seed=0, cache_dir=text_table.parent).train


@pytest.mark.parametrize("deaths", [{}, {0: (2, "before"), 1: (3, "after")}, {1: (2, "after"), 2: (1, "before")}])
@pytest.mark.parametrize("late", [False, True])
def test_texts_are_computed_by_workers_and_stored_in_order(
    deaths: dict[int, tuple[int, str]], late: bool, reader: Backbone, texts: Split, tmp_path: Path
) -> None:
    alone = compute_features(reader, texts, cache_dir=tmp_path / "alone", batch_size=BATCH_SIZE)

    class Late(InProcessPool):
        """A pool whose workers are ready once this process has computed a batch, and are not replaced."""

        def welcome(self, wait_seconds: float = 0.0) -> list[int]:
            self.n_welcomes = getattr(self, "n_welcomes", 0) + 1
            return super().welcome() if self.n_welcomes == 2 else []

    pool, messages = (Late if late else InProcessPool)(2, deaths), list[str]()
    found = on_workers(pool, reader, texts, tmp_path, messages)
    assert_same_entry(entry_of(tmp_path, found), entry_of(tmp_path / "alone", alone))
    assert len(messages) == len(deaths) - (late and 2 in deaths)
    assert min(pool.n_calls[worker] for worker in (0, 1)) > 1, "both workers computed"
    assert found.lengths is not None
    assert alone.lengths is not None
    assert torch.equal(found.lengths, alone.lengths)


def test_a_pass_that_is_killed_is_continued_by_one_process(
    backbone: Backbone, split: Split, expected: Path, tmp_path: Path
) -> None:
    def stop(n_done: int, n_images: int) -> None:
        if n_done > 10:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        on_workers(InProcessPool(2, {}), backbone, split, tmp_path, [], on_progress=stop)
    found = compute_features(backbone, split, cache_dir=tmp_path, batch_size=BATCH_SIZE)
    assert 0 < found.n_computed < N_IMAGES - 10
    assert_same_entry(entry_of(tmp_path, found), expected)


def test_nobody_waits_for_workers_that_start(
    backbone: Backbone, split: Split, expected: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    pool, left = InProcessPool(2, {}), [3]
    welcome = pool.welcome

    def late(wait_seconds: float = 0.0) -> list[int]:
        left[0] -= 1
        return welcome() if left[0] < 0 else []

    monkeypatch.setattr(pool, "welcome", late)
    found = on_workers(pool, backbone, split, tmp_path, [])
    assert_same_entry(entry_of(tmp_path, found), expected)
    assert any(pool.n_calls.values()), "the workers computed the rest"


@pytest.mark.parametrize("apart", [{0, 1}, {1, 2}])
def test_workers_that_do_not_see_the_cache_send_what_they_compute(
    apart: set[int], backbone: Backbone, split: Split, expected: Path, tmp_path: Path
) -> None:
    """Worker 0 dies; worker 2 is started in its place."""
    pool = InProcessPool(2, {0: (3, "after")}, cache_of=lambda number: tmp_path / "b" if number in apart else None)
    messages: list[str] = []
    found = on_workers(pool, backbone, split, tmp_path, messages)
    assert_same_entry(entry_of(tmp_path, found), expected)
    assert min(pool.n_calls[worker] for worker in (0, 1, 2)) > 2, "each computed"
    assert messages == ["worker 0 has died; its images are computed again"]
    assert not (tmp_path / "b").exists()


def test_a_worker_sends_little_at_a_time(
    backbone: Backbone, split: Split, expected: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(feature_pass, "MOST_SENT_BYTES", 1)
    pool = InProcessPool(1, {}, cache_of=lambda number: tmp_path / "b")
    found = on_workers(pool, backbone, split, tmp_path, [])
    assert_same_entry(entry_of(tmp_path, found), expected)
    n_batches = -(-N_IMAGES // BATCH_SIZE)
    assert pool.n_calls == {0: 1 + n_batches + 1}, "the pass is taken, each batch computed, and the pass dropped"


def test_features_that_change_on_their_way_end_the_pass(backbone: Backbone, split: Split, tmp_path: Path) -> None:
    class Noisy(InProcessPool):
        def call(self, calls: Mapping[int, bytes], timeout_seconds: float) -> Iterator[tuple[int, Any]]:
            for worker, answer in super().call(calls, timeout_seconds):
                if isinstance(answer, Computed):
                    for values in answer.sent.values():
                        values.view(np.uint8).flat[5] ^= 1
                yield worker, answer

    pool = Noisy(1, {}, cache_of=lambda number: tmp_path / "b")
    with pytest.raises(SweepError, match=r"images 0 to 3 did not arrive as a worker sent them; .* sweep resume"):
        on_workers(pool, backbone, split, tmp_path, [])


def missing(index: int) -> Image.Image:
    return decode(Path("/on the first machine only") / f"{index}.png")


def other(index: int) -> Image.Image:
    return Image.fromarray(np.full((20, 20, 3), index, dtype=np.uint8))


ARRIVING: list[Callable[[int], Any]] = []
"""How images are opened where they arrive, by the order in which they do."""


def arrived() -> Callable[[int], Any]:
    return ARRIVING.pop(0)


class Elsewhere:
    """Opens images. Where it is sent, it opens others."""

    def __init__(self, opener: Callable[[int], Any]):
        self.opener = opener

    def __call__(self, index: int) -> Any:
        return self.opener(index)

    def __reduce__(self) -> tuple[Any, ...]:
        return arrived, ()


@pytest.mark.parametrize("apart", [False, True])
@pytest.mark.parametrize(
    ("second", "third", "reason"),
    [
        (missing, missing, r"it cannot read the image /on the first machine only/0\.png: .*No such file"),
        (missing, None, r"it cannot read the image"),
        (other, None, r"it sees other images than this process, or decodes them to other pixels"),
    ],
)
def test_workers_that_do_not_see_the_images_compute_nothing(
    second: Any,
    third: Any,
    reason: str,
    apart: bool,
    backbone: Backbone,
    split: Split,
    expected: Path,
    tmp_path: Path,
) -> None:
    ARRIVING[:] = [opener or split.open for opener in (second, third)]
    pool = InProcessPool(2, {}, cache_of=lambda number: tmp_path / "b" if apart else None)
    messages: list[str] = []
    found = on_workers(pool, backbone, replace(split, opener=Elsewhere(split.opener)), tmp_path, messages)
    assert_same_entry(entry_of(tmp_path, found), expected)
    assert not ARRIVING
    (message,) = messages
    assert re.match(rf"note: worker 0 cannot compute features: {reason}", message)
    assert pool.n_calls[0] == 1, "it was not asked again"
    assert (pool.n_calls[1] > 1) == (third is None)


def test_images_that_a_worker_does_not_see_in_the_middle_of_the_pass_are_computed_here(
    backbone: Backbone, split: Split, expected: Path, tmp_path: Path
) -> None:
    def some(index: int) -> Any:
        return missing(index) if index == 20 else split.open(index)

    ARRIVING[:] = [some, some]
    pool, messages = InProcessPool(2, {}), list[str]()
    found = on_workers(pool, backbone, replace(split, opener=Elsewhere(split.opener)), tmp_path, messages)
    assert_same_entry(entry_of(tmp_path, found), expected)
    assert len(messages) == 1
    assert min(pool.n_calls.values()) > 2, "the other worker went on"


def test_images_that_cannot_be_sent_are_computed_here(
    backbone: Backbone, split: Split, expected: Path, tmp_path: Path
) -> None:
    lock = threading.Lock()

    def locked(index: int) -> Image.Image:
        with lock:
            return split.open(index)

    pool = InProcessPool(2, {})
    found = on_workers(pool, backbone, replace(split, opener=locked), tmp_path, [])
    assert_same_entry(entry_of(tmp_path, found), expected)
    assert not any(pool.n_calls.values())


@pytest.mark.parametrize("damaged", [[0], [20], [20, 21, 30]])
def test_images_that_cannot_be_read_are_named(damaged: list[int], backbone: Backbone, tmp_path: Path) -> None:
    split = drawn_split(tmp_path / "images")
    for index in damaged:
        (tmp_path / "images" / f"{index}.png").write_bytes(b"no image")
    messages: list[str] = []
    with pytest.raises(SweepError, match="cannot read") as caught:
        on_workers(InProcessPool(2, {}), backbone, split, tmp_path, messages)
    assert all(f"{index}.png" in str(caught.value) for index in damaged)


def test_workers_that_die_again_and_again_end_the_pass(backbone: Backbone, split: Split, tmp_path: Path) -> None:
    deaths = {worker: (2, "before") for worker in range(2 * MOST_LOSSES)}
    with pytest.raises(SweepError, match=r"continue with sweep resume"):
        on_workers(InProcessPool(1, deaths), backbone, split, tmp_path, [])


def test_real_processes_share_the_pass_and_one_is_killed(
    backbone: Backbone, split: Split, expected: Path, tmp_path: Path
) -> None:
    pool, messages = LocalPool(["cpu", "cpu"], torch.get_num_threads()), list[str]()
    while pool.n_starting:
        assert pool.welcome(600.0)
    killed: list[int] = []

    def kill(n_done: int, n_images: int) -> None:
        if not killed:
            killed.append(pool.process_ids[0])
            os.kill(killed[0], signal.SIGKILL)

    try:
        found = on_workers(pool, backbone, split, tmp_path, messages, on_progress=kill)
    finally:
        pool.close()
    assert_same_entry(entry_of(tmp_path, found), expected)
    assert messages == ["worker 0 has died; its images are computed again"]
