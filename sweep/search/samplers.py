"""Optuna's samplers by name, or any sampler object, adapted to a search that uses Optuna's ask-and-tell interface.

A search can be killed at any time and resumed by another process, which must get the same proposals. So a sampler given
by name keeps no random state: its draws for a trial depend only on the study's seed, the trial's number and the trials
in Optuna's storage.
"""

import contextlib
import warnings
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any, cast

import optuna
from optuna.distributions import BaseDistribution
from optuna.samplers import BaseSampler, BruteForceSampler, GridSampler
from optuna.trial import FrozenTrial, TrialState

from sweep.errors import UsageError
from sweep.machine.seeds import derive_seed
from sweep.search.seen_trials import SeenStudy, SeenTrials
from sweep.search.tpe import RememberingTpe
from sweep.study.declaration import Study

_BY_NAME: dict[str, Callable[[int], BaseSampler]] = {
    "gp": lambda seed: optuna.samplers.GPSampler(seed=seed),
    "random": lambda seed: optuna.samplers.RandomSampler(seed=seed),
    "nsga2": lambda seed: optuna.samplers.NSGAIISampler(seed=seed),
    "qmc": lambda seed: optuna.samplers.QMCSampler(seed=seed, warn_independent_sampling=False),
    "cmaes": lambda seed: optuna.samplers.CmaEsSampler(seed=seed, warn_independent_sampling=False),
}
SAMPLERS = ("tpe", *_BY_NAME, "grid")
ONE_OBJECTIVE = ("cmaes",)


@contextlib.contextmanager
def experiments_allowed() -> Iterator[None]:
    """Silence Optuna's warnings about features that may change in a later version; sweep pins its version."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", optuna.exceptions.ExperimentalWarning)
        yield


class AskTellSampler(BaseSampler):
    """A sampler whose draws depend on the trial's number, and that works outside `Study.optimize`.

    Samplers of finite spaces call `Study.stop` when the space is exhausted, and Optuna raises an error if that happens
    outside `Study.optimize`. Here the call only sets `exhausted`.

    Args:
        sampler_of: Gives a sampler for a seed; always the same object if the sampler has random state of its own.
        seed: Seed from which the seeds of all draws are derived.
        seen: What the sampler is to see of the trials, if not all of them as they are.

    Attributes:
        enumerates: Whether the sampler enumerates a finite space.
        exhausted: Whether the sampler has asked to end the study.
    """

    def __init__(self, sampler_of: Callable[[int], BaseSampler], seed: int, seen: SeenTrials | None = None):
        self._sampler_of = sampler_of
        self._seed = seed
        self._seen_trials = seen
        self._seen_study: SeenStudy | None = None
        self._asked: list[int] = []
        self._others_changed = True
        with experiments_allowed():
            self._any = sampler_of(seed % 2**32)
        self.enumerates = isinstance(self._any, GridSampler | BruteForceSampler)
        self.exhausted = False

    def catch_up(self, study: optuna.Study) -> None:
        """Set `exhausted` for a study that an earlier process began."""
        self.exhausted = isinstance(self._any, GridSampler) and self._any.is_exhausted(study)

    def _for(self, trial: FrozenTrial, purpose: str) -> BaseSampler:
        with experiments_allowed():
            return self._sampler_of(derive_seed(self._seed, purpose, trial.number) % 2**32)

    def _seen(self, study: optuna.Study) -> optuna.Study:
        """The study as the sampler should see it."""
        if self._seen_trials is None:
            return study
        if self._seen_study is None and self._others_changed:
            self._seen_study, self._others_changed = self._seen_trials.of(study), False
        elif self._seen_study is None:
            self._seen_study = self._seen_trials.of_asked(study, self._asked[:-1])
        self._asked = self._asked[-1:]
        return cast("optuna.Study", self._seen_study)

    def infer_relative_search_space(self, study: optuna.Study, trial: FrozenTrial) -> dict[str, BaseDistribution]:
        """See `BaseSampler`."""
        return self._for(trial, "relative").infer_relative_search_space(self._seen(study), trial)

    def sample_relative(
        self, study: optuna.Study, trial: FrozenTrial, search_space: dict[str, BaseDistribution]
    ) -> dict[str, Any]:
        """See `BaseSampler`."""
        return self._for(trial, "relative").sample_relative(self._seen(study), trial, search_space)

    def sample_independent(
        self, study: optuna.Study, trial: FrozenTrial, param_name: str, param_distribution: BaseDistribution
    ) -> Any:
        """See `BaseSampler`. The draw of a parameter does not depend on which others were drawn before."""
        return self.draw(study, trial, param_name, param_distribution, 0)

    def draw(
        self, study: optuna.Study, trial: FrozenTrial, param_name: str, distribution: BaseDistribution, attempt: int
    ) -> Any:
        """Sample a parameter independently of the others; every attempt gives another draw."""
        again = f" attempt {attempt}" if attempt else ""
        sampler = self._for(trial, f"parameter {param_name}{again}")
        return sampler.sample_independent(self._seen(study), trial, param_name, distribution)

    def before_trial(self, study: optuna.Study, trial: FrozenTrial) -> None:
        """See `BaseSampler`. While this trial is drawn, no other one changes."""
        self._seen_study = None
        self._asked.append(trial._trial_id)
        self._for(trial, "before").before_trial(study, trial)

    def look_again(self) -> None:
        """Have the next draw look at all trials, since others than those that were asked for have changed."""
        self._others_changed = True

    def after_trial(
        self, study: optuna.Study, trial: FrozenTrial, state: TrialState, values: Sequence[float] | None
    ) -> None:
        """See `BaseSampler`. A call of `Study.stop` sets `exhausted`."""
        self.look_again()
        if isinstance(self._any, GridSampler) and "grid_id" not in trial.system_attrs:
            return  # an enqueued trial has no place in the grid, and the grid sampler would look for one
        try:
            self._for(trial, "after").after_trial(study, trial, state, values)
        except RuntimeError as error:
            if "Study.stop" not in str(error):
                raise
            self.exhausted = True


def make_sampler(
    sampler: str | BaseSampler,
    *,
    seed: int,
    grid: Mapping[str, Sequence[Any]] | None,
    n_objectives: int,
    rungs: Sequence[int] = (),
) -> AskTellSampler:
    """The sampler of a study.

    Args:
        sampler: One of `SAMPLERS`, or a sampler object from Optuna or from the user. An object has its own seed, and
            what it keeps in memory is lost when a run is killed.
        seed: Seed of a sampler that is given by name.
        grid: Values by parameter, for `grid`.
        n_objectives: Number of objectives of the study.
        rungs: Epochs at which trials are compared. TPE learns from them if the study has one objective.

    Raises:
        UsageError: The name is unknown, or its sampler cannot serve this study.
    """
    if isinstance(sampler, BaseSampler):
        return AskTellSampler(lambda _: sampler, seed)
    if sampler in ONE_OBJECTIVE and n_objectives > 1:
        raise UsageError(
            f"--sampler {sampler} is for one objective, but the study has {n_objectives}; give tpe, gp, nsga2 or random"
        )
    if sampler == "grid":
        if not grid:
            raise UsageError(
                "--sampler grid needs values: declare grid={'lr': [1e-4, 1e-3], …} in the study, one list per parameter"
            )
        values = {name: list(grid[name]) for name in grid}
        # one seed for all draws: it decides the order of the grid's points
        return AskTellSampler(lambda _: optuna.samplers.GridSampler(values, seed=seed % 2**32), seed)
    if sampler not in SAMPLERS:
        raise UsageError(f"--sampler must be one of {', '.join(SAMPLERS)}, not {sampler!r}")
    if sampler == "tpe":
        return AskTellSampler(RememberingTpe().seeded, seed, SeenTrials(rungs) if n_objectives == 1 else None)
    return AskTellSampler(_BY_NAME[sampler], seed)


def sampler_of(study: Study) -> AskTellSampler:
    """The sampler that a study declares; errors as `make_sampler`."""
    return make_sampler(
        study.sampler,
        seed=derive_seed(study.seed, "sampler"),
        grid=study.grid,
        n_objectives=len(study.ranking.names),
        rungs=study.halving.rungs(study.epochs) if study.halving else (),
    )
