"""Where a run's data are: recorded as an absolute path, so that the run opens from any folder."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from sweep.data import DATA_SETS
from sweep.data.suites import PACKAGED_SUITES


def absolute_path(data: object) -> str | None:
    """The absolute path of data that are a file or a folder; None of a set that goes by its name, and of objects."""
    if not isinstance(data, str) or data in DATA_SETS or data in PACKAGED_SUITES:
        return None
    try:
        path = Path(data).expanduser()
        return str(path.absolute()) if path.exists() else None
    except (OSError, RuntimeError, ValueError):  # no path at all
        return None


def data_of_run(config: Mapping[str, Any], moved_to: str | None = None) -> str:
    """What to load a run's data by: where the user says that they are, where they were, or what the user typed.

    Args:
        config: The run's record; those of version 0.3.0 have no absolute path.
        moved_to: Given by the user.
    """
    recorded = config.get("data_path")
    if moved_to is None and isinstance(recorded, str) and Path(recorded).exists():
        return recorded
    return moved_to or str(config["data"])
