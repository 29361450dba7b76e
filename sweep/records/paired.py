"""Is a trial better than the baseline, or luckier? Both answer the same val images, so their answers are paired."""

import math
from dataclasses import dataclass

from torch import Tensor

NORMAL_95 = 1.959964
"""Standard errors to either side of a mean that hold 95% of a normal distribution."""


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


def paired_difference(answers: Tensor, baseline: Tensor) -> Difference:
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
