"""Compare a trial with the baseline on the same validation images, by a paired difference with its interval."""

import math
from dataclasses import dataclass

from torch import Tensor

NORMAL_95 = 1.959964
"""95% of a normal distribution lie within this many standard deviations of its mean."""


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


def paired_difference(answers: Tensor, baseline: Tensor) -> Difference:
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
