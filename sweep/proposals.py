"""Asking Optuna for configurations worth a lane: none that repeats, or all but repeats, one that was asked before."""

import math
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any

import optuna
from optuna.distributions import BaseDistribution, FloatDistribution, IntDistribution
from optuna.samplers import BruteForceSampler, GridSampler, RandomSampler
from optuna.trial import TrialState

from sweep.errors import UsageError
from sweep.lanes import LaneConfig
from sweep.samplers import AskTellSampler
from sweep.seeds import derive_seed
from sweep.study import Study

NEAR = 0.002
"""Two trials are nearly the same if no parameter differs by more than this share of its range, which leaves room for
some 500 trials in a space of one continuous parameter."""

SAMPLER_ASKS = 10
"""Repeats in a row after which proposals are drawn at random: in a small space a sampler keeps to its favourites."""

MOST_ASKS = 100
"""Repeats in a row after which the space counts as exhausted."""


@dataclass(frozen=True)
class Proposal:
    """A trial that Optuna was asked for, and what the study's `suggest` made of it."""

    trial: optuna.Trial
    config: LaneConfig


class Proposals:
    """The trials of a search, one after the other: the baseline, those that were enqueued, then the sampler's.

    Args:
        optuna_study: New and empty.
        study: What is searched.
        sampler: The Optuna study's.
        enqueued: Parameters of trials that follow the baseline; what one leaves out, the sampler chooses.

    Attributes:
        n_dropped: Proposals that were repeats; Optuna was told that they failed, with `duplicate_of` as an attribute.
        exhausted: Whether nothing new is left.
    """

    def __init__(
        self,
        optuna_study: optuna.Study,
        study: Study,
        sampler: AskTellSampler,
        enqueued: Iterable[Mapping[str, Any]] = (),
    ):
        self.optuna_study = optuna_study
        self.study = study
        self.sampler = sampler
        self.n_dropped = 0
        self.exhausted = False
        self._asked: list[optuna.Trial] = []
        self._of_config: dict[LaneConfig, int] = {}
        self._random = RandomSampler(seed=derive_seed(study.seed, "repeats") % 2**32)
        for params in (study.baseline, *enqueued):
            optuna_study.enqueue_trial(dict(params))

    def next(self) -> Proposal | None:
        """A configuration that was not proposed before; None if none can be found.

        Raises:
            UsageError: The study proposes what cannot be trained.
        """
        for n_repeats in range(MOST_ASKS):
            if self.sampler.exhausted:
                break
            proposal = self._ask(at_random=n_repeats >= SAMPLER_ASKS and not self._enumerates)
            twin = self._twin(proposal)
            if twin is None:
                self._asked.append(proposal.trial)
                self._of_config[proposal.config] = proposal.trial.number
                return proposal
            proposal.trial.set_user_attr("duplicate_of", twin)
            self.optuna_study.tell(proposal.trial, state=TrialState.FAIL)
            self.n_dropped += 1
        self.exhausted = True
        return None

    @property
    def _enumerates(self) -> bool:
        return isinstance(self.sampler.sampler, GridSampler | BruteForceSampler)

    def _ask(self, *, at_random: bool) -> Proposal:
        self.optuna_study.sampler = self._random if at_random else self.sampler
        try:
            trial = self.optuna_study.ask()
            try:
                return Proposal(trial, self.study.lane_config(trial))
            except UsageError:
                self.optuna_study.tell(trial, state=TrialState.FAIL)
                raise
        finally:
            self.optuna_study.sampler = self.sampler

    def _twin(self, proposal: Proposal) -> int | None:
        """Number of a trial that this one repeats."""
        if proposal.config in self._of_config:
            return self._of_config[proposal.config]
        trial = proposal.trial
        return next((other.number for other in self._asked if _nearly_alike(trial, other)), None)


def _nearly_alike(a: optuna.Trial, b: optuna.Trial) -> bool:
    if a.params.keys() != b.params.keys() or not a.params:
        return False
    return all(_distance(a.distributions[name], value, b.params[name]) <= NEAR for name, value in a.params.items())


def _distance(distribution: BaseDistribution, a: Any, b: Any) -> float:
    """Between two values, as a share of the distribution's range; categories are alike or infinitely far apart."""
    if not isinstance(distribution, FloatDistribution | IntDistribution):
        return 0.0 if a == b else math.inf
    if distribution.single():
        return 0.0
    scale = math.log if distribution.log else float
    return abs(scale(a) - scale(b)) / (scale(distribution.high) - scale(distribution.low))
