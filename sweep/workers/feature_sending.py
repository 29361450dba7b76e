"""Sends features to workers on machines that do not see the cache folder of the run.

Each machine is sent an entry once: the first of its workers takes the lock of the entry in the machine's own cache, and
the others find it locked, and later complete. The parts of an entry are calls like all others, so a pool carries them.
"""

import time
from collections.abc import Callable, Collection
from pathlib import Path

from sweep.features.copying import EntryIndex, parts_of
from sweep.workers.packing import packed
from sweep.workers.pool import Call, WorkerPool

BYTES_A_SECOND = 50e6
"""About as fast an entry is checked or sent, at the least. Only the time that an answer may take depends on it."""

LOCKED_SECONDS = 0.5
"""Time between two questions whether an entry is still locked."""


def send_features(
    files: Collection[Path],
    workers: Collection[int],
    pool: WorkerPool,
    call: Call,
    on_message: Callable[[str], None],
) -> None:
    """Let workers have the entries of the cache that some files belong to, if they do not see them.

    Args:
        files: Files of complete entries.
        workers: Numbers of the workers.
        pool: Who has these workers.
        call: Calls them.
        on_message: Told how much is sent to how many machines.

    Raises:
        SweepError: A machine has no room, or cannot write to its cache.
    """
    for folder in sorted({file.parent for file in files}):
        if apart := set(workers) & set(pool.apart):
            _send_entry(folder, apart, pool, call, on_message)


def _send_entry(
    folder: Path, workers: set[int], pool: WorkerPool, call: Call, on_message: Callable[[str], None]
) -> None:
    """Send an entry to every machine that does not have it, and wait for machines on which it is locked."""
    index, is_told = EntryIndex.of(folder), False
    n_bytes, begin = index.n_bytes, packed(("begin_entry", (index,)))
    while workers := workers & set(pool.ready):
        starts = dict(call(dict.fromkeys(sorted(workers), begin), n_bytes / BYTES_A_SECOND))
        locked = {worker for worker, start in starts.items() if start is None}
        wanting = {worker: start for worker, start in starts.items() if start is not None and start < n_bytes}
        if wanting:
            left_bytes = n_bytes - min(wanting.values())
            n_machines = f"{len(wanting)} machine{'s' * (len(wanting) > 1)}"
            on_message(f"features: {left_bytes / 2**20:,.1f} MiB are sent to {n_machines}")
            for offset, content in parts_of(folder, min(wanting.values())):
                if not (receiving := sorted(wanting.keys() & set(pool.ready))):
                    break
                part = packed(("take_features", (offset, content)))
                for _ in call(dict.fromkeys(receiving, part), len(content) / BYTES_A_SECOND):
                    pass
        elif locked:
            if not is_told:
                on_message(f"features: waiting for another process, which writes {index.key[:12]} too")
                is_told = True
            time.sleep(LOCKED_SECONDS)
        workers = locked
