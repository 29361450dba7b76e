"""Optuna's TPE for searches with many trials: the same proposals in less time.

Optuna's sampler is made anew for every draw, as its draws must depend on their seeds alone, and it looks at every trial
again for every proposal. This one is seeded again instead, and remembers the parameters of trials that have not
changed.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt
import optuna
from optuna.distributions import BaseDistribution
from optuna.samplers import TPESampler
from optuna.samplers._tpe.sampler import _split_trials, default_gamma
from optuna.trial import FrozenTrial, TrialState

from sweep.search.seen_trials import SeenStudy
from sweep.search.tpe_density import DensityOf

Space = dict[str, BaseDistribution]


class RememberingTpe(TPESampler):
    """TPE that can be seeded again, and sees every trial's parameters once.

    It relies on methods of Optuna's class that are not public; the proposals of both are compared in
    `tests/search/test_many_trials.py`.
    """

    def __init__(self) -> None:
        super().__init__(seed=0)
        self._spaces: dict[int, tuple[FrozenTrial, int]] = {}
        self._distinct: list[Space] = []
        self._numbers_of: dict[frozenset[tuple[str, BaseDistribution]], int] = {}
        self._observed: dict[tuple[str, ...], _Observed] = {}
        self._good: dict[tuple[str, ...], _Good] = {}
        self._inferred: tuple[Sequence[FrozenTrial], Space] = (), {}

    def seeded(self, seed: int) -> "RememberingTpe":
        """This sampler, as if it was just made with a seed."""
        self._rng.rng.seed(seed)
        self._random_sampler._rng.rng.seed(seed)
        return self

    def infer_relative_search_space(self, study: optuna.Study, trial: FrozenTrial) -> Space:
        """See `BaseSampler`: the parameters that all ended trials have, with the same distributions."""
        if not self._is_multivariate(study):
            return {}
        if isinstance(study, SeenStudy) and study.ended is self._inferred[0]:
            return dict(self._inferred[1])
        ended = study._get_trials(deepcopy=False, states=(TrialState.COMPLETE, TrialState.PRUNED))
        first, *others = [self._distinct[number] for number in {self._space_of(one) for one in ended}] or [{}]
        space = {
            name: distribution
            for name, distribution in sorted(first.items(), key=lambda item: item[0])
            if not distribution.single() and all(other.get(name) == distribution for other in others)
        }
        if isinstance(study, SeenStudy):
            self._inferred = study.ended, dict(space)
        return space

    def _space_of(self, trial: FrozenTrial) -> int:
        """Number of an ended trial's space: trials with the same distributions have the same number."""
        known = self._spaces.get(trial.number)
        if known is None or known[0] is not trial:
            number = self._numbers_of.setdefault(frozenset(trial.distributions.items()), len(self._distinct))
            if number == len(self._distinct):
                self._distinct.append(dict(trial.distributions))
            known = self._spaces[trial.number] = trial, number
        return known[1]

    def _sample(self, study: optuna.Study, trial: FrozenTrial, search_space: Space) -> dict[str, Any]:
        """Replaces Optuna's method. While no trial ends, the model of the good trials stays the same."""
        if not isinstance(study, SeenStudy):
            return super()._sample(study, trial, search_space)
        names = tuple(search_space)
        good = self._good.get(names)
        if good is None or good.ended is not study.ended or good.space != search_space:
            below, above = _split_trials(study, list(study.ended), default_gamma(len(study.ended)))
            self._taken({other.number: other for other in (*below, *above)}, search_space, study)
            model, numbers = self._model([other.number for other in below], search_space)
            others = [other.number for other in above]
            good = self._good[names] = _Good(study.ended, dict(search_space), model, numbers, others)
        running = dict(study.running)
        running.pop(trial.number, None)
        observed = self._taken(running, search_space, study)
        bad, numbers = self._model(sorted([*good.others, *running]), search_space)
        samples = good.model.sample(self._rng.rng, self._n_ei_candidates)
        good_density = observed.good_density(good.model, good.numbers, samples)
        best = self._compare(samples, good_density - observed.bad_density(bad, numbers, samples))
        return {name: of.to_external_repr(best[name]) for name, of in search_space.items()}

    def _model(self, numbers: Sequence[int], space: Space) -> tuple[Any, npt.NDArray[np.int64]]:
        """TPE's model of the trials with these numbers, and the numbers of those that it has kernels for."""
        kept, values = self._observed[tuple(space)].of(numbers)
        return self._parzen_estimator_cls(values, space, self._parzen_estimator_parameters), kept

    def _get_internal_repr(
        self, trials: list[FrozenTrial], search_space: Space, study: optuna.Study
    ) -> dict[str, npt.NDArray[np.float64]]:
        """Replaces Optuna's method: the values of those trials that have all parameters of a space."""
        numbers = [trial.number for trial in trials]
        return self._taken(dict(zip(numbers, trials, strict=True)), search_space, study).of(numbers)[1]

    def _taken(self, trials: Mapping[int, FrozenTrial], space: Space, study: optuna.Study) -> "_Observed":
        """What is known of trials, by number, after looking at those that have changed."""
        names = tuple(space)
        observed = self._observed.get(names)
        if observed is None or observed.space != space:
            observed = self._observed[names] = _Observed(dict(space))
        known = observed.trials
        for number, trial in trials.items():
            if known.get(number) is not trial:
                observed.take(trial, self._get_params(trial, study))
        return observed


@dataclass(frozen=True)
class _Good:
    """TPE's model of the good trials.

    Attributes:
        ended: The ended trials that it was made from.
        space: The space that it is for.
        model: The model.
        numbers: Numbers of the trials that it has kernels for.
        others: Numbers of the ended trials that are not good.
    """

    ended: Sequence[FrozenTrial]
    space: Space
    model: Any
    numbers: npt.NDArray[np.int64]
    others: Sequence[int]


class _Observed:
    """The values that trials have of the parameters of a space.

    Attributes:
        space: The space.
        trials: By number, the trials as they were when their values were taken.
        values: Values in Optuna's internal representation by number of the trial, `(trials, parameters)`; NaN for a
            trial that lacks a parameter.
        good_density: Log densities of models of good trials.
        bad_density: Likewise of the others.
    """

    def __init__(self, space: Space):
        self.space = space
        self.trials: dict[int, FrozenTrial] = {}
        self.values = np.full((16, len(space)), np.nan)
        self.good_density, self.bad_density = DensityOf(len(space)), DensityOf(len(space))

    def of(self, numbers: Sequence[int]) -> tuple[npt.NDArray[np.int64], dict[str, npt.NDArray[np.float64]]]:
        """The numbers of those of some trials that have all parameters, and their values by parameter."""
        rows = np.array(numbers, dtype=np.int64)
        values = self.values[rows]
        kept = ~np.isnan(values).any(axis=1)
        return rows[kept], dict(zip(self.space, values[kept].T, strict=True))

    def take(self, trial: FrozenTrial, params: dict[str, Any]) -> None:
        """Take the values of a trial."""
        if trial.number >= len(self.values):
            larger = np.full((2 * trial.number, len(self.space)), np.nan)
            larger[: len(self.values)] = self.values
            self.values = larger
        row: Sequence[float] | float = np.nan
        if self.space.keys() <= params.keys():
            row = [distribution.to_internal_repr(params[name]) for name, distribution in self.space.items()]
        self.values[trial.number], self.trials[trial.number] = row, trial
