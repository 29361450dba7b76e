"""The lock of Optuna's journal: a symbolic link, or a plain file if the file system has no symbolic links."""

import os
from pathlib import Path
from uuid import uuid4

from optuna.storages.journal import JournalFileOpenLock, JournalFileSymlinkLock
from optuna.storages.journal._file import BaseJournalFileLock


class JournalLock(BaseJournalFileLock):
    """Optuna's lock of a journal. Its kind is chosen at the first `acquire`: a process that only reads makes no file.

    Args:
        journal: The journal file.
    """

    def __init__(self, journal: Path):
        self._journal = journal
        self._lock: BaseJournalFileLock | None = None

    def acquire(self) -> bool:
        """Wait for the lock and take it."""
        if self._lock is None:
            kind = JournalFileSymlinkLock if _has_symbolic_links(self._journal.parent) else JournalFileOpenLock
            self._lock = kind(str(self._journal))
        return self._lock.acquire()

    def release(self) -> None:
        """Release the lock."""
        if self._lock is not None:
            self._lock.release()


def _has_symbolic_links(folder: Path) -> bool:
    """Whether a symbolic link can be made in a folder. Windows may lack the permission, and some mounts the feature."""
    link = folder / f".link-{uuid4().hex}"
    try:
        os.symlink("nowhere", link)
    except (OSError, NotImplementedError):
        return False
    link.unlink()
    return True
