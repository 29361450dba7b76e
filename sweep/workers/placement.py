"""Which worker trains which trial: chosen by the cost model, their speed and their memory. No result depends on it."""

import math
from collections import Counter
from collections.abc import Callable, Iterable, Mapping, Sequence
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
        n_lanes: Number of its lanes.
    """

    shape: Shape
    own: float
    shared: float
    n_lanes: int = 1


class Placement:
    """The trials on the workers.

    Args:
        most_lanes: The most lanes of a shape that a worker trains at a time, by its number. A worker gets more of them
            only if all workers are full.

    Attributes:
        costs: By number of the trial, all trials in training.
        where: By number of the trial its worker; a trial without one is to be placed.
        first_speeds: Speeds of workers that may not have trained yet, in any unit.
    """

    def __init__(self, most_lanes: Callable[[int, Shape], float] = lambda worker, shape: math.inf) -> None:
        self.most_lanes = most_lanes
        self.costs: dict[int, TrialCost] = {}
        self.where: dict[int, int] = {}
        self.first_speeds: dict[int, float] = {}
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

    def lanes(self, workers: Iterable[int]) -> dict[int, Counter[Shape]]:
        """Number of lanes of some workers, by shape."""
        return {worker: self._lanes_of(trials) for worker, trials in self.by_worker(workers).items()}

    def trained(self, worker: int, trials: Sequence[int], wall_seconds: float) -> None:
        """A worker has trained all its trials for one epoch."""
        if wall_seconds >= SURE_SECONDS:
            speed = self._load(trials) / wall_seconds
            self._speeds[worker] = max(speed, self._speeds.get(worker, 0.0))

    def _speed(self, worker: int) -> float:
        """A worker's speed as a share of the fastest one's: a power of two, so that noise moves no trials."""
        known = self._known_speeds()
        ratio = known[worker] / max(known.values()) if worker in known else 1.0
        return 2.0 ** round(math.log2(ratio)) if ratio > 0 else 1.0

    def _known_speeds(self) -> dict[int, float]:
        """The speeds at which workers have trained; for the others by the first speeds, in the same unit."""
        both = self._speeds.keys() & self.first_speeds.keys()
        unit = max((self._speeds[worker] / self.first_speeds[worker] for worker in both), default=1.0)
        return {**{worker: unit * speed for worker, speed in self.first_speeds.items()}, **self._speeds}

    def _seconds(self, worker: int, trials: Sequence[int]) -> float:
        """The time that a worker takes for an epoch of trials, in the unit of their costs on the fastest one."""
        return self._load(trials) / self._speed(worker)

    def place(self, workers: Sequence[int]) -> list[int]:
        """Give every trial without a worker to the worker with room for it that is the first to be done then.

        Returns:
            The trials that were placed.
        """
        new = [trial for trial in self.costs if trial not in self.where]
        if not new:
            return []
        placed = self.by_worker(workers)
        lanes = self.lanes(workers)
        loads = np.array([self._load(trials) for trials in placed.values()])
        speeds = np.array([self._speed(worker) for worker in workers])
        of_shape: dict[Shape, tuple[npt.NDArray[np.int64], npt.NDArray[np.float64]]] = {}
        for trial in new:
            cost = self.costs[trial]
            if cost.shape not in of_shape:
                most = np.array([self.most_lanes(worker, cost.shape) for worker in workers], dtype=np.float64)
                of_shape[cost.shape] = np.array([lanes[worker][cost.shape] for worker in workers]), most
            held, most = of_shape[cost.shape]
            lacks = held == 0
            after = loads + cost.own + lacks * cost.shared
            seconds, has_room = after / speeds, lacks | (held + cost.n_lanes <= most)
            first = int(np.where(has_room, seconds, np.inf).argmin() if has_room.any() else seconds.argmin())
            loads[first] = after[first]
            held[first] += cost.n_lanes
            self.where[trial] = workers[first]
        return new

    def moves(self, workers: Sequence[int]) -> dict[int, int]:
        """Which trials should go from the most loaded worker to the least loaded one with room for them.

        Returns:
            By trial the worker that it should go to; `where` stays as it is.
        """
        moved: dict[int, int] = {}
        trials = self.by_worker(workers)
        seconds = {worker: self._seconds(worker, trials[worker]) for worker in workers}
        while len(workers) > 1:
            most = max(workers, key=seconds.__getitem__)
            of_cost = {self.costs[trial]: trial for trial in reversed(trials[most])}  # equal ones are as good
            for least in sorted(workers, key=seconds.__getitem__):
                if fitting := self._fitting(of_cost, least, trials[least]):
                    break

            def seconds_after(trial: int, giver: int = most, taker: int = least) -> tuple[float, float]:
                left = [other for other in trials[giver] if other != trial]
                return self._seconds(giver, left), self._seconds(taker, [*trials[taker], trial])

            best = min(fitting, key=lambda trial: max(seconds_after(trial)), default=None)
            if best is None or max(after := seconds_after(best)) > WORTH_MOVING * seconds[most]:
                break
            trials[most].remove(best)
            trials[least].append(best)
            seconds[most], seconds[least] = after
            moved[best] = least
        return {trial: worker for trial, worker in moved.items() if self.where[trial] != worker}

    def _fitting(self, of_cost: Mapping[TrialCost, int], worker: int, trials: Sequence[int]) -> list[int]:
        """Trials, one of each cost, for which a worker that has some others has room."""
        lanes = self._lanes_of(trials)
        return [
            trial
            for cost, trial in of_cost.items()
            if not lanes[cost.shape] or lanes[cost.shape] + cost.n_lanes <= self.most_lanes(worker, cost.shape)
        ]

    def _lanes_of(self, trials: Iterable[int]) -> Counter[Shape]:
        """Number of lanes of trials, by shape."""
        lanes = Counter[Shape]()
        for trial in trials:
            lanes[self.costs[trial].shape] += self.costs[trial].n_lanes
        return lanes

    def _load(self, trials: Sequence[int]) -> float:
        costs = [self.costs[trial] for trial in trials]
        shared: Mapping[Shape, float] = {cost.shape: cost.shared for cost in costs}
        return sum(cost.own for cost in costs) + sum(shared.values())
