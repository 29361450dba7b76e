"""Successive halving over lanes that reach a rung together, for any number of objectives.

Optuna's pruners look at one trial after the other, so that in lockstep the order of reporting decides; and they refuse
several objectives. Here all trials that reach a rung at one epoch's end are ranked at once, among all that came before.
"""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

from sweep.study.halving import Halving
from sweep.study.objectives import best_first


@dataclass(frozen=True)
class Arrival:
    """A trial's numbers at a rung.

    Attributes:
        trial: Its number.
        costs: Its objectives, less is better.
        tie: What decides between equal trials before their numbers do; less is better.
    """

    trial: int
    costs: Sequence[float]
    tie: float


@dataclass
class RungTable:
    """All that ever reached each rung.

    Attributes:
        halving: Where rungs are.
        arrivals: By rung, in epochs, and trial.
    """

    halving: Halving
    arrivals: dict[int, dict[int, Arrival]] = field(default_factory=dict)

    def stopped(self, arrivals: Mapping[int, Sequence[Arrival]]) -> set[int]:
        """Add the trials that arrive together, and say which of them go no further.

        A trial goes on if it is among the best `1/eta` (rounded up) of all that have reached its rung, these
        included; so the first `N` lanes are halved as in Jamieson & Talwalkar (2016), and one that arrives alone is
        measured against those before it. A trial that had to train again counts once.

        Args:
            arrivals: By rung.

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
