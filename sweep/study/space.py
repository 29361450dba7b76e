"""The space that a study searches, if it depends on the kind of task."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from sweep.errors import UsageError
from sweep.study.lane_config import LaneConfig
from sweep.study.stored_values import stored_parameters

if TYPE_CHECKING:
    import optuna


@dataclass(frozen=True)
class Space:
    """The space to search on one kind of task.

    Attributes:
        suggest: Like `Study.suggest`.
        baseline: Like `Study.baseline`.

    Raises:
        UsageError: The baseline is not a mapping from names of parameters to values.
    """

    suggest: Callable[["optuna.Trial"], LaneConfig]
    baseline: Mapping[str, Any]

    def __post_init__(self) -> None:
        object.__setattr__(self, "baseline", stored_baseline(self.baseline))


def stored_baseline(baseline: object) -> dict[str, Any]:
    """The baseline as Optuna's storage holds it.

    Raises:
        UsageError: It is not a mapping from names of parameters to values.
    """
    if not isinstance(baseline, Mapping) or not all(isinstance(name, str) for name in baseline):
        raise UsageError(f"Study.baseline must map names of parameters to values, not be {baseline!r}")
    return stored_parameters(baseline)
