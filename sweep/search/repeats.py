"""Finds the trials that hardly differ from a new one, among all trials so far."""

import math
from collections import defaultdict
from collections.abc import Hashable, Mapping
from typing import Any

import numpy as np
import numpy.typing as npt
from optuna.distributions import BaseDistribution, FloatDistribution, IntDistribution

NEAR = 0.002
"""Two trials count as the same if no parameter differs by more than this share of its range. A space of one continuous
parameter then has room for some 500 trials."""

ROUNDING = 1.001
"""Values are first compared all at once, with a tolerance so much larger, and then exactly."""


class Known:
    """The parameters of all trials so far, in groups of trials with the same names and categories."""

    def __init__(self) -> None:
        self._groups: defaultdict[Hashable, _Group] = defaultdict(_Group)

    def add(self, number: int, params: Mapping[str, Any], distributions: Mapping[str, BaseDistribution]) -> None:
        """Add a trial."""
        numeric = _numeric(distributions)
        self._groups[_group(params, numeric)].add(number, params, [float(params[name]) for name in numeric])

    def nearly_alike(self, params: Mapping[str, Any], distributions: Mapping[str, BaseDistribution]) -> int | None:
        """Number of the first trial whose parameters hardly differ from these; None if there is none."""
        if not params:
            return None
        numeric = _numeric(distributions)
        group = self._groups.get(_group(params, numeric))
        if group is None:
            return None
        near = np.ones(len(group.numbers), dtype=bool)
        for values, (name, distribution) in zip(group.values.T, numeric.items(), strict=True):
            low, high = _around(distribution, params[name])
            near &= (values >= low) & (values <= high)
        return next(
            (
                group.numbers[place]
                for place in np.flatnonzero(near).tolist()
                if _all_near(params, group.params[place], distributions)
            ),
            None,
        )


class _Group:
    """Trials with the same names and categories.

    Attributes:
        numbers: Their numbers.
        params: Their parameters.
    """

    def __init__(self) -> None:
        self.numbers: list[int] = []
        self.params: list[Mapping[str, Any]] = []
        self._values: npt.NDArray[np.float64] = np.empty((16, 0))

    @property
    def values(self) -> npt.NDArray[np.float64]:
        """Values of the numeric parameters in the order of their names, `(trials, parameters)`."""
        return self._values[: len(self.numbers)]

    def add(self, number: int, params: Mapping[str, Any], values: list[float]) -> None:
        """Add a trial."""
        if not self.numbers or len(self.numbers) == len(self._values):
            larger = np.empty((2 * len(self._values), len(values)))
            larger[: len(self.numbers), : self._values.shape[1]] = self.values
            self._values = larger
        self._values[len(self.numbers)] = values
        self.numbers.append(number)
        self.params.append(params)


def _numeric(distributions: Mapping[str, BaseDistribution]) -> dict[str, FloatDistribution | IntDistribution]:
    """The numeric ones of some distributions, in the order of their names."""
    return {
        name: distribution
        for name, distribution in sorted(distributions.items())
        if isinstance(distribution, FloatDistribution | IntDistribution)
    }


def _group(params: Mapping[str, Any], numeric: Mapping[str, object]) -> Hashable:
    return tuple((name, None if name in numeric else value) for name, value in sorted(params.items()))


def _around(distribution: FloatDistribution | IntDistribution, value: float) -> tuple[float, float]:
    """Bounds between which all values lie that hardly differ from a value."""
    if distribution.single():
        return -math.inf, math.inf
    if distribution.log:
        factor = math.exp(ROUNDING * NEAR * (math.log(distribution.high) - math.log(distribution.low)))
        return value / factor, value * factor
    reach = ROUNDING * NEAR * (distribution.high - distribution.low)
    return value - reach, value + reach


def _all_near(a: Mapping[str, Any], b: Mapping[str, Any], distributions: Mapping[str, BaseDistribution]) -> bool:
    return all(_distance(distributions[name], value, b[name]) <= NEAR for name, value in a.items())


def _distance(distribution: BaseDistribution, a: Any, b: Any) -> float:
    """Distance of two values as a share of the distribution's range: 0 or infinity for categories."""
    if not isinstance(distribution, FloatDistribution | IntDistribution):
        return 0.0 if a == b else math.inf
    if distribution.single():
        return 0.0
    scale = math.log if distribution.log else float
    return abs(scale(a) - scale(b)) / (scale(distribution.high) - scale(distribution.low))
