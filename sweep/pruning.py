"""Successive halving over lanes that reach a rung together, for any number of objectives.

Optuna's pruners look at one trial after the other, so that in lockstep the order of reporting decides; and they refuse
several objectives. Here all trials that reach a rung at one epoch's end are ranked at once, among all that came before.
"""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from itertools import pairwise

from sweep.errors import UsageError
from sweep.objectives import best_first


@dataclass(frozen=True, kw_only=True)
class Halving:
    """Where trials are compared, and how many go on.

    Attributes:
        eta: One in so many goes on past a rung.
        first_rung: Epochs after which trials are first compared; the next rungs lie at `eta` times as many each.
        top_rung: No rung lies above; not given, rungs go on to the last but one epoch.

    Raises:
        UsageError: A value out of its range.
    """

    eta: int = 3
    first_rung: int = 1
    top_rung: int | None = None

    def __post_init__(self) -> None:
        top = self.first_rung if self.top_rung is None else self.top_rung
        for name, value, least in (("eta", self.eta, 2), ("first_rung", self.first_rung, 1), ("top_rung", top, 1)):
            if not isinstance(value, int) or isinstance(value, bool) or value < least:
                raise UsageError(f"Halving.{name} must be a whole number of at least {least}, not {value!r}")
        if top < self.first_rung:
            raise UsageError(f"Halving.top_rung {top} lies below first_rung {self.first_rung}")

    def rungs(self, n_epochs: int) -> list[int]:
        """Epochs at which trials of `n_epochs` are compared."""
        top = n_epochs - 1 if self.top_rung is None else min(self.top_rung, n_epochs - 1)
        rungs, rung = [], self.first_rung
        while rung <= top:
            rungs.append(rung)
            rung *= self.eta
        return rungs

    def expected_epochs(self, n_epochs: int) -> float:
        """Epochs that a trial trains for on average, if one in `eta` passes every rung."""
        bounds = [0, *self.rungs(n_epochs), n_epochs]
        expected = 0.0
        for passed, (start, end) in enumerate(pairwise(bounds)):
            expected += (end - start) / float(self.eta**passed)
        return expected


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
