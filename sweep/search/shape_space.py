"""Finds the parameters of a study that decide a lane's shape, and makes proposals that have the shape of another one.

`suggest` is a function that the user wrote, so these parameters are found by trying: if one parameter is changed, does
`suggest` return a lane of another shape?
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from typing import Any

import numpy as np
import optuna
from optuna.distributions import BaseDistribution, CategoricalDistribution, FloatDistribution, IntDistribution
from optuna.samplers import BaseSampler
from optuna.trial import FrozenTrial, TrialState

from sweep.errors import UsageError
from sweep.search.samplers import AskTellSampler
from sweep.study.declaration import Study
from sweep.study.lane_config import LaneConfig
from sweep.study.rehearsal import rehearse, surveyed_configs
from sweep.study.shape import Shape, shape_of

TRIED_VALUES = 9
"""Number of values of a numeric parameter to try, spread evenly over its range."""

DRAWS = 16
"""Number of draws of a parameter that decides the shape. If none keeps the shape, the lead's value is used."""


@dataclass(frozen=True)
class Follow:
    """How to propose more lanes of a shape.

    Attributes:
        fixed: Parameters that decide the shape, with values that give this shape.
        keeps: Says whether another value of such a parameter gives the same shape.
    """

    fixed: Mapping[str, Any]
    keeps: Callable[[str, Any], bool]


class ShapeSpace:
    """The shapes that a study's space has.

    Args:
        study: The study to search.
    """

    def __init__(self, study: Study):
        self.study = study

    @cached_property
    def shapes(self) -> list[Shape]:
        """Shapes of random draws from the space, not counting ranks. The baseline's shape comes first."""
        shapes = (shape_of(self.study, config) for config in surveyed_configs(self.study))
        return list(dict.fromkeys(replace(shape, padded_rank=1) for shape in shapes))

    @property
    def varies(self) -> bool:
        """Whether lanes will have several shapes, not counting ranks.

        If only ranks differ, no followers are needed: the rank buckets are chosen so that ordinary proposals fill the
        stack of each bucket.
        """
        return len(self.shapes) > 1

    def described(self, config: LaneConfig) -> str:
        """The shape of a lane in words: only what differs between the study's shapes, not counting ranks."""
        return replace(shape_of(self.study, config), padded_rank=1).described(self.shapes)

    def follow(self, params: Mapping[str, Any], distributions: Mapping[str, BaseDistribution]) -> Follow:
        """How to propose more lanes of the shape that these parameters give.

        Args:
            params: Values by parameter.
            distributions: Distributions by parameter.
        """
        shape = shape_of(self.study, rehearse(self.study, params))
        known: dict[tuple[str, Any], bool] = {}

        def keeps(name: str, value: Any) -> bool:
            if (name, value) not in known:
                known[name, value] = self._shape({**params, name: value}) == shape
            return known[name, value]

        deciding = [
            name
            for name, distribution in distributions.items()
            if not all(keeps(name, value) for value in _tried(distribution))
        ]
        return Follow({name: params[name] for name in deciding}, keeps)

    def _shape(self, params: Mapping[str, Any]) -> Shape | None:
        """The shape that these parameters give; None if `suggest` refuses them."""
        try:
            return shape_of(self.study, rehearse(self.study, params))
        except UsageError:
            return None


def _tried(distribution: BaseDistribution) -> list[Any]:
    """Values of a parameter that show whether it decides the shape."""
    if isinstance(distribution, CategoricalDistribution):
        return list(distribution.choices)
    assert isinstance(distribution, IntDistribution | FloatDistribution)
    if distribution.single():
        return [distribution.low]
    if isinstance(distribution, IntDistribution):
        steps = np.arange(distribution.low, distribution.high + 1, distribution.step)
        return [int(v) for v in steps[np.unique(np.linspace(0, len(steps) - 1, TRIED_VALUES).round().astype(int))]]
    scale = np.geomspace if distribution.log else np.linspace
    values = scale(distribution.low, distribution.high, TRIED_VALUES)
    if distribution.step is not None:
        values = distribution.low + ((values - distribution.low) / distribution.step).round() * distribution.step
    return [float(v) for v in values.clip(distribution.low, distribution.high)]


class FollowingSampler(BaseSampler):
    """A sampler whose proposals have the shape of an earlier one, like Optuna's `PartialFixedSampler` for ask and tell.

    A parameter that decides the shape is drawn from the sampler's own model until its value keeps the shape. So a rank
    may still be any rank of its bucket. The sampler chooses all other parameters freely.

    Args:
        sampler: The sampler that proposes.
        follow: The shape to keep.
    """

    def __init__(self, sampler: AskTellSampler, follow: Follow):
        self.sampler, self.follow = sampler, follow

    def infer_relative_search_space(self, study: optuna.Study, trial: FrozenTrial) -> dict[str, BaseDistribution]:
        """See `BaseSampler`. Leaves out the parameters that decide the shape."""
        space = self.sampler.infer_relative_search_space(study, trial)
        return {name: distribution for name, distribution in space.items() if name not in self.follow.fixed}

    def sample_relative(
        self, study: optuna.Study, trial: FrozenTrial, search_space: dict[str, BaseDistribution]
    ) -> dict[str, Any]:
        """See `BaseSampler`."""
        return self.sampler.sample_relative(study, trial, search_space)

    def sample_independent(
        self, study: optuna.Study, trial: FrozenTrial, param_name: str, param_distribution: BaseDistribution
    ) -> Any:
        """See `BaseSampler`. Parameters that decide the shape get values that keep it."""
        if param_name not in self.follow.fixed:
            return self.sampler.sample_independent(study, trial, param_name, param_distribution)
        for attempt in range(DRAWS):
            value = self.sampler.draw(study, trial, param_name, param_distribution, attempt)
            if self.follow.keeps(param_name, value):
                return value
        return self.follow.fixed[param_name]

    def before_trial(self, study: optuna.Study, trial: FrozenTrial) -> None:
        """See `BaseSampler`."""
        self.sampler.before_trial(study, trial)

    def after_trial(
        self, study: optuna.Study, trial: FrozenTrial, state: TrialState, values: Sequence[float] | None
    ) -> None:
        """See `BaseSampler`."""
        self.sampler.after_trial(study, trial, state, values)
