"""Asks Optuna for configurations, and drops those that repeat an earlier one or hardly differ from it.

When a killed run is resumed, Optuna's storage may hold more trials than the run's snapshot. These trials are used
first, one after the other, before Optuna is asked for new ones.
"""

import contextlib
from collections import deque
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, replace
from typing import Any

import optuna
from optuna.distributions import BaseDistribution
from optuna.samplers import BaseSampler, RandomSampler
from optuna.trial import FixedTrial, FrozenTrial, TrialState

from sweep.errors import SweepError, UsageError
from sweep.machine.seeds import derive_seed
from sweep.search.own_attributes import CLONE, DUPLICATE, ENTERED, LANE_CONFIG, OwnAttributes
from sweep.search.repeats import Known
from sweep.search.samplers import AskTellSampler
from sweep.search.shape_space import Follow, FollowingSampler
from sweep.search.unchanged import require_same_lane
from sweep.study.declaration import Study
from sweep.study.lane_config import LaneConfig

SAMPLER_ASKS = 10
"""Number of repeats in a row after which proposals are random. In a small space, a sampler repeats its favourites."""

MOST_ASKS = 100
"""Number of repeats in a row after which the space counts as exhausted."""

FIXED_PARAMS = "fixed_params"
"""Optuna's own attribute of a trial whose parameters were given."""


@dataclass(frozen=True)
class Proposal:
    """A trial that Optuna proposed, and the configuration that the study's `suggest` made of it.

    Attributes:
        number: Optuna's number of the trial.
        config: Configuration of its lane.
        params: Values of the parameters that `suggest` asked for, by name.
        distributions: Distributions of these parameters, by name.
        user_attrs: User attributes that `suggest` set.
        feasible: Whether the trial meets the constraints that `suggest` set.
        trial: Optuna's trial, to report results to; None if Optuna already knows how the trial ended.
        known: The trial as the storage held it, if an earlier process asked for it.
    """

    number: int
    config: LaneConfig
    params: dict[str, Any]
    distributions: dict[str, BaseDistribution]
    user_attrs: dict[str, Any]
    feasible: bool
    trial: optuna.Trial | None
    known: FrozenTrial | None = None


class Proposals:
    """The trials of a search, one after the other: the baseline, those that were enqueued, then the sampler's.

    Args:
        optuna_study: Optuna's study, empty or as an earlier process left it.
        study: The study to search.
        sampler: The sampler of the Optuna study.
        enqueued: Parameters of trials that follow the baseline; the sampler chooses the parameters that are missing.

    Attributes:
        own: Names of sweep's own attributes of Optuna's trials.
        n_given: Number of trials to begin with: the baseline and those that were enqueued.
        n_asked: Number of trials that Optuna was asked for, including repeats.
        n_dropped: Number of repeats. Optuna was told that they failed, with `duplicate_of` as an attribute.
        n_clones: Number of clones that the user has asked for.
        exhausted: Whether nothing new is left to propose.
        accepted: The proposals that were not repeats, in the order in which they were made.
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
        self.own = OwnAttributes.of(optuna_study)
        self.n_asked = 0
        self.n_dropped = 0
        self.n_clones = self._n_clones_asked = 0
        self.exhausted = False
        self.accepted: list[Proposal] = []
        self._of_config: dict[LaneConfig, int] = {}
        self._known = Known()
        self._may_wait = True
        self._random = AskTellSampler(lambda seed: RandomSampler(seed=seed), derive_seed(study.seed, "repeats"))
        recorded = optuna_study.get_trials(deepcopy=False)
        self._recorded = deque(trial for trial in recorded if trial.state != TrialState.WAITING)
        sampler.catch_up(optuna_study)
        n_begun = sum(FIXED_PARAMS in trial.system_attrs and not self.own.has(trial, CLONE) for trial in recorded)
        given = [study.baseline, *enqueued]
        self.n_given = len(given)
        self._first = deque(given[n_begun:])

    @property
    def clone_is_next(self) -> bool:
        """Whether the user has asked for a clone that was not proposed yet."""
        return self._n_clones_asked < self.n_clones

    def is_clone(self, user_attrs: Mapping[str, Any]) -> bool:
        """Whether these are the attributes of a clone that the user has asked for."""
        return self.own.name(CLONE) in user_attrs

    @property
    def clone_was_enqueued(self) -> bool:
        """Whether an earlier process enqueued the next clone before it was killed."""
        held = sum(self.own.has(trial, CLONE) for trial in self.optuna_study.get_trials(deepcopy=False))
        return held > self.n_clones

    def add_clone(self, of_trial: int, params: Mapping[str, Any]) -> None:
        """Make a clone the next proposal.

        Args:
            of_trial: Number of the trial that the clone varies.
            params: Its parameters; the sampler chooses those that are missing.
        """
        enqueued = self.clone_was_enqueued
        self.n_clones += 1
        if not enqueued:
            self.optuna_study.enqueue_trial(dict(params), user_attrs={self.own.name(CLONE): of_trial})
            self._may_wait = True

    def look_again(self) -> None:
        """Have the next proposal look at all trials in the storage: they have trained, and others may have added some.

        As long as this is not called, nothing may change there but what proposals themselves do.
        """
        self._may_wait = True
        self.sampler.look_again()

    def recall(self, n_asked: int) -> dict[int, Proposal]:
        """The proposals that `next` gave an earlier process among its first `n_asked` trials, by number.

        Raises:
            SweepError: The storage no longer holds these trials.
            UsageError: The study's `suggest` no longer accepts them, or makes other configurations of them.
        """
        n_held = self._recorded[-1].number + 1 if self._recorded else 0
        if n_held < n_asked:
            raise SweepError(
                f"the Optuna storage holds {n_held} trials, but this run had proposed {n_asked}. Give the storage "
                f"that it ran with, or run the study again with another --out"
            )
        accepted = {}
        while self.n_asked < n_asked:
            proposal = self._take_up(at_random=False)
            if proposal is not None and self._is_new(proposal):
                accepted[proposal.number] = proposal
        return accepted

    def next(self, *, clones_only: bool = False, follow: Follow | None = None) -> Proposal | None:
        """A configuration that was not proposed before; None if none can be found.

        Args:
            clones_only: Propose only the clones that the user has asked for.
            follow: Propose a lane of this shape, unless a clone that the user has asked for is waiting.

        Raises:
            UsageError: The study proposes a configuration that cannot be trained.
        """
        n_repeats = 0
        while n_repeats < MOST_ASKS:
            if follow is not None and n_repeats == SAMPLER_ASKS:
                return None  # nothing new of this shape; another shape may have more
            at_random = n_repeats >= SAMPLER_ASKS and not self.sampler.enumerates
            if clones_only and not self.clone_is_next:
                return None
            if self._recorded:
                proposal = self._take_up(at_random, follow)
            elif self.sampler.exhausted and not self.clone_is_next:
                break
            else:
                proposal = self._ask(at_random, follow)
            if proposal is not None:
                if self._is_new(proposal):
                    return proposal
                n_repeats += 1
        self.exhausted = True
        return None

    def _sampler(self, at_random: bool, follow: Follow | None) -> BaseSampler:
        sampler = self._random if at_random else self.sampler
        return sampler if follow is None else FollowingSampler(sampler, follow)

    def _ask(self, at_random: bool, follow: Follow | None) -> Proposal:
        """A new trial: the next of those to begin with, if there is one and the trial need not follow another."""
        if self._first and follow is None and not self.clone_is_next:
            self.optuna_study.enqueue_trial(dict(self._first.popleft()))
            self._may_wait = True
        with self._sampling_with(self._sampler(at_random, follow)):
            trial = self._new_trial()
            self.n_asked = trial.number + 1
            return self._proposal(trial, trial)

    def _new_trial(self) -> optuna.Trial:
        """What `Study.ask` gives. That looks through all trials for waiting ones, and here it is known if there are."""
        if self._may_wait:
            trial = self.optuna_study.ask()
            waiting = self.optuna_study.get_trials(deepcopy=False, states=(TrialState.WAITING,))
            self._may_wait = bool(waiting)
            return trial
        self.optuna_study._thread_local.cached_all_trials = None
        return optuna.Trial(self.optuna_study, self.optuna_study._storage.create_new_trial(self.optuna_study._study_id))

    def _take_up(self, at_random: bool, follow: Follow | None = None) -> Proposal | None:
        """The next trial that an earlier process asked for; None if `suggest` failed on it.

        Raises:
            UsageError: `suggest` makes another configuration of a trial that has entered the search.
        """
        known = self._recorded.popleft()
        self.n_asked = known.number + 1
        params, trial = known.params, None
        drawn = self.own.has(known, ENTERED) or self.own.has(known, DUPLICATE)
        if known.state.is_finished():
            if not drawn:
                return None
        elif drawn:
            with self._sampling_with(RandomSampler()):  # has nothing to sample
                trial = optuna.trial.Trial(self.optuna_study, known._trial_id)
        else:
            with self._sampling_with(self._sampler(at_random, follow)):
                trial = optuna.trial.Trial(self.optuna_study, known._trial_id)
                self.study.lane_config(trial)
                params = trial.params
        asked = FixedTrial(params, known.number)
        if self.own.has(known, CLONE):
            asked.set_user_attr(self.own.name(CLONE), self.own.get(known, CLONE))
        proposal = self._proposal(asked, trial, known)
        if self.own.prefix and self.own.has(known, LANE_CONFIG):
            require_same_lane(known.number, proposal.config, self.own.get(known, LANE_CONFIG))
        return proposal

    @contextlib.contextmanager
    def _sampling_with(self, sampler: BaseSampler) -> Iterator[None]:
        self.optuna_study.sampler = sampler
        try:
            yield
        finally:
            self.optuna_study.sampler = self.sampler

    def _proposal(
        self, asked: optuna.Trial | FixedTrial, trial: optuna.Trial | None, known: FrozenTrial | None = None
    ) -> Proposal:
        """Let the study's `suggest` make a lane's configuration from a trial."""
        try:
            config = self.study.lane_config(asked)
        except UsageError:
            if trial is not None and known is None:
                self.optuna_study.tell(trial, state=TrialState.FAIL)
            raise
        feasible = all(value <= 0 for value in asked.constraints.values())
        params, distributions, user_attrs = dict(asked.params), dict(asked.distributions), dict(asked.user_attrs)
        return Proposal(asked.number, config, params, distributions, user_attrs, feasible, trial, known)

    def _is_new(self, proposal: Proposal) -> bool:
        """Accept a proposal, unless it repeats another; Optuna is told that a repeat failed."""
        is_clone = self.is_clone(proposal.user_attrs)
        self._n_clones_asked += is_clone
        twin = self._of_config.get(proposal.config) if is_clone else self._twin(proposal)
        if twin is None:
            self.accepted.append(replace(proposal, trial=None, known=None))  # Optuna's objects are large
            self._of_config[proposal.config] = proposal.number
            self._known.add(proposal.number, proposal.params, proposal.distributions)
            return True
        if proposal.trial is not None:
            proposal.trial.set_user_attr(self.own.name(DUPLICATE), twin)
            self.optuna_study.tell(proposal.trial, state=TrialState.FAIL)
        self.n_dropped += 1
        return False

    def _twin(self, proposal: Proposal) -> int | None:
        """Number of a trial that this one repeats."""
        if proposal.config in self._of_config:
            return self._of_config[proposal.config]
        return self._known.nearly_alike(proposal.params, proposal.distributions)
