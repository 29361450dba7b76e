"""Plays a search of several shapes through with random results, to estimate how long it takes.

Which stacks train together, and how full they are, follows from the rules of the search: `Filling` decides which shape
takes a free lane, and `RungTable` which trials go on. Only what the lanes would learn is replaced by random numbers.
"""

import random
from collections.abc import Callable, Hashable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field

import torch

from sweep.machine.at_once import n_at_once
from sweep.machine.seeds import derive_seed
from sweep.search.filling import Filling, most_at_first
from sweep.search.rungs import Arrival, RungTable
from sweep.study.declaration import Study
from sweep.study.shape import Shape
from sweep.training.parts import parts_of_stacks

REHEARSALS = 8
"""Number of times that a search is played through. The estimate is the mean."""

MOST_TRIALS = 512
"""Largest number of trials that are played through; the time of more trials is scaled from it."""


@dataclass(frozen=True)
class ShapeCost:
    """What lanes of one shape cost.

    Attributes:
        stack_seconds: Time of an epoch of a stack, whatever its number of lanes.
        lane_seconds: Time of an epoch that each lane adds to its stack.
        enough_lanes: Number of lanes beyond which a larger stack is hardly cheaper per lane.
        features: Identifies the features that the lanes read. Shapes with the same features share them.
        feature_seconds: Time to compute these features, when the first lane needs them.
    """

    stack_seconds: float
    lane_seconds: float
    enough_lanes: int
    features: Hashable
    feature_seconds: float


@dataclass
class _Trial:
    number: int
    quality: float
    epochs: int = 0


@dataclass
class _Search:
    """One search that is played through; arguments as `rehearsed_seconds`."""

    study: Study
    n_trials: int
    n_parallel: int
    costs: Mapping[Shape, ShapeCost]
    next_shape: Callable[[], Shape]
    follows: bool
    draws: random.Random
    cores: torch.device | None
    stacks: dict[Shape, list[_Trial]] = field(default_factory=dict)
    n_proposed: int = 0
    training_seconds: float = 0.0
    features: dict[Hashable, float] = field(default_factory=dict)

    def play(self) -> None:
        of_trial = self.study.lanes_per_trial
        n_given = 1 + len(self.study.enqueue)
        most = most_at_first(self.study.trials, n_given)
        filling = Filling(self.n_parallel // of_trial, self._enough_trials, n_given, most)
        rungs = RungTable(self.study.halving) if self.study.halving else None
        while self._fill(filling):
            n_lanes = {shape: of_trial * len(trials) for shape, trials in self.stacks.items()}
            seconds = {shape: self._epoch_seconds(shape, n) for shape, n in n_lanes.items()}
            if self.cores is not None:
                n_parts = parts_of_stacks(n_lanes, seconds, self.cores)
                at_once = n_at_once(torch.get_num_threads(), sum(n_parts.values()))
                seconds = {
                    shape: self._epoch_seconds(shape, n, at_once / n_parts[shape]) for shape, n in n_lanes.items()
                }
            self.training_seconds += sum(seconds.values())
            for trials in self.stacks.values():
                for trial in trials:
                    trial.epochs += 1
            self._end_trials(rungs)

    def _epoch_seconds(self, shape: Shape, n_lanes: int, n_beside: float = 1.0) -> float:
        """Time of an epoch of a stack, if what does not depend on its lanes is done for `n_beside` stacks at a time."""
        cost = self.costs[shape]
        return cost.stack_seconds / n_beside + n_lanes * cost.lane_seconds

    def _enough_trials(self, shape: Shape) -> int:
        return -(-self.costs[shape].enough_lanes // self.study.lanes_per_trial)

    def _fill(self, filling: Filling) -> bool:
        """Give free lanes to new trials, as `Admission` does. Return whether there is anything to train."""
        lead: Shape | None = None
        n_free = filling.n_trials - sum(map(len, self.stacks.values()))
        while n_free and self.n_proposed < self.n_trials:
            if lead is None or not filling.wants_follower(lead, len(self.stacks.get(lead, ()))):
                shape = self.next_shape()
                if shape in self.costs:
                    filling.lead(self.n_proposed, shape)
                    lead = shape if self.follows else None
            else:
                shape = lead
            if shape in self.costs:  # else the trial fails at once
                self.stacks.setdefault(shape, []).append(_Trial(self.n_proposed, self.draws.random()))
                self.features[self.costs[shape].features] = self.costs[shape].feature_seconds
                n_free -= 1
            self.n_proposed += 1
        return bool(self.stacks)

    def _end_trials(self, rungs: RungTable | None) -> None:
        """End the trials that lose at a rung or have had their last epoch."""
        n_epochs, stopped = self.study.epochs, set[int]()
        if rungs is not None:
            arrivals: dict[int, list[Arrival]] = {}
            at = set(rungs.halving.rungs(n_epochs))
            for trial in (trial for trials in self.stacks.values() for trial in trials if trial.epochs in at):
                arrivals.setdefault(trial.epochs, []).append(Arrival(trial.number, (trial.quality,), 0.0))
            stopped = rungs.stopped(arrivals) - {0}  # the baseline goes on
        alive = {
            shape: [trial for trial in trials if trial.epochs < n_epochs and trial.number not in stopped]
            for shape, trials in self.stacks.items()
        }
        self.stacks = {shape: trials for shape, trials in alive.items() if trials}


def rehearsed_seconds(
    study: Study,
    n_parallel: int,
    costs: Mapping[Shape, ShapeCost],
    given: Sequence[Shape],
    drawn: Sequence[Shape],
    *,
    follows: bool,
    cores: torch.device | None = None,
) -> tuple[float, float]:
    """Estimate the wall time of a search of several shapes. The same arguments always give the same estimate.

    Args:
        study: The study to search.
        n_parallel: Lanes to train at a time, at least those of one trial.
        costs: Cost of every shape that lanes can have. Trials of other shapes fail at once.
        given: Shapes of the trials that the search begins with: the baseline and the study's enqueued trials.
        drawn: Shapes of random draws from the study's space. Further trials have one of them at random.
        follows: Whether proposals follow a lead of the same shape, see `filling.py`.
        cores: The device, if stacks share its cores, see `training_here.py`.

    Returns:
        Seconds of training and evaluation, and seconds of the feature passes.
    """
    n_trials = min(study.trials, MOST_TRIALS)
    training_seconds = feature_seconds = 0.0
    for number in range(REHEARSALS):
        draws, first = random.Random(derive_seed(study.seed, "rehearsal", number)), iter(given)

        def next_shape(draws: random.Random = draws, first: Iterator[Shape] = first) -> Shape:
            return next(first, None) or draws.choice(drawn)

        search = _Search(study, n_trials, n_parallel, costs, next_shape, follows, draws, cores)
        search.play()
        training_seconds += search.training_seconds / REHEARSALS
        feature_seconds += sum(search.features.values()) / REHEARSALS
    return training_seconds * study.trials / n_trials, feature_seconds
