"""`sweep cache` lists the entries of the cache, and `sweep cache prune` removes the requested ones only."""

import os
import shutil
import time
from pathlib import Path

import pytest
from filelock import FileLock

from sweep.cli.cache import age_asked_for, prune
from sweep.errors import UsageError
from sweep.features.contents import cache_entries, entries_of_run, remove
from sweep.records.results import load_results


@pytest.fixture
def cache(finished_run: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A copy of a run's cache: the entries of its three splits, and one entry written by another version of sweep."""
    shutil.copytree(finished_run.parent / "cache", tmp_path / "cache")
    old = tmp_path / "cache" / "features" / ("0" * 64)
    old.mkdir()
    (old / "header.json").write_text('{"format": 1, "shape": [7, 1, 1, 1], "batch_size": 32}')
    (old / "stages.f16").write_bytes(bytes(14))
    os.utime(old, (time.time() - 10 * 86400,) * 2)
    monkeypatch.setenv("SWEEP_CACHE_DIR", str(tmp_path / "cache"))
    return tmp_path / "cache"


def test_entries_are_listed_with_size_and_age(finished_run: Path, cache: Path) -> None:
    entries = cache_entries(cache)
    config = load_results(finished_run).config
    own = entries_of_run(entries, config)
    assert {(entry.split, entry.n_images) for entry in own} == {
        (name, split["images"]) for name, split in config["splits"].items()
    }
    assert {entry.backbone for entry in own} == {"tiny-untrained"}
    for entry in own:
        assert entry.size_bytes == sum(path.stat().st_size for path in entry.folder.iterdir())
        assert entry.complete
    (old,) = (entry for entry in entries if entry.backbone == "?")
    assert (old.n_images, old.split) == (7, "?")
    assert old.age_seconds == pytest.approx(10 * 86400, abs=60)
    assert entries[-1] == old, "the most recently used entry comes first"


def test_pruned_by_age(cache: Path, capsys: pytest.CaptureFixture[str]) -> None:
    before = {entry.key for entry in cache_entries(cache)}
    prune(older_than="9d", dry_run=True)
    assert {entry.key for entry in cache_entries(cache)} == before
    prune(older_than="9d")
    assert before - {entry.key for entry in cache_entries(cache)} == {"0" * 64}
    assert "freed 0.0 MiB" in capsys.readouterr().out


def test_pruned_by_run(finished_run: Path, cache: Path) -> None:
    others = {entry.key for entry in cache_entries(cache)} - {
        entry.key for entry in entries_of_run(cache_entries(cache), load_results(finished_run).config)
    }
    prune(run=finished_run)
    assert {entry.key for entry in cache_entries(cache)} == others


def test_entries_being_computed_are_not_pruned(cache: Path) -> None:
    entry = cache_entries(cache)[-1]
    said: list[str] = []
    with FileLock(entry.folder.with_suffix(".lock")):
        assert remove([entry], said.append) == 0
    assert said == ["000000000000 stays: another process is computing it"]
    assert entry.folder.is_dir()


def test_requests_that_make_no_sense(finished_run: Path, cache: Path) -> None:
    with pytest.raises(UsageError, match="give either --older-than or --run"):
        prune()
    with pytest.raises(UsageError, match="give either --older-than or --run"):
        prune(older_than="3d", run=finished_run)
    for text in ("", "3", "d", "3y", "-3d", "1.5d", "9999999d"):
        with pytest.raises(UsageError, match="such as 30d"):
            age_asked_for(text)
    assert [age_asked_for(text) for text in ("5m", "12h", "30d", "2w")] == [300, 43200, 2592000, 1209600]


def test_a_missing_cache(tmp_path: Path) -> None:
    assert cache_entries(tmp_path / "none") == []
