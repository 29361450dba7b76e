"""Compare a trial with the baseline on the same validation images, by a paired difference with its interval."""

import math
from dataclasses import dataclass
from fractions import Fraction
from statistics import NormalDist
from typing import TYPE_CHECKING

if TYPE_CHECKING:  # PyTorch takes a second to import, and reports are read without it
    from torch import Tensor

NORMAL_95 = 1.959964
"""95% of a normal distribution lie within this many standard deviations of its mean."""

FARTHEST_NORMAL, INTERVALS = 8.0, 1600
"""The integral for the maximum of normals covers this many standard deviations to each side, in this many steps."""


@dataclass(frozen=True)
class Difference:
    """The mean difference between two trials (in top-1 accuracy for classes), with its 95% interval over images.

    Attributes:
        mean: The trial's mean minus the baseline's.
        low: The lower end of the interval.
        high: The upper end of the interval.
    """

    mean: float
    low: float
    high: float


def paired_difference(answers: "Tensor", baseline: "Tensor") -> Difference:
    """Compare two trials on the same images.

    The interval covers the choice of images. It does not cover the choice of the seed, although with replicates both
    sides are means over seeds.

    Args:
        answers: The score of each replicate on each image, `(replicates, n)`; see `Target.of_images`.
        baseline: The same for the baseline.
    """
    differences = answers.double().mean(0) - baseline.double().mean(0)
    n_images = len(differences)
    mean = differences.mean().item()
    error = differences.std(correction=1).item() / math.sqrt(n_images) if n_images > 1 else math.nan
    return Difference(mean, mean - NORMAL_95 * error, mean + NORMAL_95 * error)


def normal_p_value(difference: Difference) -> float:
    """Two-sided p-value of no difference at all, by the normal distribution; NaN where the interval has no width."""
    error = (difference.high - difference.low) / (2 * NORMAL_95)
    return 2 * NormalDist().cdf(-abs(difference.mean) / error) if error > 0 else math.nan


def mcnemar_p_value(n_only_first: int, n_only_second: int) -> float:
    """Exact two-sided p-value of McNemar's test that two classifiers are right equally often.

    Args:
        n_only_first: Images that only the first one answers rightly.
        n_only_second: Images that only the second one answers rightly.
    """
    n_images = n_only_first + n_only_second
    tail = sum(math.comb(n_images, i) for i in range(min(n_only_first, n_only_second) + 1))
    return min(1.0, float(Fraction(2 * tail, 2**n_images)))


def lead_of_the_best_of_equals(n_trials: int, standard_error: float) -> float:
    """How far the best of equally good trials leads their average by luck: the expected maximum of normal numbers.

    Args:
        n_trials: How many there are, at least 1.
        standard_error: Standard error of each trial's score, independent between trials, in the units of the score.
    """
    # The integral by the trapezium rule: E[max] = b - ∫ P(max ≤ z) dz up to b, where b is beyond any maximum.
    cdf = NormalDist().cdf
    width = 2 * FARTHEST_NORMAL / INTERVALS
    below = [cdf(-FARTHEST_NORMAL + i * width) ** n_trials for i in range(INTERVALS + 1)]
    integral = width * (sum(below) - (below[0] + below[-1]) / 2)
    return standard_error * (FARTHEST_NORMAL - integral)
