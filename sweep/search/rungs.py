"""Successive halving over lanes that reach a rung together, for any number of objectives.

Optuna's pruners look at one trial at a time, so if trials train in lockstep, the order of reporting decides. They also
refuse several objectives. Here all trials that reach a rung at the end of an epoch are ranked at once, together with
all trials that reached it earlier.
"""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

from sweep.study.halving import Halving
from sweep.study.objectives import best_first


@dataclass(frozen=True)
class Arrival:
    """A trial's results at a rung.

    Attributes:
        trial: The trial's number.
        costs: Its objectives as costs: lower is better.
        tie: Decides between trials with equal costs; lower is better. If it is equal too, the lower number wins.
    """

    trial: int
    costs: Sequence[float]
    tie: float


@dataclass
class RungTable:
    """The results of all trials that have reached each rung.

    Attributes:
        halving: Says where the rungs are.
        arrivals: Results by rung (in epochs) and by trial.
    """

    halving: Halving
    arrivals: dict[int, dict[int, Arrival]] = field(default_factory=dict)

    def stopped(self, arrivals: Mapping[int, Sequence[Arrival]]) -> set[int]:
        """Add the trials that arrive together, and return which of them to stop.

        A trial goes on if it is among the best `1/eta` (rounded up) of all trials that have reached its rung,
        including those that arrive now. So the first `N` lanes are halved as in Jamieson & Talwalkar (2016), and a
        trial that arrives alone is compared with those before it. A trial that had to train again counts once.

        Args:
            arrivals: The trials that arrive, by rung.

        Returns:
            Numbers of the trials to stop.
        """
        stopped: set[int] = set()
        for rung, together in arrivals.items():
            of_rung = self.arrivals.setdefault(rung, {})
            of_rung.update({arrival.trial: arrival for arrival in together})
            table = list(of_rung.values())
            order = best_first([a.costs for a in table], [(a.tie, a.trial) for a in table])
            passing = {table[i].trial for i in order[: math.ceil(len(table) / self.halving.eta)]}
            stopped |= {arrival.trial for arrival in together} - passing
        return stopped
