"""The objectives of a study: metrics with directions, and the order in which they rank trials."""

from bisect import bisect_left, bisect_right
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Literal

import numpy as np
import numpy.typing as npt

from sweep.tasks.kinds import CLASSES

Direction = Literal["maximize", "minimize"]
METRICS = tuple(CLASSES.metrics)
"""Metrics of every lane on the validation set of a classification task, see `sweep.tasks.metrics`."""

INFERENCE_SECONDS = "inference_seconds"
"""Name of an objective, and of the user attribute that every trial has if the study has this objective."""

OTHER_OBJECTIVES = ("train_loss", "trainable_parameters", INFERENCE_SECONDS)

Costs = npt.NDArray[np.float64]


@dataclass(frozen=True)
class Objectives:
    """Names of metrics, each with the direction in which it is better.

    Attributes:
        directions: Directions by name. The first objective decides the winner, and `--target` refers to it.
        tie: The metric that breaks ties; lower is better.
    """

    directions: Mapping[str, Direction]
    tie: str = f"val_{CLASSES.tie}"

    @property
    def names(self) -> list[str]:
        """Names of the objectives, in the order in which the study declares them."""
        return list(self.directions)

    @property
    def first(self) -> str:
        """The first objective's name."""
        return self.names[0]

    def values(self, measured: Mapping[str, float]) -> list[float]:
        """Values of the objectives, in the order that Optuna expects."""
        return [measured[name] for name in self.directions]

    def costs(self, measured: Mapping[str, float]) -> list[float]:
        """Values of the objectives as costs: those to maximise are negated, so lower is better."""
        return [self._sign(name) * measured[name] for name in self.directions]

    def reaches(self, value: float, target: float) -> bool:
        """Whether a value of the first objective is as good as a target."""
        return self._sign(self.first) * value <= self._sign(self.first) * target

    def _sign(self, name: str) -> int:
        return -1 if self.directions[name] == "maximize" else 1


def non_dominated_fronts(costs: Costs) -> npt.NDArray[np.int64]:
    """The front of each point: 0 if no other point dominates it, 1 if only points of front 0 do, and so on.

    A point dominates another if no cost is higher and at least one is lower.

    Args:
        costs: Costs `(n, objectives)`; lower is better.

    Returns:
        Fronts `(n,)`.
    """
    if not len(costs):
        return np.zeros(0, dtype=np.int64)
    points, of_point = np.unique(costs, axis=0, return_inverse=True)  # sorted: no point dominates an earlier one
    compared = ~np.isnan(points).any(1)  # others neither dominate nor are dominated
    fronts = np.zeros(len(points), dtype=np.int64)
    if points.shape[1] == 1:
        fronts[compared] = np.arange(compared.sum())
    elif points.shape[1] == 2:
        fronts[compared] = _fronts_of_pairs(points[compared, 1])
    else:
        members: list[list[int]] = []
        for point in np.flatnonzero(compared).tolist():

            def is_free_of(front: int, point: int = point) -> bool:
                return not (points[members[front]] <= points[point]).all(1).any()

            fronts[point] = front = bisect_left(range(len(members)), True, key=is_free_of)
            if front == len(members):
                members.append([])
            members[front].append(point)
    return fronts[of_point.reshape(-1)]


def _fronts_of_pairs(second: npt.NDArray[np.float64]) -> list[int]:
    """The fronts of different points with two costs, sorted by both, from their second costs."""
    lowest: list[float] = []  # the lowest second cost of each front so far; it rises from front to front
    fronts = []
    for cost in second.tolist():
        front = bisect_right(lowest, cost)
        lowest[front : front + 1] = [cost]
        fronts.append(front)
    return fronts


def crowding_distances(costs: Costs) -> npt.NDArray[np.float64]:
    """Crowding distance of each point of a front (Deb et al. 2002, NSGA-II); infinite for the points at the ends.

    Args:
        costs: Costs of the points of one front, `(n, objectives)`.

    Returns:
        Distances `(n,)`. Equal points have the same distance, so the order of the rows does not matter.
    """
    points, of_point = np.unique(costs, axis=0, return_inverse=True)
    distances = np.zeros(len(points))
    for column in points.T:
        values, of_value = np.unique(column, return_inverse=True)
        span = values[-1] - values[0]
        if span == 0:
            continue
        gaps = np.full(len(values), np.inf)
        gaps[1:-1] = (values[2:] - values[:-2]) / span
        distances += gaps[of_value.reshape(-1)]
    return np.asarray(distances[of_point.reshape(-1)])


def best_first(costs: Sequence[Sequence[float]], ties: Sequence[tuple[float, ...]]) -> list[int]:
    """Order points by front, then by crowding distance (largest first), then by `ties` (lowest first).

    With one objective this is the order of its costs.

    Args:
        costs: Costs of `n` points, one row per point; lower is better.
        ties: `n` tuples, all different.

    Returns:
        Indices, best first. The order of the points does not depend on the order of the rows.
    """
    table = np.array(costs, dtype=np.float64).reshape(len(ties), -1)
    fronts = non_dominated_fronts(table)
    if table.shape[1] == 1:  # the points of a front are equal
        return sorted(range(len(table)), key=lambda i: (fronts[i], *ties[i]))
    crowding = np.zeros(len(table))
    for front in range(fronts.max(initial=-1) + 1):
        crowding[fronts == front] = crowding_distances(table[fronts == front])
    return sorted(range(len(table)), key=lambda i: (fronts[i], -crowding[i], *ties[i]))
