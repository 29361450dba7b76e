"""Optuna's study as TPE should see it in a search with rungs: what trials in training showed at a rung counts.

TPE learns from complete and from pruned trials. A running one it only avoids, as if it were bad. But a trial that goes
on past a rung is one of the better third, so TPE would be told that the best configurations are the bad ones. Here a
running trial that has reached a rung is shown as if it had been pruned there: with its value at that rung it is ranked
among the trials that were stopped at it, as BOHB (Falkner et al. 2018) does with its models of a budget.
"""

import copy
from collections.abc import Container, Sequence
from typing import Any

import optuna
from optuna.trial import FrozenTrial, TrialState


class RungView:
    """A study whose running trials count from their first rung on. All else is the study's own.

    Args:
        study: Of Optuna's, with one objective.
        rungs: Epochs at which trials are compared, in ascending order.
    """

    def __init__(self, study: optuna.Study, rungs: Sequence[int]):
        self._seen_study, self._rungs = study, rungs

    def __getattr__(self, name: str) -> Any:
        return getattr(self._seen_study, name)

    def _get_trials(
        self, deepcopy: bool = True, states: Container[TrialState] | None = None, use_cache: bool = False
    ) -> list[FrozenTrial]:
        """As the method of that name that Optuna's samplers ask, which takes the same arguments."""
        trials = [self._shown(trial) for trial in self._seen_study.get_trials(deepcopy=False)]
        wanted = [trial for trial in trials if states is None or trial.state in states]
        return copy.deepcopy(wanted) if deepcopy else wanted

    def _shown(self, trial: FrozenTrial) -> FrozenTrial:
        """A running trial as if it had been pruned at the last rung it reached; others as they are."""
        if trial.state != TrialState.RUNNING:
            return trial
        reached = [rung for rung in self._rungs if rung in trial.intermediate_values]
        if not reached:
            return trial
        shown = copy.copy(trial)
        shown.state = TrialState.PRUNED
        shown.intermediate_values = {rung: trial.intermediate_values[rung] for rung in reached}
        return shown
