"""Requests that a user makes from another terminal: files in the run folder, which the run reads between two epochs."""

import time
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any, Literal
from uuid import uuid4

from sweep.errors import SweepError
from sweep.machine.checked_files import read_json
from sweep.records.folder import RunFolder

Action = Literal["stop", "clone"]


@dataclass(frozen=True)
class Request:
    """One request.

    Attributes:
        action: `stop` ends a trial; `clone` trains another one with some of its parameters changed.
        trial: Number of the trial.
        params: Parameters of the clone.
    """

    action: Action
    trial: int
    params: dict[str, Any] = field(default_factory=dict)

    @classmethod
    def of(cls, values: Mapping[str, Any]) -> "Request":
        """Make a request from the content of a JSON file.

        Raises:
            ValueError: The content is not a request.
        """
        match values:
            case {"action": "stop" | "clone" as action, "trial": int(trial), "params": dict(params)} if trial >= 0:
                return cls(action, trial, params)
        raise ValueError(f"it is not a request: {str(dict(values))[:100]}")


class Inbox:
    """The requests to a run, in the order in which they were made.

    A request that was read is pending until it has been carried out. The run's snapshots hold both lists, so a run that
    is killed in between carries out the request at the same epoch.

    Args:
        folder: The run folder; None if the search has none, and so no requests.

    Attributes:
        pending: Requests that were read and are not carried out yet.
        read: Names of the files that were read.
    """

    def __init__(self, folder: RunFolder | None):
        self.folder = folder
        self.pending: list[Request] = []
        self.read: list[str] = []

    def look(self) -> list[str]:
        """Read new requests into `pending`, and return a message for every file that is not a request."""
        damaged = []
        for path in self.unread():
            self.read.append(path.name)
            try:
                self.pending.append(Request.of(read_json(path)))
            except (SweepError, ValueError) as error:
                damaged.append(f"{path} is ignored: {error}")
        return damaged

    def unread(self) -> list[Path]:
        """Files of requests that were not read yet."""
        if self.folder is None:
            return []
        known = set(self.read)
        return sorted(path for path in self.folder.requests_path.glob("*.json") if path.name not in known)

    def state(self) -> dict[str, Any]:
        """The state that a snapshot keeps."""
        return {"read": list(self.read), "pending": [asdict(request) for request in self.pending]}

    def restore(self, read: Sequence[str], pending: Sequence[Mapping[str, Any]]) -> None:
        """Restore what `state` returned."""
        self.read, self.pending = list(read), [Request.of(values) for values in pending]


def send(folder: RunFolder, request: Request) -> None:
    """Leave a request for the run.

    Raises:
        SweepError: The file cannot be written.
    """
    try:
        folder.requests_path.mkdir(exist_ok=True)
    except OSError as error:
        raise SweepError(f"cannot make {folder.requests_path}: {error.strerror}") from error
    folder.write_json(folder.requests_path / f"{time.time_ns():020d}-{uuid4().hex[:8]}.json", asdict(request))
