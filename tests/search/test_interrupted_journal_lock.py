"""Ctrl-C while the journal's lock is taken or released arrives as such, and does not leave the lock taken."""

import os
from collections.abc import Callable
from pathlib import Path

import pytest
from optuna.storages.journal import JournalFileOpenLock, JournalFileSymlinkLock, _file
from optuna.storages.journal._file import BaseJournalFileLock

from sweep.search import journal_lock
from sweep.search.journal_lock import JournalLock

KINDS = {"symbolic link": JournalFileSymlinkLock, "plain file": JournalFileOpenLock}


@pytest.fixture(params=KINDS)
def lock(request: pytest.FixtureRequest, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> JournalLock:
    monkeypatch.setattr(journal_lock, "_has_symbolic_links", lambda folder: request.param == "symbolic link")
    return JournalLock(tmp_path / "journal")


def interrupt_once(patch: pytest.MonkeyPatch, name: str, *, first: bool) -> None:
    """Have Ctrl-C arrive before or after the next call of a function of `os`, in Optuna's locks only."""
    function: Callable[..., object] = getattr(os, name)
    left = [KeyboardInterrupt()]

    def interrupted(*arguments: object) -> object:
        if first and left:
            raise left.pop()
        result = function(*arguments)
        if left:
            raise left.pop()
        return result

    class Os:
        def __getattr__(self, attribute: str) -> object:
            return interrupted if attribute == name else getattr(os, attribute)

    patch.setattr(_file, "os", Os())


@pytest.mark.parametrize("name", ["rename", "unlink"])
@pytest.mark.parametrize("first", [True, False])
def test_while_it_is_released(
    lock: JournalLock, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, name: str, first: bool
) -> None:
    lock.acquire()
    interrupt_once(monkeypatch, name, first=first)
    with pytest.raises(KeyboardInterrupt):
        lock.release()
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("first", [True, False])
def test_while_it_is_taken(lock: JournalLock, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, first: bool) -> None:
    lock.acquire()
    lock.release()
    name = "symlink" if isinstance(lock._lock, JournalFileSymlinkLock) else "open"
    interrupt_once(monkeypatch, name, first=first)
    with pytest.raises(KeyboardInterrupt):
        lock.acquire()
    assert list(tmp_path.iterdir()) == []


def test_the_lock_of_another_process_stays(lock: JournalLock, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    lock.acquire()
    other: BaseJournalFileLock = KINDS["plain file"](str(tmp_path / "journal"))
    interrupt_once(monkeypatch, "unlink", first=False)
    released = lock._lock.release

    def release_and_lose() -> None:
        try:
            released()
        finally:
            other.acquire()

    monkeypatch.setattr(lock._lock, "release", release_and_lose)
    with pytest.raises(KeyboardInterrupt):
        lock.release()
    assert [path.name for path in tmp_path.iterdir()] == ["journal.lock"]


def test_an_error_that_no_interrupt_led_to_is_raised_as_it_is(lock: JournalLock, tmp_path: Path) -> None:
    lock.acquire()
    (tmp_path / "journal.lock").unlink()
    with pytest.raises(RuntimeError, match="did not possess lock"):
        lock.release()
