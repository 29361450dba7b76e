"""Which worker trains which trial: chosen by the cost model, their speed and their memory. No result depends on it."""

import math
from collections import Counter, defaultdict
from collections.abc import Callable, Collection, Iterable, Sequence

import numpy as np
import numpy.typing as npt

from sweep.study.shape import Shape
from sweep.workers.balance import Balance, TrialCost, load_of

WORTH_MOVING = 0.9
"""Trials move if the slowest worker then takes less than this share of the time, because moving them costs time too."""

SURE_SECONDS = 0.5
"""A shorter epoch says nothing about the speed of a worker."""


class Placement:
    """The trials on the workers.

    Args:
        most_lanes: The most lanes of a shape that a worker trains at a time, by its number. A worker gets more of them
            only if all workers are full, and none if it is 0 there, unless it is 0 on all workers.

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
        """A worker has trained these trials for one epoch; it may have others that had trained it already."""
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
            able = (most > 0) | (most.max() == 0)
            seconds, has_room = np.where(able, after / speeds, np.inf), able & (lacks | (held + cost.n_lanes <= most))
            first = int(np.where(has_room, seconds, np.inf).argmin() if has_room.any() else seconds.argmin())
            loads[first] = after[first]
            held[first] += cost.n_lanes
            self.where[trial] = workers[first]
        return new

    def moves(self, workers: Sequence[int], free: Collection[int] = ()) -> dict[int, int]:
        """Which trials should go to another worker, so that the slowest worker is done earlier.

        Args:
            workers: Those that train.
            free: Trials that have not been sent to a worker yet, so that moving them costs no time.

        Returns:
            By trial the worker that it should go to; `where` stays as it is.
        """
        trials = self.by_worker(workers)
        held = {worker: Counter(self.costs[trial] for trial in of_worker) for worker, of_worker in trials.items()}
        if len(workers) < 2 or not any(held.values()):
            return {}
        balance = Balance(held, {worker: self._speed(worker) for worker in workers}, self.most_lanes)
        best = balance.best()
        leaving: defaultdict[TrialCost, list[int]] = defaultdict(list)
        for worker, of_worker in trials.items():
            kept = Counter(best[worker])
            for trial in sorted(of_worker, key=lambda trial: trial in free):
                cost = self.costs[trial]
                kept[cost] -= 1
                if kept[cost] < 0:
                    leaving[cost].append(trial)
        worth_it = WORTH_MOVING if any(trial not in free for of_cost in leaving.values() for trial in of_cost) else 1.0
        if balance.seconds(best) >= worth_it * balance.seconds(held):
            return {}
        return {
            leaving[cost].pop(): worker
            for worker in workers
            for cost, n in (best[worker] - held[worker]).items()
            for _ in range(n)
        }

    def _lanes_of(self, trials: Iterable[int]) -> Counter[Shape]:
        """Number of lanes of trials, by shape."""
        lanes = Counter[Shape]()
        for trial in trials:
            lanes[self.costs[trial].shape] += self.costs[trial].n_lanes
        return lanes

    def _load(self, trials: Sequence[int]) -> float:
        return load_of(Counter(self.costs[trial] for trial in trials))
