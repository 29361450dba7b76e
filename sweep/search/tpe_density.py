"""The log density of TPE's models: Optuna's numbers, bit for bit, in less time.

A model is a mixture with a kernel for every trial. From one proposal to the next, hardly any kernel changes. Optuna
computes the mass of every kernel within its bounds again for each proposal, and the logarithm of a category's weight
for each sample. Here masses are kept while kernels stay the same, and what remains is computed in place.
"""

from collections.abc import Sequence
from typing import Any

import numpy as np
import numpy.typing as npt
from optuna.samplers._tpe._truncnorm import _log_gauss_mass, _norm_pdf_logC
from optuna.samplers._tpe.probability_distributions import (
    _BatchedCategoricalDistributions,
    _BatchedTruncLogNormDistributions,
    _BatchedTruncNormDistributions,
)

Floats = npt.NDArray[np.float64]

MOST_SUMMED = 7
"""NumPy adds up to so many numbers one after the other; longer sums are made of parts."""


class DensityOf:
    """Log densities of models with the same parameters.

    Args:
        n_params: Number of parameters.
    """

    def __init__(self, n_params: int):
        self._kernels = [_Kernels() for _ in range(n_params)]

    def __call__(self, model: Any, trials: Sequence[int] | npt.NDArray[np.int64], samples: dict[str, Floats]) -> Floats:
        """What `model.log_pdf(samples)` gives, `(samples,)`.

        Args:
            model: A Parzen estimator of Optuna's.
            trials: Numbers of the trials that its kernels stand for. The last kernel, the prior, stands for none.
            samples: Values by parameter, `(samples,)`.
        """
        mixture = model._mixture_distribution
        numerical = [
            type(one) in (_BatchedTruncNormDistributions, _BatchedTruncLogNormDistributions)
            for one in mixture.distributions
        ]
        categorical = [type(one) is _BatchedCategoricalDistributions for one in mixture.distributions]
        if sum(numerical) > MOST_SUMMED or not all(a or b for a, b in zip(numerical, categorical, strict=True)):
            return np.asarray(model.log_pdf(samples))  # parameters with steps
        rows = np.append(np.asarray(trials, dtype=np.int64) + 1, 0)
        values = [np.ascontiguousarray(samples[name]) for name in samples]
        total = np.zeros((len(values[0]), len(rows)))
        of_numbers: Floats | None = None
        for kernels, distribution, of_param, is_category in zip(
            self._kernels, mixture.distributions, values, categorical, strict=True
        ):
            if is_category:
                total += np.log(np.ascontiguousarray(distribution.weights.T))[of_param.astype(np.int64)]
                continue
            own = kernels.log_density(distribution, rows, of_param)
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
    """What is known of the kernels of a parameter that is a number, by 1 + the number of the trial; 0 is the prior."""

    def __init__(self) -> None:
        self._means, self._widths, self._masses = np.full((3, 16), np.nan)

    def log_density(self, distribution: Any, rows: npt.NDArray[np.int64], values: Floats) -> Floats:
        """Logarithm of the density of every kernel at every value, `(values, kernels)`."""
        means, widths, low, high = (
            distribution.mu,
            distribution.sigma,
            distribution.adapted_low,
            distribution.adapted_high,
        )
        at = np.log(values) if distribution.is_log else values
        masses = self._masses_of(means, widths, low, high, rows)
        density: Floats = at[:, None] - means
        density /= widths
        outside = None
        if (at < low).any() or (at > high).any():
            outside = (density < (low - means) / widths) | (density > (high - means) / widths)
        density *= density
        density *= -0.5
        density -= _norm_pdf_logC
        density -= masses
        density -= np.log(widths)
        if outside is not None:
            density[outside] = -np.inf
        return density

    def _masses_of(self, means: Floats, widths: Floats, low: float, high: float, rows: npt.NDArray[np.int64]) -> Floats:
        """Logarithm of the mass that every kernel has within the bounds, computed for kernels that have changed."""
        if (n_rows := int(rows.max()) + 1) > len(self._means):
            more = ((0, 2 * n_rows - len(self._means)),)
            self._means, self._widths, self._masses = (
                np.pad(known, more, constant_values=np.nan) for known in (self._means, self._widths, self._masses)
            )
        changed = np.flatnonzero((self._means[rows] != means) | (self._widths[rows] != widths))
        if len(changed):
            at, mean, width = rows[changed], means[changed], widths[changed]
            self._masses[at] = _log_gauss_mass((low - mean) / width, (high - mean) / width)
            self._means[at], self._widths[at] = mean, width
        return self._masses[rows]
