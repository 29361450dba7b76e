"""What a study searches for: one or several measured numbers, each with a direction, and the order they give trials."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Literal

import numpy as np
import numpy.typing as npt

from sweep.tasks.kinds import CLASSES

Direction = Literal["maximize", "minimize"]
METRICS = tuple(CLASSES.metrics)
"""What every lane is measured by on val where the task is of classes, see `sweep.tasks.metrics`."""

INFERENCE_SECONDS = "inference_seconds"
"""Objective, and user attribute that a trial has from the start where the study asks for it."""

OTHER_OBJECTIVES = ("train_loss", "trainable_parameters", INFERENCE_SECONDS)

Costs = npt.NDArray[np.float64]


@dataclass(frozen=True)
class Objectives:
    """Names of measured numbers, each with the direction that is better.

    Attributes:
        directions: By name; the first is the one that names a winner and that `--target` is about.
        tie: The measured number that breaks ties, less is better.
    """

    directions: Mapping[str, Direction]
    tie: str = f"val_{CLASSES.tie}"

    @property
    def names(self) -> list[str]:
        """In the order the study declares them."""
        return list(self.directions)

    @property
    def first(self) -> str:
        """The first objective's name."""
        return self.names[0]

    def values(self, measured: Mapping[str, float]) -> list[float]:
        """The objectives' values, as Optuna wants to be told them."""
        return [measured[name] for name in self.directions]

    def costs(self, measured: Mapping[str, float]) -> list[float]:
        """The same, turned so that less is better."""
        return [self._sign(name) * measured[name] for name in self.directions]

    def reaches(self, value: float, target: float) -> bool:
        """Whether a value of the first objective is as good as a target."""
        return self._sign(self.first) * value <= self._sign(self.first) * target

    def _sign(self, name: str) -> int:
        return -1 if self.directions[name] == "maximize" else 1


def non_dominated_fronts(costs: Costs) -> npt.NDArray[np.int64]:
    """The front that each point lies in: 0 for those that no other dominates, 1 for those only front 0 does, and so on.

    A point dominates another if it is nowhere worse and somewhere better.

    Args:
        costs: `(n, objectives)`, less is better.

    Returns:
        `(n,)`.
    """
    dominates = np.asarray((costs[:, None] <= costs[None]).all(-1) & (costs[:, None] < costs[None]).any(-1))
    fronts = np.full(len(costs), -1)
    front = 0
    while (fronts < 0).any():
        left = fronts < 0
        fronts[left & ~dominates[left].any(0)] = front
        front += 1
    return fronts


def crowding_distances(costs: Costs) -> npt.NDArray[np.float64]:
    """How far a point of one front lies from its neighbours (Deb et al. 2002, NSGA-II); infinite at the ends.

    Args:
        costs: Of one front, `(n, objectives)`.

    Returns:
        `(n,)`; points that are alike share one distance, so the order of the rows decides nothing.
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
    """Order points by front, then by crowding, the lonely first, then by `ties`, less first.

    With one objective that is its order.

    Args:
        costs: `n` rows of objectives, less is better.
        ties: `n` tuples, no two alike.

    Returns:
        Indices, best first; they do not depend on the order of the rows.
    """
    table = np.array(costs, dtype=np.float64).reshape(len(ties), -1)
    fronts = non_dominated_fronts(table)
    crowding = np.zeros(len(table))
    for front in range(fronts.max(initial=-1) + 1):
        crowding[fronts == front] = crowding_distances(table[fronts == front])
    return sorted(range(len(table)), key=lambda i: (fronts[i], -crowding[i], *ties[i]))
