"""The lock of Optuna's journal: a symbolic link, or a plain file on a file system that has no symbolic links."""

import os
from pathlib import Path
from uuid import uuid4

from optuna.storages.journal import JournalFileOpenLock, JournalFileSymlinkLock
from optuna.storages.journal._file import BaseJournalFileLock


class JournalLock(BaseJournalFileLock):
    """Optuna's lock of a journal, chosen when it is first wanted: who only reads makes no file.

    Args:
        journal: The file.
    """

    def __init__(self, journal: Path):
        self._journal = journal
        self._lock: BaseJournalFileLock | None = None

    def acquire(self) -> bool:
        """Wait for the lock, and take it."""
        if self._lock is None:
            kind = JournalFileSymlinkLock if _has_symbolic_links(self._journal.parent) else JournalFileOpenLock
            self._lock = kind(str(self._journal))
        return self._lock.acquire()

    def release(self) -> None:
        """Give the lock back."""
        if self._lock is not None:
            self._lock.release()


def _has_symbolic_links(folder: Path) -> bool:
    """Whether a link can be made there: not on Windows without the right to, and not on some mounted file systems."""
    link = folder / f".link-{uuid4().hex}"
    try:
        os.symlink("nowhere", link)
    except (OSError, NotImplementedError):
        return False
    link.unlink()
    return True
