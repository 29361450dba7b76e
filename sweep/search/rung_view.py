"""Optuna's study as TPE should see it in a search with rungs: the results of running trials at a rung count, too.

TPE learns from complete and pruned trials. It only avoids running trials, as if they were bad. But a trial that passes
a rung is among the better third, so TPE would take the best configurations for bad ones. Here a running trial that has
reached a rung is shown as if it had been pruned there. Its value at that rung is then ranked among those of the trials
that were stopped at it, as BOHB (Falkner et al. 2018) does with its models of a budget.
"""

import copy
from collections.abc import Container, Sequence
from typing import Any

import optuna
from optuna.trial import FrozenTrial, TrialState


class RungView:
    """A view of a study in which running trials count from their first rung on. All else is unchanged.

    Args:
        study: An Optuna study with one objective.
        rungs: Epochs at which trials are compared, in ascending order.
    """

    def __init__(self, study: optuna.Study, rungs: Sequence[int]):
        self._seen_study, self._rungs = study, rungs

    def __getattr__(self, name: str) -> Any:
        return getattr(self._seen_study, name)

    def _get_trials(
        self, deepcopy: bool = True, states: Container[TrialState] | None = None, use_cache: bool = False
    ) -> list[FrozenTrial]:
        """Replaces the method that Optuna's samplers call; the arguments are the same."""
        trials = [self._shown(trial) for trial in self._seen_study.get_trials(deepcopy=False)]
        wanted = [trial for trial in trials if states is None or trial.state in states]
        return copy.deepcopy(wanted) if deepcopy else wanted

    def _shown(self, trial: FrozenTrial) -> FrozenTrial:
        """A running trial as if it had been pruned at the last rung that it reached; other trials unchanged."""
        if trial.state != TrialState.RUNNING:
            return trial
        reached = [rung for rung in self._rungs if rung in trial.intermediate_values]
        if not reached:
            return trial
        shown = copy.copy(trial)
        shown.state = TrialState.PRUNED
        shown.intermediate_values = {rung: trial.intermediate_values[rung] for rung in reached}
        return shown
