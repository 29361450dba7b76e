"""What makes searches with many trials fast gives the same answers as the plain way."""

import math
from collections.abc import Mapping
from typing import Any

import numpy as np
import optuna
import pytest
from hypothesis import given
from hypothesis import strategies as st
from optuna.distributions import BaseDistribution, CategoricalDistribution, FloatDistribution, IntDistribution
from optuna.samplers import BaseSampler, TPESampler
from optuna.trial import TrialState

from sweep.search import seen_trials
from sweep.search.repeats import NEAR, Known
from sweep.search.samplers import AskTellSampler
from sweep.search.seen_trials import SeenTrials
from sweep.search.tpe import RememberingTpe


def suggest(trial: optuna.Trial) -> float:
    """A space with a parameter that not all trials have; some trials are infeasible."""
    lr = trial.suggest_float("lr", 1e-4, 1e-1, log=True)
    kind = trial.suggest_categorical("kind", ["a", "b", "c"])
    width = trial.suggest_int("width", 1, 9)
    if kind == "b":
        lr += trial.suggest_float("extra", 0.0, 0.01)
    trial.set_constraint("narrow", float(width - 8))
    return abs(math.log10(lr) + 2.5) + width / 10


def searched(sampler: AskTellSampler, n_objectives: int) -> list[dict[str, Any]]:
    """Ask for 60 trials, six at a time: some are complete, some pruned, some fail, and some still run."""
    study = optuna.create_study(directions=["minimize"] * n_objectives, sampler=sampler)
    for _ in range(10):
        drawn = [(trial := study.ask(), suggest(trial)) for _ in range(6)]
        for trial, value in drawn:
            if n_objectives == 1:
                trial.report(value, 1)
            if trial.number % 6 == 1:
                study.tell(trial, state=TrialState.PRUNED)
            elif trial.number % 6 == 2:
                study.tell(trial, state=TrialState.FAIL)
            elif trial.number % 6 > 2:
                study.tell(trial, [value, -value][:n_objectives])
    return [trial.params for trial in study.get_trials(deepcopy=False)]


@pytest.mark.parametrize("n_objectives", [1, 2])
def test_proposals_are_those_of_optunas_tpe(n_objectives: int) -> None:
    optuna.logging.set_verbosity(optuna.logging.WARNING)

    def plain(seed: int) -> BaseSampler:
        return TPESampler(seed=seed)

    seen = SeenTrials(()) if n_objectives == 1 else None
    expected = searched(AskTellSampler(plain, 7), n_objectives)
    assert searched(AskTellSampler(RememberingTpe().seeded, 7, seen), n_objectives) == expected
    assert searched(AskTellSampler(plain, 8), n_objectives) != expected


def test_of_many_trials_the_best_and_the_latest_are_seen(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(seen_trials, "MOST_ENDED", 6)
    monkeypatch.setattr(seen_trials, "MOST_RUNNING", 3)
    monkeypatch.setattr(seen_trials, "N_BEST", 4)
    study = optuna.create_study(direction="maximize")
    seen = SeenTrials([2])

    def shown() -> dict[int, TrialState]:
        return {trial.number: trial.state for trial in sorted(seen.of(study)._get_trials(), key=lambda t: t.number)}

    values = [0.1, 0.9, 0.5, 0.8, 0.2, 0.7, 0.3, 0.3, 0.3, 0.3, 0.3, 0.3]
    for number, value in enumerate(values):
        trial = study.ask()
        if number == 4:
            trial.report(99.0, 1)  # pruned trials come after complete ones
            study.tell(trial, state=TrialState.PRUNED)
        elif number == 5:
            trial.set_constraint("wrong", 1.0)
            study.tell(trial, value)
        else:
            study.tell(trial, value)
    assert list(shown()) == [1, 2, 3, 6, 7, 8, 9, 10, 11], "6 is the first of those that are equally good"
    running = [study.ask() for _ in range(5)]
    assert list(shown())[-3:] == [14, 15, 16]
    running[4].report(0.1, 1)
    assert shown()[16] is TrialState.RUNNING
    running[4].report(0.95, 2)
    assert shown()[16] is TrialState.PRUNED, "it has reached a rung"
    assert list(shown())[-4:] == [13, 14, 15, 16]
    study.tell(running[1], state=TrialState.FAIL)
    assert 13 not in shown()
    study.tell(running[4], 1.0)
    assert shown()[16] is TrialState.COMPLETE


SPACES: list[dict[str, BaseDistribution]] = [
    {"lr": FloatDistribution(1e-3, 1.0, log=True), "kind": CategoricalDistribution(["a", "b"])},
    {
        "lr": FloatDistribution(1e-3, 1.0, log=True),
        "n": IntDistribution(1, 2000),
        "kind": CategoricalDistribution([1, True]),
    },
    {"x": FloatDistribution(-1.0, 1.0), "one": IntDistribution(3, 3)},
    {"kind": CategoricalDistribution(["a", "b"])},
    {},
]


def distance(distribution: BaseDistribution, a: Any, b: Any) -> float:
    if isinstance(distribution, CategoricalDistribution):
        return 0.0 if a == b else math.inf
    assert isinstance(distribution, FloatDistribution | IntDistribution)
    if distribution.single():
        return 0.0
    scale = math.log if distribution.log else float
    return abs(scale(a) - scale(b)) / (scale(distribution.high) - scale(distribution.low))


@given(st.integers(0, 2**32 - 1))
def test_first_trial_that_hardly_differs_is_that_of_a_plain_scan(seed: int) -> None:
    rng = np.random.default_rng(seed)
    known, trials = Known(), list[tuple[int, Mapping[str, Any], int]]()

    def value(distribution: BaseDistribution) -> Any:
        if isinstance(distribution, CategoricalDistribution):
            return distribution.choices[rng.integers(len(distribution.choices))]
        assert isinstance(distribution, FloatDistribution | IntDistribution)
        if isinstance(distribution, IntDistribution):
            return int(rng.integers(distribution.low, min(distribution.high, distribution.low + 6) + 1))
        steps = 0.4 * NEAR * rng.integers(0, 12)  # a few steps make a difference
        if distribution.log:
            return distribution.low * (distribution.high / distribution.low) ** steps
        return distribution.low + (distribution.high - distribution.low) * steps

    for number in range(40):
        place = int(rng.integers(len(SPACES)))
        space = SPACES[place]
        params = {name: value(distribution) for name, distribution in space.items()}
        expected = next(
            (
                other
                for other, theirs, of_space in trials
                if params
                and theirs.keys() == params.keys()
                and all(distance(space[name], params[name], theirs[name]) <= NEAR for name in params)
            ),
            None,
        )
        assert known.nearly_alike(params, space) == expected
        known.add(number, params, space)
        trials.append((number, params, place))
