"""Calls a study's `suggest` without an Optuna study: nothing is recorded, and no sampler learns from it."""

import warnings
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

import optuna
from optuna.distributions import BaseDistribution, CategoricalDistribution, FloatDistribution, IntDistribution
from optuna.samplers import RandomSampler
from optuna.trial import FixedTrial

from sweep.errors import UsageError
from sweep.study.declaration import Study
from sweep.study.fixed import asked_trial
from sweep.study.lane_config import LaneConfig

SURVEYED = 256
"""Number of random configurations that are drawn to see which shapes and ranks a study has."""

KEPT = "_surveyed_configs"
"""Attribute of a study with the configurations that were drawn."""


class _RehearsedTrial(FixedTrial):
    """A trial with some parameters fixed; the others are drawn at random when `suggest` asks for them."""

    def __init__(self, params: Mapping[str, Any], seed: int):
        self._given = dict(params)
        self._sampler = RandomSampler(seed=seed)
        super().__init__(self._given)

    def suggest_float(
        self, name: str, low: float, high: float, *, step: float | None = None, log: bool = False
    ) -> float:
        self._draw(name, FloatDistribution(low, high, log=log, step=step))
        return super().suggest_float(name, low, high, step=step, log=log)

    def suggest_int(self, name: str, low: int, high: int, *, step: int = 1, log: bool = False) -> int:
        self._draw(name, IntDistribution(low, high, log=log, step=step))
        return super().suggest_int(name, low, high, step=step, log=log)

    def suggest_categorical(self, name: str, choices: Any) -> Any:
        self._draw(name, CategoricalDistribution(tuple(choices)))
        return super().suggest_categorical(name, choices)

    def _draw(self, name: str, distribution: BaseDistribution) -> None:
        if name not in self._given:
            blank = optuna.trial.create_trial(state=optuna.trial.TrialState.WAITING)
            study: Any = None  # a random sampler looks at neither
            self._given[name] = self._sampler.sample_independent(study, blank, name, distribution)


class _AnsweredTrial(_RehearsedTrial):
    """A rehearsed trial whose fixed parameters take the only choice that there is."""

    def suggest_categorical(self, name: str, choices: Any) -> Any:
        if len(choices) == 1:
            self._given[name] = choices[0]
        return super().suggest_categorical(name, choices)


@dataclass(frozen=True)
class Asked:
    """What a study's `suggest` has done with a trial.

    Attributes:
        config: What it returned.
        params: The parameters that it asked for, with the values that it got as they are stored.
    """

    config: Any
    params: dict[str, Any]


def asked(study: Study, suggest: Callable[..., Any], params: Mapping[str, Any], *, seed: int = 0) -> Asked:
    """Ask a `suggest` for a configuration; it raises what it raises.

    Args:
        study: The study. What it fixes replaces values of `params`.
        suggest: The study's `suggest`, or that of one of its other tasks.
        params: Values by parameter. Other parameters that `suggest` asks for are drawn at random.
        seed: Seed of the draws.
    """
    trial = _AnsweredTrial(params, seed)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # Optuna warns about values out of range
        config = suggest(asked_trial(study, trial))
    return Asked(config, dict(trial.params))


def rehearse(study: Study, params: Mapping[str, Any], *, seed: int = 0) -> LaneConfig:
    """Ask `suggest` for one configuration.

    Args:
        study: The study to search.
        params: Values by parameter. Other parameters that `suggest` asks for are drawn at random.
        seed: Seed of these draws.

    Raises:
        UsageError: `suggest` refuses these values.
    """
    return study.lane_config(_RehearsedTrial(params, seed))


def surveyed_configs(study: Study) -> list[LaneConfig]:
    """Configurations drawn at random from the study's space, the baseline first. Every call gives the same ones.

    Draws that `suggest` refuses are left out. The configurations are kept with the study, because several parts of a
    run ask for them and the draws take time.
    """
    if KEPT not in vars(study):
        drawn = (_drawn(study, number) for number in range(SURVEYED))
        keep_survey(study, [config for config in drawn if config is not None])
    configs: list[LaneConfig] = vars(study)[KEPT]
    return configs


def _drawn(study: Study, number: int) -> LaneConfig | None:
    """Draw one configuration; number 0 is the baseline. Return None if `suggest` refuses it."""
    try:
        return rehearse(study, {} if number else study.baseline, seed=number)
    except UsageError:
        return None


def keep_survey(study: Study, configs: list[LaneConfig]) -> None:
    """Keep configurations with a study that has the same space as the one they were drawn for."""
    vars(study)[KEPT] = configs
