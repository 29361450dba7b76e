"""Is a trial better than the baseline, or luckier? Both answer the same val images, so their answers are paired."""

import math
from dataclasses import dataclass
from fractions import Fraction
from statistics import NormalDist
from typing import TYPE_CHECKING

if TYPE_CHECKING:  # PyTorch takes a second to import, and reports are read without it
    from torch import Tensor

NORMAL_95 = 1.959964
"""Standard errors to either side of a mean that hold 95% of a normal distribution."""

FARTHEST_NORMAL, INTERVALS = 8.0, 1600
"""Standard deviations within which maxima of normals are integrated, and steps from end to end."""


@dataclass(frozen=True)
class Difference:
    """A difference in what answers are worth on average, top-1 accuracy for classes, with its 95% interval over images.

    Attributes:
        mean: The trial's mean less the baseline's.
        low: Lower end.
        high: Upper end.
    """

    mean: float
    low: float
    high: float


def paired_difference(answers: "Tensor", baseline: "Tensor") -> Difference:
    """Compare two trials on the same images.

    The interval is over the choice of images; what another seed of a lane would have given is not in it, though with
    replicates both sides are means over their seeds.

    Args:
        answers: What each replicate's answer to each image is worth, `(replicates, n)`; see `Target.of_images`.
        baseline: The same of the baseline.
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
    """How far the best of some equally good trials leads their average by luck alone: the expected maximum of normals.

    Args:
        n_trials: How many there are, at least 1.
        standard_error: Of each trial's score, independent from trial to trial, in the units of the score.
    """
    # The integral by the trapezium rule: E[max] = b - ∫ P(max ≤ z) dz up to b, where b is beyond any maximum.
    cdf = NormalDist().cdf
    width = 2 * FARTHEST_NORMAL / INTERVALS
    below = [cdf(-FARTHEST_NORMAL + i * width) ** n_trials for i in range(INTERVALS + 1)]
    integral = width * (sum(below) - (below[0] + below[-1]) / 2)
    return standard_error * (FARTHEST_NORMAL - integral)
