"""The absolute path of a run's data, recorded so that the run can be opened from any folder."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from sweep.data import DATA_SETS
from sweep.data.suites import PACKAGED_SUITES


def absolute_path(data: object) -> str | None:
    """The absolute path of data that are a file or a folder; None for named data sets and for objects."""
    if not isinstance(data, str) or data in DATA_SETS or data in PACKAGED_SUITES:
        return None
    try:
        path = Path(data).expanduser()
        return str(path.absolute()) if path.exists() else None
    except (OSError, RuntimeError, ValueError):  # not a path
        return None


def data_of_run(config: Mapping[str, Any], moved_to: str | None = None) -> str:
    """The name or path to load a run's data from.

    This is the path that the user gives now, else the recorded path if it still exists, else what the user typed when
    the run began.

    Args:
        config: The run's record. Records of version 0.3.0 have no absolute path.
        moved_to: Where the data are now, if the user says so.
    """
    recorded = config.get("data_path")
    if moved_to is None and isinstance(recorded, str) and Path(recorded).exists():
        return recorded
    return moved_to or str(config["data"])
