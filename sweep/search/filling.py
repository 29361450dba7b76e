"""Who gets the free lanes, where lanes have several shapes: the rule by which proposals are made to train together.

A stack of one lane wastes what sweep is for: the lanes of a stack share what it costs to read the frozen features. So
not every proposal is the sampler's free choice. The rule:

1. The sampler is asked freely. Its proposal, the *lead*, is always admitted, so no shape that it wants is starved.
2. Free lanes then go to *followers*: proposals of the lead's shape, in which the sampler chooses all that does not
   decide the shape. There are followers until the lead's stack has enough lanes by the cost model
   (`sweep.side_networks.cost.enough_lanes`), but never until the shape has more than its share of all lanes. Its share
   is that of the last `WINDOW` leads, so over a while lanes are divided as the sampler would divide them.
3. Then the sampler is asked freely again, until no lane is free.
"""

import math
from collections import deque
from collections.abc import Callable

from sweep.study.shape import Shape

WINDOW = 64
"""Leads by which the sampler's preference for a shape is told."""


class Filling:
    """The rule's memory.

    Args:
        n_trials: Trials that all lanes take together.
        enough: Trials from which on another one makes its stack hardly cheaper, by shape.

    Attributes:
        leads: Trial and shape of the last leads, oldest first.
    """

    def __init__(self, n_trials: int, enough: Callable[[Shape], int]):
        self.n_trials = n_trials
        self.enough = enough
        self.leads: deque[tuple[int, Shape]] = deque(maxlen=WINDOW)

    def lead(self, trial: int, shape: Shape) -> None:
        """The sampler has freely proposed a trial of a shape."""
        self.leads.append((trial, shape))

    def share(self, shape: Shape) -> float:
        """The sampler's preference for a shape, between 0 and 1."""
        return sum(of_lead == shape for _, of_lead in self.leads) / len(self.leads) if self.leads else 0.0

    def wants_follower(self, shape: Shape, n_running: int) -> bool:
        """Whether the next free lane goes to a follower of the last lead.

        Args:
            shape: Of the last lead.
            n_running: Trials of that shape in training.
        """
        return n_running < min(self.enough(shape), math.ceil(self.share(shape) * self.n_trials))
