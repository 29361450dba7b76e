"""Workers that do not see the run's cache folder are sent what they read, once a machine, and change no table."""

from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from filelock import FileLock
from in_process_pool import InProcessPool, plenty
from small_searches import STUDIES, TRAIN, VAL, assert_same, result_of, search_of, settings_of

from sweep.features import copying
from sweep.features.batches import StageData
from sweep.features.copying import EntryReceiver
from sweep.features.entry import Entry
from sweep.features.stored_batches import DATA_FILE
from sweep.workers import feature_sending
from sweep.workers.patience import Patience
from sweep.workers.training import TrainingOnWorkers

PART_BYTES = 700
NAME = "two shapes"


@pytest.fixture(autouse=True)
def several_parts(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(copying, "PART_BYTES", PART_BYTES)


@pytest.fixture
def received(monkeypatch: pytest.MonkeyPatch) -> Iterator[Counter[tuple[str, int]]]:
    """How often each machine received each part: by its cache and the part's content."""
    counts, take = Counter[tuple[str, int]](), EntryReceiver.take

    def counted(self: EntryReceiver, offset: int, content: bytes) -> None:
        take(self, offset, content)
        counts[self.cache_dir.name, hash(content)] += 1

    monkeypatch.setattr(EntryReceiver, "take", counted)
    return counts


def stored(data: StageData, cache: Path, name: str) -> StageData:
    """The same data, with its features in a cache."""
    folder = cache / "features" / name
    folder.parent.mkdir(parents=True, exist_ok=True)
    entry = Entry(folder, data.stages.shape, 4)
    for batch in entry.resume():
        entry.write(batch, np.asarray(data.stages[batch.start : batch.stop]), None)
    entry.finish()
    return StageData(entry.rows(), data.labels, data.n_classes)


def run(pool: InProcessPool, cache: Path, messages: list[str]) -> None:
    """Run a search on workers, and compare it with one without workers."""
    alone = search_of(STUDIES[NAME])
    alone.run()
    data = stored(TRAIN, cache, "train"), stored(VAL, cache, "val")
    trainer = TrainingOnWorkers(
        settings_of(STUDIES[NAME], data), pool, plenty(), patience=Patience(60.0), on_message=messages.append
    )
    search = search_of(STUDIES[NAME], trainer)
    search.run()
    assert_same(result_of(search), result_of(alone))


def assert_complete(cache: Path, source: Path) -> None:
    names = {"train", "val"}
    assert {path.name for path in (cache / "features").iterdir() if path.is_dir()} == names
    for name in names:
        copy, own = ((root / "features" / name / DATA_FILE).read_bytes() for root in (cache, source))
        assert copy == own


def test_each_machine_receives_each_entry_once(tmp_path: Path, received: Counter[tuple[str, int]]) -> None:
    machines, messages = [None, tmp_path / "b", tmp_path / "b", tmp_path / "c", tmp_path / "b"], list[str]()
    run(InProcessPool(5, {}, cache_of=lambda worker: machines[worker]), tmp_path / "a", messages)
    n_bytes = TRAIN.stages.nbytes, VAL.stages.nbytes
    n_parts = sum(-(-size // PART_BYTES) for size in n_bytes)
    assert n_parts > 4
    assert len(received) == 2 * n_parts
    assert set(received.values()) == {1}
    assert messages == [f"features: {size / 2**20:,.1f} MiB are sent to 2 machines" for size in n_bytes]
    for name in ("b", "c"):
        assert_complete(tmp_path / name, tmp_path / "a")


@pytest.mark.parametrize("when", ["before", "after"])
@pytest.mark.parametrize("number", range(1, 10))
def test_a_worker_that_dies_while_it_receives_leaves_nothing_half(number: int, when: str, tmp_path: Path) -> None:
    """A worker's first calls begin an entry, bring its parts, begin the other entry, and so on."""
    messages: list[str] = []
    pool = InProcessPool(2, {0: (number, when), 1: (number, when)}, cache_of=lambda worker: tmp_path / "b")
    run(pool, tmp_path / "a", messages)
    assert any("has died" in message for message in messages)
    assert_complete(tmp_path / "b", tmp_path / "a")


def test_a_run_waits_for_another_process_that_writes_the_same_entry(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "b" / "features").mkdir(parents=True)
    lock, messages = FileLock(tmp_path / "b" / "features" / "val.lock"), list[str]()
    lock.acquire()

    def other_process_ends(seconds: float) -> None:
        assert seconds > 0
        lock.release()

    monkeypatch.setattr(feature_sending.time, "sleep", other_process_ends)
    run(InProcessPool(1, {}, cache_of=lambda worker: tmp_path / "b"), tmp_path / "a", messages)
    assert "features: waiting for another process, which writes val too" in messages
    assert_complete(tmp_path / "b", tmp_path / "a")


def test_nothing_is_sent_to_workers_that_see_the_cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def unexpected(*arguments: Any) -> None:
        raise AssertionError("nothing is to be received")

    monkeypatch.setattr(EntryReceiver, "begin", unexpected)
    messages: list[str] = []
    run(InProcessPool(2, {}), tmp_path / "a", messages)
    assert messages == []
