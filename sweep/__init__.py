"""A parallel sweep engine: one frozen backbone forward feeds many side-networks."""

from sweep.errors import SweepError, UsageError
from sweep.export.loading import load_model
from sweep.lanes import LaneConfig
from sweep.pruning import Halving
from sweep.results import Results, load_results
from sweep.study import Study

__all__ = [
    "Halving",
    "LaneConfig",
    "Results",
    "Study",
    "SweepError",
    "UsageError",
    "load_model",
    "load_results",
]
