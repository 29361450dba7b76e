"""Optuna's samplers by name, or any sampler object, made fit for a search that asks and tells by itself."""

import contextlib
import warnings
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any

import optuna
from optuna.distributions import BaseDistribution
from optuna.samplers import BaseSampler
from optuna.trial import FrozenTrial, TrialState

from sweep.errors import UsageError

_BY_NAME: dict[str, Callable[[int], BaseSampler]] = {
    "tpe": lambda seed: optuna.samplers.TPESampler(seed=seed),
    "gp": lambda seed: optuna.samplers.GPSampler(seed=seed),
    "random": lambda seed: optuna.samplers.RandomSampler(seed=seed),
    "nsga2": lambda seed: optuna.samplers.NSGAIISampler(seed=seed),
    "qmc": lambda seed: optuna.samplers.QMCSampler(seed=seed, warn_independent_sampling=False),
    "cmaes": lambda seed: optuna.samplers.CmaEsSampler(seed=seed, warn_independent_sampling=False),
}
SAMPLERS = (*_BY_NAME, "grid")
ONE_OBJECTIVE = ("cmaes",)


@contextlib.contextmanager
def experiments_allowed() -> Iterator[None]:
    """Optuna warns of whatever may still change between its versions; ours is pinned."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", optuna.exceptions.ExperimentalWarning)
        yield


class AskTellSampler(BaseSampler):
    """A sampler whose wish to end the study is noted instead of raised.

    Samplers of finite spaces call `Study.stop`, which Optuna forbids outside `Study.optimize`.

    Args:
        sampler: The one that does the work.

    Attributes:
        exhausted: Whether it has asked to end the study.
    """

    def __init__(self, sampler: BaseSampler):
        self.sampler = sampler
        self.exhausted = False

    def infer_relative_search_space(self, study: optuna.Study, trial: FrozenTrial) -> dict[str, BaseDistribution]:
        """As `BaseSampler`."""
        return self.sampler.infer_relative_search_space(study, trial)

    def sample_relative(
        self, study: optuna.Study, trial: FrozenTrial, search_space: dict[str, BaseDistribution]
    ) -> dict[str, Any]:
        """As `BaseSampler`."""
        return self.sampler.sample_relative(study, trial, search_space)

    def sample_independent(
        self, study: optuna.Study, trial: FrozenTrial, param_name: str, param_distribution: BaseDistribution
    ) -> Any:
        """As `BaseSampler`."""
        return self.sampler.sample_independent(study, trial, param_name, param_distribution)

    def reseed_rng(self) -> None:
        """As `BaseSampler`."""
        self.sampler.reseed_rng()

    def before_trial(self, study: optuna.Study, trial: FrozenTrial) -> None:
        """As `BaseSampler`."""
        self.sampler.before_trial(study, trial)

    def after_trial(
        self, study: optuna.Study, trial: FrozenTrial, state: TrialState, values: Sequence[float] | None
    ) -> None:
        """As `BaseSampler`, with `Study.stop` noted."""
        try:
            self.sampler.after_trial(study, trial, state, values)
        except RuntimeError as error:
            if "Study.stop" not in str(error):
                raise
            self.exhausted = True


def make_sampler(
    sampler: str | BaseSampler, *, seed: int, grid: Mapping[str, Sequence[Any]] | None, n_objectives: int
) -> AskTellSampler:
    """The sampler of a study.

    Args:
        sampler: One of `SAMPLERS`, or an object of Optuna's or of the user's own, which brings its own seed.
        seed: For a sampler by name.
        grid: Values by parameter, for `grid`.
        n_objectives: Of the study.

    Raises:
        UsageError: The name is unknown, or its sampler cannot serve this study.
    """
    if isinstance(sampler, BaseSampler):
        return AskTellSampler(sampler)
    if sampler in ONE_OBJECTIVE and n_objectives > 1:
        raise UsageError(
            f"--sampler {sampler} serves one objective, and the study has {n_objectives}; give tpe, gp, nsga2 or random"
        )
    seed %= 2**32
    if sampler == "grid":
        if not grid:
            raise UsageError(
                "--sampler grid needs values: declare grid={'lr': [1e-4, 1e-3], …} in the study, one list a parameter"
            )
        return AskTellSampler(optuna.samplers.GridSampler({name: list(grid[name]) for name in grid}, seed=seed))
    if sampler not in _BY_NAME:
        raise UsageError(f"--sampler must be one of {', '.join(SAMPLERS)}, not {sampler!r}")
    with experiments_allowed():
        return AskTellSampler(_BY_NAME[sampler](seed))
