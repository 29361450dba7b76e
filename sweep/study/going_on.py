"""The study of a resumed run: its `suggest` is asked as it was when the run began.

Optuna refuses other choices of a parameter than those of earlier trials. A study's file may have got more of them since
the run began, for example one more family of side-networks. And an earlier version of sweep may have asked in another
way.
"""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import replace
from functools import partial
from operator import methodcaller
from typing import TYPE_CHECKING, Any

from sweep.errors import UsageError
from sweep.study.asked_trial import Naming
from sweep.study.stored_values import same_value, stored_parameter
from sweep.study.wrapped_suggest import WrappedSuggest

if TYPE_CHECKING:
    import optuna

    from sweep.study.declaration import Study


ASKED_AS_NOW: Mapping[str, bool] = {"fixed_numbers": True, "fixed_names": True}
"""Entries of a run's record that say how `suggest` was asked: whether parameters that are numbers or lists, and those
that choose among names, have fixed values. Versions up to 0.11.1 and 0.11.2 recorded no such entry; there they did not.
"""


def going_on(study: "Study", trials: "Iterable[optuna.trial.FrozenTrial]") -> "Study":
    """The study, in which every parameter keeps the choices that earlier trials had.

    Args:
        study: The study as its file declares it now, for the kind of task that the run has.
        trials: The trials that the run has asked for so far.
    """
    from optuna.distributions import CategoricalDistribution

    recorded: dict[str, Sequence[Any]] = {}
    for trial in trials:
        for name, distribution in trial.distributions.items():
            if isinstance(distribution, CategoricalDistribution):
                if name in study.fixed and len(distribution.choices) == 1:
                    continue  # `AskedTrial` has the one value
                recorded.setdefault(name, distribution.choices)
    if not recorded:
        return study
    # `Study.on` would take the space of the kind of task, as it is in the file
    return replace(
        study, suggest=WrappedSuggest(study.suggest, partial(_TrialAmong, recorded=recorded)), other_tasks={}
    )


def as_in_0_11(study: "Study") -> "Study":
    """The study, whose `suggest` gets fixed values as in versions 0.11.0 and 0.11.1; see `AskedTrial`."""
    as_before = methodcaller("as_in_0_11")
    return replace(
        study,
        suggest=WrappedSuggest(study.suggest, as_before),
        other_tasks={
            task: replace(space, suggest=WrappedSuggest(space.suggest, as_before))
            for task, space in study.other_tasks.items()
        },
    )


class _TrialAmong:
    """A trial for `suggest`. All attributes except the method below are those of the trial that it wraps."""

    def __init__(self, trial: Any, recorded: Mapping[str, Sequence[Any]]):
        self._trial, self._recorded = trial, recorded

    def __getattr__(self, name: str) -> Any:
        return getattr(self._trial, name)

    def as_in_0_11(self) -> "_TrialAmong":
        """See `AskedTrial.as_in_0_11`."""
        return _TrialAmong(self._trial.as_in_0_11(), self._recorded)

    def with_names(self, naming: Naming) -> "_TrialAmong":
        """See `AskedTrial.with_names`."""
        return _TrialAmong(self._trial.with_names(naming), self._recorded)

    def suggest_categorical(self, name: str, choices: Sequence[Any]) -> Any:
        """Like `AskedTrial.suggest_categorical`, among the recorded choices.

        Raises:
            UsageError: `choices` lacks one of them.
        """
        stored, recorded = [stored_parameter(name, choice) for choice in choices], self._recorded.get(name)
        if recorded is None or stored == list(recorded):
            return self._trial.suggest_categorical(name, choices)
        kept = []
        for wanted in recorded:
            same = [choice for choice, value in zip(choices, stored, strict=True) if same_value(value, wanted)]
            if not same:
                raise UsageError(
                    f"suggest no longer has the choice {wanted!r} of the parameter {name}, with which the run began; "
                    f"put it back, or start a new run"
                )
            kept.append(same[0])
        return self._trial.suggest_categorical(name, kept)
