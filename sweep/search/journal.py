"""Optuna's journal file, to which a search can write many entries at once.

Every entry by itself costs a lock, a flush to the disk and a look at what other processes wrote. A batch of entries
costs this once. If the process is killed before a batch is written, the journal is as it was before the batch, as if
the process had been killed then.
"""

import json
import os
import time
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import optuna
from optuna.storages.journal import JournalFileBackend
from optuna.storages.journal._file import BaseJournalFileLock

MOST_SECONDS = 5.0
"""How long a batch may hold the lock. After half a minute, Optuna's other processes would break it."""


class BatchingJournal(JournalFileBackend):
    """A journal file whose entries can be written in batches.

    Args:
        file_path: The file.
        lock: Optuna's lock of the file.
    """

    def __init__(self, file_path: str, lock: BaseJournalFileLock):
        super().__init__(file_path, lock)
        self._file_path, self._own_lock = file_path, lock
        self._batch: list[bytes] | None = None
        self._n_in_file: int | None = None
        self._since = 0.0

    @contextmanager
    def batch(self) -> Iterator[None]:
        """Write all entries that are made inside at once at the end, or every few seconds."""
        if self._batch is not None:
            yield
            return
        self._begin()
        try:
            yield
        finally:
            self._end()

    @contextmanager
    def between_batches(self) -> Iterator[None]:
        """Do something in the middle of a batch that may take long: what was made is written, and others may write."""
        batching = self._batch is not None
        if batching:
            self._end()
        try:
            yield
        finally:
            if batching:
                self._begin()

    def append_logs(self, logs: list[dict[str, Any]]) -> None:
        """See `JournalFileBackend`."""
        if self._batch is None:
            super().append_logs(logs)
            return
        if time.monotonic() - self._since > MOST_SECONDS:
            self._end()
            self._begin()
        assert self._batch is not None
        self._batch += [json.dumps(log, separators=(",", ":")).encode() for log in logs]

    def read_logs(self, log_number_from: int) -> Iterator[dict[str, Any]]:  # type: ignore[override]  # an iterator is enough
        """See `JournalFileBackend`; entries of a batch follow those in the file."""
        if self._batch is None:
            yield from super().read_logs(log_number_from)
            return
        if self._n_in_file is None:
            n_read = 0
            for log in super().read_logs(log_number_from):
                n_read += 1
                yield log
            self._n_in_file = log_number_from + n_read
        for line in self._batch[max(0, log_number_from - self._n_in_file) :]:
            yield json.loads(line)

    def _begin(self) -> None:
        self._own_lock.acquire()  # from here on, no other process writes to the file
        self._batch, self._n_in_file, self._since = [], None, time.monotonic()

    def _end(self) -> None:
        lines, self._batch = self._batch, None
        try:
            if lines:
                with open(self._file_path, "ab") as file:
                    file.write(b"\n".join(lines) + b"\n")
                    file.flush()
                    os.fsync(file.fileno())
        finally:
            self._own_lock.release()


@contextmanager
def not_together(study: optuna.Study) -> Iterator[None]:
    """Within `written_together`, write what has been collected, and collect nothing while something slow is done."""
    backend = getattr(study._storage, "_backend", None)
    if isinstance(backend, BatchingJournal):
        with backend.between_batches():
            yield
    else:
        yield


@contextmanager
def written_together(study: optuna.Study) -> Iterator[None]:
    """Write what Optuna is told inside to its journal at once. Other storages write it one by one."""
    backend = getattr(study._storage, "_backend", None)
    if isinstance(backend, BatchingJournal):
        with backend.batch():
            yield
    else:
        yield
