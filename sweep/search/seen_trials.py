"""Optuna's study as TPE should see it: running trials at a rung count, and of very many trials only some.

TPE learns from complete and pruned trials. It only avoids running trials, as if they were bad. But a trial that passes
a rung is among the better third, so TPE would take the best configurations for bad ones. Here a running trial that has
reached a rung is shown as if it had been pruned there. Its value at that rung is then ranked among those of the trials
that were stopped at it, as BOHB (Falkner et al. 2018) does with its models of a budget.

TPE's time grows with the number of trials that it sees. It models the best few (at most 25) and all others. Beyond
`MOST_ENDED` trials it sees the best ones, so the first model is the same, and the latest of the others.
"""

import copy
import heapq
import math
from bisect import bisect_left, insort
from collections.abc import Container, Iterable, Mapping, Sequence
from typing import Any

import optuna
from optuna.study import StudyDirection
from optuna.trial import FrozenTrial, TrialState

MOST_ENDED = 500
"""Most ended trials that TPE sees, besides the best ones."""

MOST_RUNNING = 500
"""Most running trials that TPE sees."""

N_BEST = 25
"""Trials that TPE counts as good, if there are many."""

ENDED = (TrialState.COMPLETE, TrialState.PRUNED)


class SeenStudy:
    """A study with some of its trials. All else is unchanged.

    Args:
        study: An Optuna study.
        ended: The complete and pruned trials to show, in the order of their numbers.
        running: The running trials to show by number, likewise.
    """

    def __init__(self, study: optuna.Study, ended: Sequence[FrozenTrial], running: Mapping[int, FrozenTrial]):
        self._seen_study = study
        self.ended, self.running = ended, running

    def __getattr__(self, name: str) -> Any:
        return getattr(self._seen_study, name)

    def _get_trials(
        self, deepcopy: bool = True, states: Container[TrialState] | None = None, use_cache: bool = False
    ) -> list[FrozenTrial]:
        """Replaces the method that Optuna's samplers call; the arguments are the same."""
        if states == ENDED and not deepcopy:  # asked for before every draw
            return list(self.ended)
        of_state = (
            [*self.ended, *self.running.values()] if states is None or TrialState.RUNNING in states else self.ended
        )
        wanted = [trial for trial in of_state if states is None or trial.state in states]
        return copy.deepcopy(wanted) if deepcopy else wanted


class SeenTrials:
    """The trials of a study with one objective as TPE should see them.

    What is known of a trial is kept until the storage holds another object for it: storages replace a trial when it
    changes.

    Args:
        rungs: Epochs at which trials are compared, in ascending order; none if they are not.
    """

    def __init__(self, rungs: Sequence[int]):
        self._rungs = rungs
        self._stored: list[FrozenTrial] = []
        self._shown: list[FrozenTrial] = []
        self._running: list[int] = []
        self._ended: list[FrozenTrial] | None = None

    def of(self, study: optuna.Study) -> SeenStudy:
        """The study as TPE should see it now."""
        stored = study.get_trials(deepcopy=False)
        changed = [i for i, (a, b) in enumerate(zip(self._stored, stored, strict=False)) if a is not b]
        for number in (*changed, *range(len(self._stored), len(stored))):
            self._take(number, stored[number])
        return self._seen(study)

    def of_asked(self, study: optuna.Study, trial_ids: Iterable[int]) -> SeenStudy:
        """The same if nothing has changed since but these trials, which takes less time with many trials."""
        for trial_id in trial_ids:
            trial = study._storage.get_trial(trial_id)
            if trial.number > len(self._stored):
                return self.of(study)
            self._take(trial.number, trial)
        return self._seen(study)

    def _take(self, number: int, trial: FrozenTrial) -> None:
        """Note what the storage holds for a trial."""
        shown = self._as_shown(trial)
        if number == len(self._stored):
            self._stored.append(trial)
            self._shown.append(shown)
        elif self._shown[number].state in ENDED:
            self._ended = None
        elif self._shown[number].state == TrialState.RUNNING:
            del self._running[bisect_left(self._running, number)]
        self._stored[number], self._shown[number] = trial, shown
        if shown.state in ENDED:
            self._ended = None
        elif shown.state == TrialState.RUNNING:
            insort(self._running, number)

    def _seen(self, study: optuna.Study) -> SeenStudy:
        if self._ended is None:
            self._ended = self._selected([trial for trial in self._shown if trial.state in ENDED], study.direction)
        return SeenStudy(study, self._ended, {number: self._shown[number] for number in self._running[-MOST_RUNNING:]})

    def _as_shown(self, trial: FrozenTrial) -> FrozenTrial:
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

    @staticmethod
    def _selected(ended: list[FrozenTrial], direction: StudyDirection) -> list[FrozenTrial]:
        """The best of the ended trials and the latest ones."""
        if len(ended) <= MOST_ENDED:
            return ended
        sign = -1 if direction == StudyDirection.MAXIMIZE else 1
        best = heapq.nsmallest(N_BEST, ended, key=lambda trial: _merit(trial, sign))
        latest = ended[-MOST_ENDED:]
        numbers = {trial.number for trial in latest}
        earlier = (trial for trial in best if trial.number not in numbers)
        return [*sorted(earlier, key=lambda trial: trial.number), *latest]


def _merit(trial: FrozenTrial, sign: int) -> tuple[float, ...]:
    """What TPE sorts trials by, the best first: complete ones, then pruned ones by epoch, then infeasible ones."""
    if violation := sum(value for value in trial.constraints.values() if value > 0):
        return 2, violation
    if trial.state == TrialState.COMPLETE:
        return 0, sign * (trial.value or 0.0)
    if not trial.intermediate_values:
        return 1, 1, 0.0
    epoch, value = max(trial.intermediate_values.items())
    return 1, -epoch, math.inf if math.isnan(value) else sign * value
