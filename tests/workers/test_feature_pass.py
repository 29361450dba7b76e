"""Features that workers compute in parts are those that one process computes, whoever dies on the way."""

import json
import os
import signal
import threading
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image

from backbones import Backbone, load_backbone
from sweep.data.base import Split
from sweep.errors import SweepError
from sweep.features.cache import Features, compute_features
from sweep.features.entry import BATCHES_FILE, DATA_FILE
from sweep.workers import feature_pass
from sweep.workers.feature_pass import MOST_LOSSES, FeaturesOnWorkers
from sweep.workers.local_pool import LocalPool
from sweep.workers.patience import Patience
from sweep.workers.pool import InProcessPool, WorkerPool

N_IMAGES, BATCH_SIZE = 45, 4


@pytest.fixture(autouse=True)
def several_rounds(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(feature_pass, "MOST_BATCHES", 2)


def pixels(index: int) -> Image.Image:
    return Image.fromarray(np.random.default_rng(index).integers(0, 255, (20, 20, 3), dtype=np.uint8))


@pytest.fixture(scope="module")
def split() -> Split:
    return Split("train", np.zeros(N_IMAGES, dtype=np.int64), pixels, lambda: "drawn")


@pytest.fixture(scope="module")
def backbone(tmp_path_factory: pytest.TempPathFactory) -> Backbone:
    return load_backbone("tiny-untrained", group_size=2, cache_dir=tmp_path_factory.mktemp("weights"))


@pytest.fixture(scope="module")
def expected(backbone: Backbone, split: Split, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The entry that one process computes."""
    folder = tmp_path_factory.mktemp("here")
    return entry_of(folder, compute_features(backbone, split, cache_dir=folder, batch_size=BATCH_SIZE))


def entry_of(cache: Path, features: Features) -> Path:
    return cache / "features" / features.key


def assert_same_entry(entry: Path, expected: Path) -> None:
    assert (entry / DATA_FILE).read_bytes() == (expected / DATA_FILE).read_bytes()
    index, other = (
        sorted(map(json.dumps, map(json.loads, (folder / BATCHES_FILE).read_text().splitlines())))
        for folder in (entry, expected)
    )
    assert index == other
    names, others = ({path.name for path in folder.iterdir()} for folder in (entry, expected))
    assert names == others


def on_workers(
    pool: WorkerPool, backbone: Backbone, split: Split, cache: Path, messages: list[str], **options: Any
) -> Features:
    fill = FeaturesOnWorkers(pool, torch.get_num_threads(), Patience(600.0), messages.append)
    return compute_features(backbone, split, cache_dir=cache, batch_size=BATCH_SIZE, fill=fill, **options)


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
def test_workers_that_do_not_see_the_cache_compute_nothing(
    apart: set[int], backbone: Backbone, split: Split, expected: Path, tmp_path: Path
) -> None:
    """Worker 0 may see it, and dies; worker 2 is started in its place."""
    pool = InProcessPool(2, {0: (2, "before")}, cache_of=lambda number: tmp_path / "other" if number in apart else None)
    found = on_workers(pool, backbone, split, tmp_path, [])
    assert_same_entry(entry_of(tmp_path, found), expected)
    assert {worker for worker, n_calls in pool.n_calls.items() if n_calls} == {0} - apart


def test_images_that_cannot_be_sent_are_computed_here(
    backbone: Backbone, split: Split, expected: Path, tmp_path: Path
) -> None:
    lock = threading.Lock()

    def locked(index: int) -> Image.Image:
        with lock:
            return pixels(index)

    pool = InProcessPool(2, {})
    found = on_workers(pool, backbone, replace(split, opener=locked), tmp_path, [])
    assert_same_entry(entry_of(tmp_path, found), expected)
    assert not any(pool.n_calls.values())


def test_an_image_that_cannot_be_read_is_named(backbone: Backbone, split: Split, tmp_path: Path) -> None:
    def broken(index: int) -> Image.Image:
        if index == 30:
            raise SweepError("image 30 is broken")
        return pixels(index)

    with pytest.raises(SweepError, match="image 30 is broken"):
        on_workers(InProcessPool(2, {}), backbone, replace(split, opener=broken), tmp_path, [])


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
