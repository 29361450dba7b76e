"""Who gets the free lanes if lanes have several shapes: the rule that makes proposals of one shape train together.

The lanes of a stack share the cost of reading the frozen features, so a stack of one lane is wasteful. Therefore not
every proposal is the sampler's free choice. The rule:

1. The sampler is asked without constraints. Its proposal, the *lead*, is always admitted, so that every shape that the
   sampler wants is trained.
2. Free lanes then go to *followers*: proposals of the lead's shape, in which the sampler chooses all parameters that do
   not decide the shape. Followers are added until the lead's stack has enough lanes by the cost model
   (`sweep.side_networks.cost.enough_lanes`), but a shape never gets more than its share of all lanes. Its share is its
   share of the last `WINDOW` leads, so in the long run lanes are divided as the sampler would divide them. A few leads
   say little about what the sampler prefers: at the start, every lead's stack gets as many trials as it needs, but at
   most `FIRST_TRIALS` and a quarter of all, so that the sampler soon sees results of several shapes. It gets fewer if
   the study begins with so many configurations of its own that they would not all find lanes, or if the search has so
   few trials that not all configurations to begin with would be among them.
3. Then the sampler is asked without constraints again, until no lane is free.
"""

import math
from collections import deque
from collections.abc import Callable

from sweep.study.shape import Shape

WINDOW = 64
"""Number of the latest leads from which the sampler's preference for a shape is estimated."""

FIRST_TRIALS = 8
"""Number of trials that a lead's stack may have in any case, if the cost model wants as many."""


def most_at_first(n_searched: int, n_given: int) -> int:
    """Number of trials that a lead's stack may have at the start, at most.

    Args:
        n_searched: Number of trials of the search.
        n_given: Number of configurations that it begins with. As long as the search has that many trials, all of these
            are among them.
    """
    return min(FIRST_TRIALS, max(1, n_searched // n_given))


class Filling:
    """Remembers the leads, and applies the rule.

    Args:
        n_trials: Number of trials that fill all lanes.
        enough: Gives, for a shape, the number of trials beyond which a larger stack is hardly cheaper per trial.
        n_given: Number of the configurations that the study begins with.
        most: See `most_at_first`.

    Attributes:
        leads: Trial and shape of the last leads, oldest first.
    """

    def __init__(self, n_trials: int, enough: Callable[[Shape], int], n_given: int, most: int = FIRST_TRIALS):
        self.n_trials = n_trials
        self.first = min(most, math.ceil(n_trials / max(4, n_given)))
        self.enough = enough
        self.leads: deque[tuple[int, Shape]] = deque(maxlen=WINDOW)

    def lead(self, trial: int, shape: Shape) -> None:
        """Note that the sampler, asked without constraints, proposed a trial of this shape."""
        self.leads.append((trial, shape))

    def share(self, shape: Shape) -> float:
        """The sampler's preference for a shape, between 0 and 1, as if there were leads enough to fill all lanes."""
        n_leads = max(len(self.leads), math.ceil(self.n_trials / self.first))
        return sum(of_lead == shape for _, of_lead in self.leads) / n_leads

    def wants_follower(self, shape: Shape, n_running: int) -> bool:
        """Whether the next free lane goes to a follower of the last lead.

        Args:
            shape: Shape of the last lead.
            n_running: Number of trials of that shape in training.
        """
        return n_running < min(self.enough(shape), max(self.first, math.ceil(self.share(shape) * self.n_trials)))
