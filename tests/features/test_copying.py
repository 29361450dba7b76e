"""Copies of cache entries have the same bytes, whatever was there before and whoever was stopped on the way."""

import json
import os
from collections import namedtuple
from pathlib import Path

import numpy as np
import pytest
from filelock import FileLock

from sweep.errors import SweepError
from sweep.features import copying, entry
from sweep.features.contents import cache_entries
from sweep.features.copying import EntryIndex, EntryReceiver, parts_of
from sweep.features.entry import HEADER_FILE, Entry, note_use
from sweep.features.stored_batches import BATCHES_FILE, DATA_FILE

SHAPE, BATCH_SIZE = (7, 2, 3, 4), 2
PART_BYTES = 70


@pytest.fixture(autouse=True)
def several_parts(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(copying, "PART_BYTES", PART_BYTES)


def written(cache: Path, kind: str, *, seed: int = 0, n_batches: int | None = None) -> Path:
    """Write an entry of images or texts, or only its first batches, and return its folder."""
    rng = np.random.default_rng(seed)
    lengths = [int(length) for length in rng.integers(1, SHAPE[2] + 1, SHAPE[0])]
    folder = cache / "features" / "key"
    folder.parent.mkdir(parents=True, exist_ok=True)
    filled = Entry(folder, SHAPE, BATCH_SIZE, sum(lengths) if kind == "texts" else None)
    for batch in filled.resume()[:n_batches]:
        values = np.random.default_rng([seed, batch.start]).normal(size=(len(batch), *SHAPE[1:])).astype(np.float16)
        filled.write(batch, values, [lengths[index] for index in batch] if kind == "texts" else None)
    if n_batches is not None:
        return filled.partial
    filled.finish()
    note_use(folder, {"backbone": "tiny", "split_name": "train"})
    return folder


def send(source: Path, receiver: EntryReceiver, *, n_parts: int | None = None) -> int:
    """Send an entry, or its first parts, and return how many parts were sent."""
    start = receiver.begin(EntryIndex.of(source))
    assert start is not None
    parts = list(parts_of(source, start))[:n_parts]
    for offset, content in parts:
        receiver.take(offset, content)
    return len(parts)


def assert_same_entry(cache: Path, source: Path) -> None:
    folder = cache / "features" / source.name
    names = {path.name for path in source.iterdir()}
    assert {path.name for path in folder.iterdir()} == names
    assert all((folder / name).read_bytes() == (source / name).read_bytes() for name in names - {BATCHES_FILE})
    records, expected = (set((path / BATCHES_FILE).read_bytes().splitlines()) for path in (folder, source))
    assert records == expected
    assert not folder.with_suffix(".partial").exists()
    with FileLock(folder.with_suffix(".lock"), timeout=0):
        pass
    assert [(found.complete, found.backbone) for found in cache_entries(cache)] == [(True, "tiny")]


@pytest.mark.parametrize("kind", ["images", "texts"])
def test_a_copy_has_the_same_bytes_and_is_sent_once(kind: str, tmp_path: Path) -> None:
    source, there = written(tmp_path / "here", kind), tmp_path / "there"
    n_bytes = (source / DATA_FILE).stat().st_size
    assert send(source, EntryReceiver(there)) == -(-n_bytes // PART_BYTES) > 1
    assert_same_entry(there, source)
    assert EntryReceiver(there).begin(EntryIndex.of(source)) == n_bytes
    assert_same_entry(there, source)


def test_a_copy_of_texts_that_an_older_version_computed_says_so(tmp_path: Path) -> None:
    """The header decides whether a damaged entry is continued, or computed again as a whole."""
    source, there = written(tmp_path / "here", "texts"), tmp_path / "there"
    header = json.loads((source / HEADER_FILE).read_bytes())
    del header["texts_together"]
    (source / HEADER_FILE).write_text(json.dumps(header))
    send(source, EntryReceiver(there))
    assert_same_entry(there, source)


@pytest.mark.parametrize("kind", ["images", "texts"])
def test_a_copy_goes_on_where_a_killed_process_stopped(kind: str, tmp_path: Path) -> None:
    source, there = written(tmp_path / "here", kind), tmp_path / "there"
    killed = EntryReceiver(there)
    n_all = -(-(source / DATA_FILE).stat().st_size // PART_BYTES)
    send(source, killed, n_parts=n_all - 1)
    assert [found.complete for found in cache_entries(there)] == [False], "nothing half has the entry's name"
    assert EntryReceiver(there).begin(EntryIndex.of(source)) is None, "one process receives it at a time"
    del killed
    assert 1 <= send(source, EntryReceiver(there)) < n_all
    assert_same_entry(there, source)


@pytest.mark.parametrize("n_batches", [None, 2])
@pytest.mark.parametrize("kind", ["images", "texts"])
def test_features_that_this_machine_computed_with_other_bits_are_replaced(
    kind: str, n_batches: int | None, tmp_path: Path
) -> None:
    source, there = written(tmp_path / "here", kind), tmp_path / "there"
    other = written(there, kind, seed=1, n_batches=n_batches)
    before = (other / DATA_FILE).read_bytes()
    with (other / DATA_FILE).open("rb") as read_by_another_run:
        assert send(source, EntryReceiver(there)) > 1
        assert read_by_another_run.read() == before
    assert_same_entry(there, source)


def test_features_that_this_machine_computed_with_the_same_bits_are_kept(tmp_path: Path) -> None:
    source, there = written(tmp_path / "here", "images"), tmp_path / "there"
    assert send(written(there, "images"), EntryReceiver(there)) == 0
    assert send(source, EntryReceiver(there)) == 0
    assert_same_entry(there, source)


def test_a_batch_that_was_recorded_twice_counts_as_it_was_last(tmp_path: Path) -> None:
    source, there = written(tmp_path / "here", "images"), tmp_path / "there"
    records = source / BATCHES_FILE
    records.write_bytes(b'{"start": 0, "stop": 2, "crc32": 1}\n{"start": 0, "st\n' + records.read_bytes())
    send(source, EntryReceiver(there))
    assert EntryIndex.of(there / "features" / "key") == EntryIndex.of(written(tmp_path / "again", "images"))


def test_damage_on_the_way_is_noticed_and_leaves_nothing(tmp_path: Path) -> None:
    source, there = written(tmp_path / "here", "images"), tmp_path / "there"
    receiver = EntryReceiver(there)
    assert receiver.begin(EntryIndex.of(source)) == 0
    *others, last = parts_of(source, 0)
    for offset, content in others:
        receiver.take(offset, bytes(len(content)))
    with pytest.raises(SweepError, match=r"on .*: the features key did not arrive as they were sent"):
        receiver.take(*last)
    assert cache_entries(there) == []
    send(source, EntryReceiver(there))
    assert_same_entry(there, source)


def test_a_machine_without_room_is_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    source = written(tmp_path / "here", "images")
    usage = namedtuple("usage", "free")
    monkeypatch.setattr(entry.shutil, "disk_usage", lambda path: usage(1000))
    with pytest.raises(SweepError, match=rf"on {os.uname().nodename}: no room for features in .*there"):
        EntryReceiver(tmp_path / "there").begin(EntryIndex.of(source))
