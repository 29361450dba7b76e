"""Which worker trains which trial: chosen by the cost model and their speed. No result depends on it."""

import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

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
        return self.by_worker([worker])[worker]

    def by_worker(self, workers: Iterable[int]) -> dict[int, list[int]]:
        """The trials of some workers."""
        trials: dict[int, list[int]] = {worker: [] for worker in workers}
        for trial, worker in self.where.items():
            if worker in trials:
                trials[worker].append(trial)
        return trials

    def trained(self, worker: int, trials: Sequence[int], wall_seconds: float) -> None:
        """A worker has trained all its trials for one epoch."""
        if wall_seconds >= SURE_SECONDS:
            speed = self._load(trials) / wall_seconds
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
        if not new:
            return []
        shapes = {worker: {self.costs[t].shape for t in trials} for worker, trials in self.by_worker(workers).items()}
        loads = np.array([self._load(trials) for trials in self.by_worker(workers).values()])
        speeds = np.array([self._speed(worker) for worker in workers])
        lacking: dict[Shape, npt.NDArray[np.bool_]] = {}
        for trial in new:
            cost = self.costs[trial]
            if cost.shape not in lacking:
                lacking[cost.shape] = np.array([cost.shape not in shapes[worker] for worker in workers])
            lacks = lacking[cost.shape]
            after = loads + cost.own + lacks * cost.shared
            first = int((after / speeds).argmin())
            loads[first], lacks[first] = after[first], False
            self.where[trial] = workers[first]
        return new

    def moves(self, workers: Sequence[int]) -> dict[int, int]:
        """Which trials should go from the most loaded worker to the least loaded one.

        Returns:
            By trial the worker that it should go to; `where` stays as it is.
        """
        moved: dict[int, int] = {}
        trials = self.by_worker(workers)
        seconds = {worker: self._seconds(worker, trials[worker]) for worker in workers}
        while len(workers) > 1:
            most, least = max(workers, key=seconds.__getitem__), min(workers, key=seconds.__getitem__)
            of_cost = {self.costs[trial]: trial for trial in reversed(trials[most])}  # equal ones are as good

            def seconds_after(trial: int, giver: int = most, taker: int = least) -> tuple[float, float]:
                left = [other for other in trials[giver] if other != trial]
                return self._seconds(giver, left), self._seconds(taker, [*trials[taker], trial])

            best = min(of_cost.values(), key=lambda trial: max(seconds_after(trial)), default=None)
            if best is None or max(after := seconds_after(best)) > WORTH_MOVING * seconds[most]:
                break
            trials[most].remove(best)
            trials[least].append(best)
            seconds[most], seconds[least] = after
            moved[best] = least
        return {trial: worker for trial, worker in moved.items() if self.where[trial] != worker}

    def _load(self, trials: Sequence[int]) -> float:
        costs = [self.costs[trial] for trial in trials]
        shared: Mapping[Shape, float] = {cost.shape: cost.shared for cost in costs}
        return sum(cost.own for cost in costs) + sum(shared.values())
