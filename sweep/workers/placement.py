"""Which worker trains which trial: chosen by the cost model and their speed. No result depends on it."""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from sweep.study.shape import Shape

WORTH_MOVING = 0.9
"""Trials move if the largest load then is at most this share of what it was, because moving them costs time too."""

SURE_SECONDS = 0.5
"""A shorter epoch says nothing about the speed of a worker."""


@dataclass(frozen=True)
class TrialCost:
    """What a trial costs the worker that trains it, in multiply-adds per image.

    Attributes:
        shape: Shape of its lanes.
        own: Cost of its own lanes.
        shared: Cost of the stack of its shape, whatever the number of lanes.
    """

    shape: Shape
    own: float
    shared: float


class Placement:
    """The trials on the workers.

    Attributes:
        costs: By number of the trial, all trials in training.
        where: By number of the trial its worker; a trial without one is to be placed.
    """

    def __init__(self) -> None:
        self.costs: dict[int, TrialCost] = {}
        self.where: dict[int, int] = {}
        self._speeds: dict[int, float] = {}

    def on(self, worker: int) -> list[int]:
        """The trials of a worker."""
        return [trial for trial, its_worker in self.where.items() if its_worker == worker]

    def trained(self, worker: int, wall_seconds: float) -> None:
        """A worker has trained all its trials for one epoch."""
        if wall_seconds >= SURE_SECONDS:
            speed = self._load(self.on(worker)) / wall_seconds
            self._speeds[worker] = max(speed, self._speeds.get(worker, 0.0))

    def _speed(self, worker: int) -> float:
        """A worker's speed as a share of the fastest one's: a power of two, so that noise moves no trials."""
        if worker not in self._speeds:
            return 1.0
        ratio = self._speeds[worker] / max(self._speeds.values())
        return 2.0 ** round(math.log2(ratio)) if ratio > 0 else 1.0

    def _seconds(self, worker: int, trials: Sequence[int]) -> float:
        """The time that a worker takes for an epoch of trials, in the unit of their costs on the fastest one."""
        return self._load(trials) / self._speed(worker)

    def place(self, workers: Sequence[int]) -> list[int]:
        """Give every trial without a worker to the worker that is the first to be done then.

        Returns:
            The trials that were placed.
        """
        new = [trial for trial in self.costs if trial not in self.where]
        for trial in new:
            self.where[trial] = min(workers, key=lambda worker: self._seconds(worker, [*self.on(worker), trial]))
        return new

    def moves(self, workers: Sequence[int]) -> dict[int, int]:
        """Which trials should go from the most loaded worker to the least loaded one.

        Returns:
            By trial the worker that it should go to; `where` stays as it is.
        """
        moved: dict[int, int] = {}
        trials = {worker: self.on(worker) for worker in workers}
        while len(workers) > 1:
            most = max(workers, key=lambda worker: self._seconds(worker, trials[worker]))
            least = min(workers, key=lambda worker: self._seconds(worker, trials[worker]))

            def load_after(trial: int, giver: int = most, taker: int = least) -> float:
                left = [other for other in trials[giver] if other != trial]
                return max(self._seconds(giver, left), self._seconds(taker, [*trials[taker], trial]))

            best = min(trials[most], key=load_after, default=None)
            if best is None or load_after(best) > WORTH_MOVING * self._seconds(most, trials[most]):
                break
            trials[most].remove(best)
            trials[least].append(best)
            moved[best] = least
        return {trial: worker for trial, worker in moved.items() if self.where[trial] != worker}

    def _load(self, trials: Sequence[int]) -> float:
        costs = [self.costs[trial] for trial in trials]
        shared: Mapping[Shape, float] = {cost.shape: cost.shared for cost in costs}
        return sum(cost.own for cost in costs) + sum(shared.values())
