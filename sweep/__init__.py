"""A parallel sweep engine: one frozen backbone forward feeds many side-networks.

Names are imported when they are first asked for: PyTorch takes seconds, and a command's help needs none of it.
"""

import importlib
from typing import TYPE_CHECKING, Any

from sweep.errors import SweepError, UsageError

if TYPE_CHECKING:
    from sweep.api import run, run_tasks
    from sweep.export.loading import load_model
    from sweep.lanes import LaneConfig
    from sweep.pruning import Halving
    from sweep.results import Results, load_results
    from sweep.run_handle import Run, load_run
    from sweep.study import Space, Study

__all__ = [
    "Halving",
    "LaneConfig",
    "Results",
    "Run",
    "Space",
    "Study",
    "SweepError",
    "UsageError",
    "load_model",
    "load_results",
    "load_run",
    "run",
    "run_tasks",
]

_HOME = {
    "Halving": "sweep.pruning",
    "LaneConfig": "sweep.lanes",
    "Results": "sweep.results",
    "Run": "sweep.run_handle",
    "Space": "sweep.study",
    "Study": "sweep.study",
    "load_model": "sweep.export.loading",
    "load_results": "sweep.results",
    "load_run": "sweep.run_handle",
    "run": "sweep.api",
    "run_tasks": "sweep.api",
}


def __getattr__(name: str) -> Any:
    if name not in _HOME:
        raise AttributeError(f"module 'sweep' has no attribute {name!r}")
    value = globals()[name] = getattr(importlib.import_module(_HOME[name]), name)
    return value


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})
