"""A parallel sweep engine: one forward pass of a frozen backbone feeds many side-networks that train together.

`__all__` is the public API; docs/api.md explains each name. A name is imported when it is first used, because PyTorch
takes seconds to import and a command's help does not need it.
"""

import importlib
import os
from typing import TYPE_CHECKING, Any

from sweep.errors import SweepError, UsageError

os.environ.setdefault("THP_MEM_ALLOC_ENABLE", "1")  # PyTorch then asks Linux for large pages

if TYPE_CHECKING:
    from sweep.api.run import run, run_tasks
    from sweep.api.run_handle import Run, load_run
    from sweep.export.loading import load_model
    from sweep.features.batches import StageData
    from sweep.records.results import Results, load_results
    from sweep.study.declaration import Study
    from sweep.study.halving import Halving
    from sweep.study.lane_config import LaneConfig
    from sweep.study.space import Space
    from sweep.study.structure import Shapes
    from sweep.training.engine import train

__all__ = [
    "Halving",
    "LaneConfig",
    "Results",
    "Run",
    "Shapes",
    "Space",
    "StageData",
    "Study",
    "SweepError",
    "UsageError",
    "load_model",
    "load_results",
    "load_run",
    "run",
    "run_tasks",
    "train",
]

_HOME = {
    "Halving": "sweep.study.halving",
    "LaneConfig": "sweep.study.lane_config",
    "Results": "sweep.records.results",
    "Run": "sweep.api.run_handle",
    "Shapes": "sweep.study.structure",
    "Space": "sweep.study.space",
    "StageData": "sweep.features.batches",
    "Study": "sweep.study.declaration",
    "load_model": "sweep.export.loading",
    "load_results": "sweep.records.results",
    "load_run": "sweep.api.run_handle",
    "run": "sweep.api.run",
    "run_tasks": "sweep.api.run",
    "train": "sweep.training.engine",
}


def __getattr__(name: str) -> Any:
    if name == "__version__":
        from importlib.metadata import version

        globals()[name] = version("sweep")
        return globals()[name]
    if name not in _HOME:
        raise AttributeError(f"module 'sweep' has no attribute {name!r}")
    value = globals()[name] = getattr(importlib.import_module(_HOME[name]), name)
    return value


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__, "__version__"})
