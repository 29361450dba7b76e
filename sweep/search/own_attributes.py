"""The names under which sweep keeps its own user attributes of Optuna's trials, which no study can take."""

from dataclasses import dataclass
from typing import Any

import optuna
from optuna.trial import FrozenTrial

from sweep.study.stored_values import RESERVED

MARK = f"{RESERVED}names"
"""The user attribute of an Optuna study whose trials have sweep's attributes under names of their own."""


@dataclass(frozen=True)
class OwnAttributes:
    """Names of sweep's own attributes in one Optuna study.

    Attributes:
        prefix: How they begin. Runs of version 0.3.0 have none, and are read and continued as they are.
    """

    prefix: str

    @classmethod
    def of(cls, study: optuna.Study) -> "OwnAttributes":
        """Those of a study."""
        return cls(RESERVED if MARK in study.user_attrs else "")

    @staticmethod
    def mark(study: optuna.Study) -> None:
        """Have a study use names of their own, unless trials of an earlier version are in it."""
        if MARK not in study.user_attrs and not study.get_trials(deepcopy=False):
            study.set_user_attr(MARK, True)

    def name(self, attribute: str) -> str:
        """The full name of an attribute."""
        return self.prefix + attribute

    def has(self, trial: FrozenTrial, attribute: str) -> bool:
        """Whether a trial has an attribute."""
        return self.name(attribute) in trial.user_attrs

    def get(self, trial: FrozenTrial, attribute: str) -> Any:
        """A trial's attribute; None where it has none."""
        return trial.user_attrs.get(self.name(attribute))
