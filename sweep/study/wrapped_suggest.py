"""A study's `suggest`, which gets its trials in another form."""

from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, cast

from sweep.study.lane_config import LaneConfig

if TYPE_CHECKING:
    import optuna

    from sweep.study.asked_trial import AskedTrial


@dataclass(frozen=True)
class WrappedSuggest:
    """A study's `suggest`, which gets another trial than the one that it is called with.

    Attributes:
        suggest: The function of the study.
        trial_of: Gives the trial that the function gets. It takes an `AskedTrial`, or what another `WrappedSuggest`
            has made of one.
    """

    suggest: "Callable[[optuna.Trial], LaneConfig]"
    trial_of: "Callable[[AskedTrial], Any]"

    def __call__(self, trial: "optuna.Trial") -> LaneConfig:
        """What the function returns for the other trial."""
        return self.suggest(cast("optuna.Trial", self.trial_of(cast("AskedTrial", trial))))

    @property
    def __wrapped__(self) -> "Callable[[optuna.Trial], LaneConfig]":
        """The function of the study, for messages that name its lines."""
        return self.suggest
