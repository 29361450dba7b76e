"""Names of the user attributes that sweep itself sets in Optuna's trials. A study's `suggest` cannot set these."""

from dataclasses import dataclass
from typing import Any

import optuna
from optuna.trial import FrozenTrial

from sweep.study.stored_values import RESERVED

MARK = f"{RESERVED}names"
"""The user attribute of an Optuna study in which the names of sweep's own attributes have a prefix."""

ENTERED = "trainable_parameters"
"""The last attribute that a trial is given when it enters the search; all its parameters are drawn by then."""

LANE_CONFIG = "lane_config"
"""The attribute that holds the configuration of a trial's lane."""

LANE = "lane"
"""The attribute that holds the lane of a trial's first replicate, once the trial has one."""

CLONE = "clone_of"
"""The attribute of a trial that the user asked for while the run went on: the number of the trial that it varies."""

DUPLICATE = "duplicate_of"
"""The attribute of a repeat: the number of the trial that it repeats."""


@dataclass(frozen=True)
class OwnAttributes:
    """Names of sweep's own attributes in one Optuna study.

    Attributes:
        prefix: Prefix of these names. Runs of version 0.3.0 have none; they are read and continued without it.
    """

    prefix: str

    @classmethod
    def of(cls, study: optuna.Study) -> "OwnAttributes":
        """The names that a study uses."""
        return cls(RESERVED if MARK in study.user_attrs else "")

    @staticmethod
    def mark(study: optuna.Study) -> None:
        """Make a study use the prefix, unless it holds trials of an earlier version."""
        if MARK not in study.user_attrs and not study.get_trials(deepcopy=False):
            study.set_user_attr(MARK, True)

    def name(self, attribute: str) -> str:
        """The full name of an attribute."""
        return self.prefix + attribute

    def has(self, trial: FrozenTrial, attribute: str) -> bool:
        """Whether a trial has an attribute."""
        return self.name(attribute) in trial.user_attrs

    def get(self, trial: FrozenTrial, attribute: str) -> Any:
        """The value of a trial's attribute; None if the trial does not have it."""
        return trial.user_attrs.get(self.name(attribute))
