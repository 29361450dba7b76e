"""How many trials of each kind every worker should have, so that the slowest worker is done as early as possible.

A stack costs something whatever the number of its lanes, so a shape costs more on several workers than on one.
Therefore workers are filled one after the other: with all trials of a shape, then with those of the next one. A shape
that does not fit continues on the next worker.
"""

import math
from collections import Counter, defaultdict
from collections.abc import Callable, Mapping
from dataclasses import dataclass

from sweep.study.shape import Shape

CLOSE_ENOUGH = 1.005
"""The search for the earliest end stops within this factor."""


@dataclass(frozen=True)
class TrialCost:
    """What a trial costs the worker that trains it, in multiply-adds per image.

    Attributes:
        shape: Shape of its lanes.
        own: Cost of its own lanes.
        shared: Cost of the stack of its shape, whatever the number of lanes.
        n_lanes: Number of its lanes.
    """

    shape: Shape
    own: float
    shared: float
    n_lanes: int = 1


Counts = Mapping[int, Counter[TrialCost]]
"""By worker, its number of trials of each cost."""


def load_of(trials: Mapping[TrialCost, int]) -> float:
    """The costs of trials and of the stacks that they make, by the number of trials of each cost."""
    shared = {cost.shape: cost.shared for cost, n in trials.items() if n}
    return sum(cost.own * n for cost, n in trials.items()) + sum(shared.values())


@dataclass(frozen=True)
class Balance:
    """Divides trials among workers.

    Attributes:
        held: What every worker has now. Of equally good workers, the one that has most of a kind gets more of it.
        speeds: Costs that each worker computes in a unit of time.
        most_lanes: The most lanes of a shape that a worker should have. It gets more only if all workers are full, and
            none if it is 0 there, unless it is 0 on all workers.
    """

    held: Counts
    speeds: Mapping[int, float]
    most_lanes: Callable[[int, Shape], float]

    def seconds(self, counts: Counts) -> float:
        """When the last worker is done, in the unit of time of the speeds."""
        return max(load_of(trials) / self.speeds[worker] for worker, trials in counts.items())

    def best(self) -> Counts:
        """What every worker should have."""
        trials = sum(self.held.values(), Counter[TrialCost]())
        too_many = self._fill(self._nothing(), trials, math.inf)
        early, late = 0.0, load_of(trials) / min(self.speeds[worker] for worker in self.held)
        best = self._until(late, trials, too_many)
        while best is None or late > CLOSE_ENOUGH * early:
            end = 2 * late if best is None else (early + late) / 2
            if (found := self._until(end, trials, too_many)) is not None:
                best, late = found, end
            elif best is None:
                early = late = end
            else:
                early = end
        return best

    def _until(self, end: float, trials: Counter[TrialCost], too_many: Counter[TrialCost]) -> Counts | None:
        """All trials on workers that have done them by then; None if that is too early.

        Args:
            end: The time.
            trials: The trials.
            too_many: Those for which no worker has room.
        """
        counts = self._nothing()
        left = self._fill(counts, trials, end)
        if left - too_many or self._fill(counts, left, end, has_limits=False):
            return None
        return counts

    def _is_able(self, worker: int, shape: Shape) -> bool:
        return self.most_lanes(worker, shape) > 0 or not any(self.most_lanes(other, shape) for other in self.held)

    def _nothing(self) -> dict[int, Counter[TrialCost]]:
        return {worker: Counter() for worker in self.held}

    def _fill(
        self, counts: Counts, trials: Counter[TrialCost], end: float, *, has_limits: bool = True
    ) -> Counter[TrialCost]:
        """Give workers trials until a time: one worker after the other, and costly shapes first.

        Returns:
            The trials that are left.
        """
        of_shape: defaultdict[Shape, float] = defaultdict(float)
        for cost, n in trials.items():
            of_shape[cost.shape] += n * cost.own
        left = Counter(trials)
        not_done = sorted(self.held, key=lambda worker: -self.speeds[worker])
        last: int | None = None
        for cost in sorted(trials, key=lambda cost: (-of_shape[cost.shape], repr(cost.shape), -cost.own)):
            for worker in sorted(not_done, key=lambda one: (one != last, -self.held[one][cost])):
                of_worker = counts[worker]
                of_the_shape = {other: n for other, n in of_worker.items() if other.shape == cost.shape}
                time_left = end * self.speeds[worker] - load_of(of_worker) - (0 if of_the_shape else cost.shared)
                in_time = max(0.0, time_left) / cost.own
                lanes = sum(other.n_lanes * n for other, n in of_the_shape.items())
                room = (self.most_lanes(worker, cost.shape) - lanes) / cost.n_lanes if has_limits else math.inf
                if not of_the_shape:
                    room = max(1, room)
                if not self._is_able(worker, cost.shape):
                    room = 0
                n = int(min(left[cost], in_time, room))
                if n > 0:
                    of_worker[cost] += n
                    left[cost] -= n
                    last = worker
                if not left[cost]:
                    break
                if in_time <= room:
                    not_done.remove(worker)
        return +left
