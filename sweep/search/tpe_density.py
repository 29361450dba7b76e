"""The log density of TPE's models: Optuna's numbers, bit for bit, in less time.

A model is a mixture with a kernel for every trial. From one proposal to the next, hardly any kernel changes. Optuna
computes the mass of every kernel within its bounds again for each proposal, and the logarithm of a category's weight
for each sample. Here masses are kept while kernels stay the same, and what remains is computed in place.
"""

from collections.abc import Sequence
from typing import Any

import numpy as np
import numpy.typing as npt
from optuna.samplers._tpe._erf import _erf_right_non_big
from optuna.samplers._tpe._truncnorm import _log_gauss_mass, _norm_pdf_logC
from optuna.samplers._tpe.probability_distributions import (
    _BatchedCategoricalDistributions,
    _BatchedTruncLogNormDistributions,
    _BatchedTruncNormDistributions,
)

Floats = npt.NDArray[np.float64]
Numbers = npt.NDArray[np.int64]

CONTINUOUS = (_BatchedTruncNormDistributions, _BatchedTruncLogNormDistributions)

MOST_SUMMED = 7
"""NumPy adds up to so many numbers one after the other; longer sums are made of parts."""

MANY = 2000
"""For so many kernels, or more, Optuna uses another approximation of the error function, which differs in last bits."""


class DensityOf:
    """Log densities of models with the same parameters.

    Args:
        n_params: Number of parameters.
    """

    def __init__(self, n_params: int):
        self._kernels = [_Kernels() for _ in range(n_params)]

    def __call__(self, model: Any, trials: Sequence[int] | Numbers, samples: dict[str, Floats]) -> Floats:
        """What `model.log_pdf(samples)` gives, `(samples,)`.

        Args:
            model: A Parzen estimator of Optuna's.
            trials: Numbers of the trials that its kernels stand for. The last kernel, the prior, stands for none.
            samples: Values by parameter, `(samples,)`.
        """
        mixture = model._mixture_distribution
        continuous = [one for one in mixture.distributions if type(one) in CONTINUOUS]
        n_categories = sum(type(one) is _BatchedCategoricalDistributions for one in mixture.distributions)
        if len(continuous) > MOST_SUMMED or len(continuous) + n_categories < len(mixture.distributions):
            return np.asarray(model.log_pdf(samples))  # parameters with steps
        many = sum(_n_central(one) for one in continuous) >= MANY
        rows = np.append(np.asarray(trials, dtype=np.int64) + 1, 0)
        values = [np.ascontiguousarray(samples[name]) for name in samples]
        total = np.zeros((len(values[0]), len(rows)))
        of_numbers: Floats | None = None
        for kernels, distribution, of_param in zip(self._kernels, mixture.distributions, values, strict=True):
            if type(distribution) is _BatchedCategoricalDistributions:
                total += np.log(np.ascontiguousarray(distribution.weights.T))[of_param.astype(np.int64)]
                continue
            own = kernels.log_density(distribution, rows, of_param, many)
            of_numbers = own if of_numbers is None else np.add(of_numbers, own, out=of_numbers)
        if of_numbers is not None:
            total += of_numbers
        total += np.log(mixture.weights)
        largest = total.max(axis=1)
        largest[np.isneginf(largest)] = 0
        total -= largest[:, None]
        with np.errstate(divide="ignore"):  # a sample of probability zero
            return np.asarray(np.log(np.exp(total, out=total).sum(axis=1)) + largest)


class _Kernels:
    """What is known of the kernels of a continuous parameter, by 1 + the number of the trial; 0 is the prior."""

    def __init__(self) -> None:
        self._means, self._widths, self._masses = np.full((3, 16), np.nan)
        self._many = False

    def log_density(self, distribution: Any, rows: Numbers, values: Floats, many: bool) -> Floats:
        """Logarithm of the density of every kernel at every value, `(values, kernels)`.

        Args:
            distribution: The kernels.
            rows: Where each of them is known.
            values: The values.
            many: Whether all parameters together have `MANY` kernels.
        """
        means, widths, low, high = (
            distribution.mu,
            distribution.sigma,
            distribution.adapted_low,
            distribution.adapted_high,
        )
        at = np.log(values) if distribution.is_log else values
        density: Floats = at[:, None] - means
        density /= widths
        outside = None
        if (at < low).any() or (at > high).any():
            outside = (density < (low - means) / widths) | (density > (high - means) / widths)
        density *= density
        density *= -0.5
        density -= _norm_pdf_logC
        density -= self._masses_of(distribution, rows, many)
        density -= np.log(widths)
        if outside is not None:
            density[outside] = -np.inf
        return density

    def _masses_of(self, distribution: Any, rows: Numbers, many: bool) -> Floats:
        """Logarithm of the mass that every kernel has within the bounds, computed for kernels that have changed."""
        means, widths = distribution.mu, distribution.sigma
        if many != self._many:
            self._many, self._means = many, np.full_like(self._means, np.nan)
        if (n_rows := int(rows.max()) + 1) > len(self._means):
            more = 2 * n_rows - len(self._means)
            self._means, self._widths, self._masses = (
                np.pad(known, (0, more), constant_values=np.nan) for known in (self._means, self._widths, self._masses)
            )
        changed = np.flatnonzero((self._means[rows] != means) | (self._widths[rows] != widths))
        if len(changed):
            at, mean, width = rows[changed], means[changed], widths[changed]
            mass = _log_mass_of_many if many else _log_gauss_mass
            self._masses[at] = mass(
                (distribution.adapted_low - mean) / width, (distribution.adapted_high - mean) / width
            )
            self._means[at], self._widths[at] = mean, width
        return self._masses[rows]


def _n_central(distribution: Any) -> int:
    """Number of kernels with their mean within the bounds, for which Optuna uses the error function."""
    means = distribution.mu
    return int(np.count_nonzero((means >= distribution.adapted_low) & (means < distribution.adapted_high)))


def _log_mass_of_many(a: Floats, b: Floats) -> Floats:
    """What `_log_gauss_mass` gives for some of many intervals from `a` to `b`."""
    central = (a <= 0) & (b > 0)
    masses = np.empty_like(a)
    masses[~central] = _log_gauss_mass(a[~central], b[~central])
    left, right = (0.5 + 0.5 * _erf_of_many(x[central] / 2**0.5) for x in (a, -b))
    masses[central] = np.log1p(-left - right)
    return masses


def _erf_of_many(x: Floats) -> Floats:
    """The error function, as Optuna approximates it for many numbers."""
    size = np.abs(x)
    large = np.ones_like(x)
    large[size < 6] = _erf_right_non_big(size[size < 6])
    return np.asarray(np.sign(x) * large)
