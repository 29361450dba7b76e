"""Log densities of TPE's models are those that Optuna computes, bit for bit."""

import math

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from optuna.distributions import BaseDistribution, CategoricalDistribution, FloatDistribution, IntDistribution
from optuna.samplers import TPESampler
from optuna.samplers._tpe.parzen_estimator import _ParzenEstimator

from sweep.search import tpe_density
from sweep.search.tpe_density import MANY, DensityOf, Floats

PARAMS: list[BaseDistribution] = [
    FloatDistribution(1e-4, 1e-1, log=True),
    CategoricalDistribution(["a", "b", "c"]),
    FloatDistribution(-3.0, 5.0),
    CategoricalDistribution([True, False]),
    FloatDistribution(0.5, 10, log=True),
    FloatDistribution(0.0, 0.2),
]
PARAMETERS = TPESampler(multivariate=True)._parzen_estimator_parameters


def values_of(rng: np.random.Generator, distribution: BaseDistribution, n: int) -> Floats:
    if isinstance(distribution, CategoricalDistribution):
        return rng.integers(0, len(distribution.choices), n).astype(float)
    assert isinstance(distribution, FloatDistribution | IntDistribution)
    if isinstance(distribution, IntDistribution):
        return rng.integers(distribution.low, distribution.high + 1, n).astype(float)
    shares = np.round(rng.random(n), 3)  # some values are equal, and some lie on a bound
    if distribution.log:
        return np.clip(
            distribution.low * (distribution.high / distribution.low) ** shares, distribution.low, distribution.high
        )
    return distribution.low + (distribution.high - distribution.low) * shares


@settings(max_examples=20)
@given(
    st.integers(0, 2**32 - 1),
    st.integers(1, len(PARAMS)),
    st.sampled_from([0, 1, 5, 60, MANY // 4 - 3, MANY // 4 - 2, MANY // 3 - 2, 700, 1200]),
)
def test_densities_are_those_of_optuna_while_trials_come_and_go(seed: int, n_params: int, n_trials: int) -> None:
    rng = np.random.default_rng(seed)
    space = {str(place): PARAMS[place] for place in rng.permutation(len(PARAMS))[:n_params]}
    of_trials = {name: values_of(rng, distribution, n_trials + 5) for name, distribution in space.items()}
    density = DensityOf(n_params)
    for first in range(3):
        trials = np.arange(first, 2 * first + n_trials)  # one more each time
        model = _ParzenEstimator({name: values[trials] for name, values in of_trials.items()}, space, PARAMETERS)
        samples = model.sample(np.random.RandomState(seed % 1000), 24)
        for name, distribution in space.items():
            if isinstance(distribution, FloatDistribution):
                samples[name][0] = math.nextafter(distribution.high, math.inf)  # as sampling may round
        np.testing.assert_array_equal(density(model, trials, samples), model.log_pdf(samples))


@pytest.mark.parametrize("n_numbers", [2, tpe_density.MOST_SUMMED, tpe_density.MOST_SUMMED + 5])
@pytest.mark.parametrize("steps", [False, True])
def test_densities_of_many_numbers_and_of_numbers_with_steps(n_numbers: int, steps: bool) -> None:
    rng = np.random.default_rng(0)
    space: dict[str, BaseDistribution] = {str(place): FloatDistribution(0.0, 1.0) for place in range(n_numbers)}
    if steps:
        space["steps"] = IntDistribution(1, 9)
    of_trials = {name: values_of(rng, distribution, 300) for name, distribution in space.items()}
    model = _ParzenEstimator(of_trials, space, PARAMETERS)
    samples = model.sample(np.random.RandomState(0), 24)
    np.testing.assert_array_equal(DensityOf(len(space))(model, range(300), samples), model.log_pdf(samples))
