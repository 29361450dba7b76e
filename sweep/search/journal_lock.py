"""The lock of Optuna's journal: a symbolic link, or a plain file if the file system has no symbolic links."""

import os
from pathlib import Path
from typing import NoReturn
from uuid import uuid4

from optuna.storages.journal import JournalFileOpenLock, JournalFileSymlinkLock
from optuna.storages.journal._file import LOCK_FILE_SUFFIX, BaseJournalFileLock

from sweep.machine.interrupts import interrupt_in


class JournalLock(BaseJournalFileLock):
    """Optuna's lock of a journal. Its kind is chosen at the first `acquire`: a process that only reads makes no file.

    An interrupt that arrives while the lock is taken or released stays an interrupt, and does not leave the lock taken.
    Optuna's own locks may raise an error about a missing file in its place.

    Args:
        journal: The journal file.
    """

    def __init__(self, journal: Path):
        self._journal = journal
        self._lock: BaseJournalFileLock | None = None
        self._taken: tuple[int, int] | None = None

    def acquire(self) -> bool:
        """Wait for the lock and take it."""
        if self._lock is None:
            kind = JournalFileSymlinkLock if _has_symbolic_links(self._journal.parent) else JournalFileOpenLock
            self._lock = kind(str(self._journal))
        self._taken = None
        try:
            acquired = self._lock.acquire()
            self._taken = self._there()
        except BaseException as error:
            self._end(error)
        return acquired

    def release(self) -> None:
        """Release the lock."""
        if self._lock is not None:
            try:
                self._lock.release()
            except BaseException as error:
                self._end(error)

    def _end(self, error: BaseException) -> NoReturn:
        """Raise an error, or the interrupt that led to it; the lock is not taken after an interrupt."""
        interrupt = interrupt_in(error)
        if interrupt is None:
            raise error
        if self._lock is not None and self._taken is not None and self._there() == self._taken:
            self._lock.release()
        raise interrupt from None

    def _there(self) -> tuple[int, int] | None:
        """What tells the lock's file from one that another process makes; None if there is none."""
        try:
            found = os.lstat(f"{self._journal}{LOCK_FILE_SUFFIX}")
        except OSError:
            return None
        return found.st_ino, found.st_mtime_ns


def _has_symbolic_links(folder: Path) -> bool:
    """Whether a symbolic link can be made in a folder. Windows may lack the permission, and some mounts the feature."""
    link = folder / f".link-{uuid4().hex}"
    try:
        os.symlink("nowhere", link)
    except (OSError, NotImplementedError):
        return False
    link.unlink()
    return True
