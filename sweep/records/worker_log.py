"""What the workers of a run do: which trials each trains, and how long it was occupied. A file of the run folder."""

import time
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from sweep.errors import SweepError
from sweep.machine.checked_files import RESTORE, read_json
from sweep.records.folder import RunFolder

SECONDS_BETWEEN_WRITES = 1.0


@dataclass(frozen=True)
class WorkerLog:
    """The workers of a run's latest process.

    Attributes:
        training_seconds: Wall time of its epochs.
        busy_seconds: How much of it each worker was occupied, by number of the worker; also those that were lost.
        trials: The trials that each worker trains now.
    """

    training_seconds: float
    busy_seconds: Mapping[int, float]
    trials: Mapping[int, list[int]]


class WorkerLogFile:
    """Keeps the log in the run folder, somewhat behind while epochs are short.

    Args:
        folder: The run folder.
    """

    def __init__(self, folder: RunFolder):
        self.folder = folder
        self._unwritten: WorkerLog | None = None
        self._next_write = 0.0

    def update(self, log: WorkerLog) -> None:
        """Take the log after an epoch."""
        self._unwritten = log
        if time.monotonic() >= self._next_write:
            self.write()

    def write(self) -> None:
        """Write what was not written yet."""
        if (log := self._unwritten) is not None:
            workers = [
                {"worker": worker, "busy_seconds": seconds, "trials": log.trials.get(worker, [])}
                for worker, seconds in log.busy_seconds.items()
            ]
            self.folder.write_json(
                self.folder.workers_path, {"training_seconds": log.training_seconds, "workers": workers}
            )
            self._unwritten, self._next_write = None, time.monotonic() + SECONDS_BETWEEN_WRITES


def read_worker_log(folder: RunFolder) -> WorkerLog | None:
    """The log of a run; None if it has trained on no workers.

    Raises:
        SweepError: The file is damaged.
    """
    if not folder.workers_path.is_file():
        return None
    content: dict[str, Any] = read_json(folder.workers_path)
    try:
        workers = {int(entry["worker"]): entry for entry in content["workers"]}
        return WorkerLog(
            float(content["training_seconds"]),
            {worker: float(entry["busy_seconds"]) for worker, entry in workers.items()},
            {worker: [int(trial) for trial in entry["trials"]] for worker, entry in workers.items()},
        )
    except (KeyError, TypeError, ValueError, OverflowError) as error:
        raise SweepError(f"{folder.workers_path} is damaged: {error!r}{RESTORE}") from error
