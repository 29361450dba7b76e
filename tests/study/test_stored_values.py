"""How storages, JSON and CSV cells hold the values of a study, and that these are read back."""

import json
import math
from collections.abc import Sequence
from typing import Any

import numpy as np
import optuna
import pytest
from optuna.distributions import CategoricalDistribution, FloatDistribution, IntDistribution
from optuna.trial import FixedTrial

from sweep import Halving, LaneConfig, Study, UsageError
from sweep.study.asked_trial import AskedTrial
from sweep.study.asking import check_baseline, check_enqueued
from sweep.study.budget import Budget
from sweep.study.parameter_cells import cell_of, value_of
from sweep.study.stored_values import plain, same_value, stored_attribute, stored_parameter

CHOICES: list[list[Any]] = [
    ["None", None],
    ["NA", "", "nan", math.nan],
    ["1", "2"],
    ["01", "1"],
    [True, "a"],
    ["True", False, "False"],
    [1, "a"],
    [1, "1", "1.0", 2.5],
    [2**70, -(2**70), 0],
    [1e-300, 0.1 + 0.2, math.inf, -math.inf],
    [" a", "a", "a ", '"a"', "a\nb", "a,b", "a\tb"],
    ["\ud800", "é", "1_000", "0x1", "inf"],
]


@pytest.mark.parametrize("choices", CHOICES)
def test_every_choice_is_read_back_from_its_cell(choices: Sequence[Any]) -> None:
    distribution = CategoricalDistribution(choices)
    for choice in choices:
        found = value_of("x", cell_of(choice), distribution)
        assert type(found) is type(choice)
        assert same_value(found, choice)
    assert len({cell_of(choice) for choice in choices}) == len(choices)
    assert all(cell_of(choice) for choice in choices), "an empty cell leaves the choice to the sampler"


@pytest.mark.parametrize(
    ("text", "choices", "meant"),
    [("1", ["1", "2"], "1"), ("2.0", [1, 2], 2), ("1e-3", [0.001, 0.01], 0.001), ("true", ["true", "no"], "true")],
)
def test_a_cell_that_a_person_writes_is_understood(text: str, choices: Sequence[Any], meant: Any) -> None:
    assert value_of("x", text, CategoricalDistribution(choices)) == meant


def test_numbers_are_read_by_their_range() -> None:
    assert value_of("x", "3", FloatDistribution(0, 9)) == 3.0
    assert value_of("x", "3.0", IntDistribution(0, 9)) == 3
    assert value_of("x", str(2**62 + 1), IntDistribution(0, 2**63 - 1)) == 2**62 + 1
    for text, distribution, message in (
        ("3.5", IntDistribution(0, 9), "x = '3.5' is not a number; suggest asks for a whole number from 0 to 9"),
        ("", FloatDistribution(0, 1), "x = '' is not a number; suggest asks for a number from 0.0 to 1.0"),
        ("c", CategoricalDistribution(["a", 1]), "x = 'c' is none of the choices; suggest asks for one of a, 1"),
    ):
        with pytest.raises(UsageError, match=message):
            value_of("x", text, distribution)


def test_numpy_values_become_python_values() -> None:
    value = plain({"a": np.int64(3), "b": [np.float32(0.5), (np.bool_(True),)], "c": np.arange(2), np.str_("d"): None})
    assert json.loads(json.dumps(value)) == {"a": 3, "b": [0.5, [True]], "c": [0, 1], "d": None}


def test_attributes_of_any_kind_can_be_stored() -> None:
    loop: list[Any] = []
    loop.append(loop)
    for given, expected in (
        (np.int64(3), 3),
        (2**70, 2**70),
        ((1, 2), [1, 2]),
        ({1: {2}}, "{1: {2}}"),
        (loop, "[[...]]"),
        (int, "<class 'int'>"),
        ("\ud800", "\ud800"),
    ):
        found = stored_attribute(given)
        assert found == expected
        json.dumps(found)


def asked(*names: str, **params: Any) -> AskedTrial:
    return AskedTrial(FixedTrial(params))


def test_lists_and_mappings_are_stored_as_text_and_given_as_they_are() -> None:
    choices = [[1, 2], (3, 4), {"a": np.int64(1)}, 5]
    study = optuna.create_study(sampler=optuna.samplers.RandomSampler(seed=0))
    found = []
    for _ in range(30):
        trial = study.ask()
        found.append(AskedTrial(trial).suggest_categorical("x", choices))
        assert trial.params["x"] in ("[1, 2]", "[3, 4]", '{"a": 1}', 5)
        study.tell(trial, 0)
    assert all(any(type(one) is type(choice) and one == choice for one in found) for choice in choices)
    with pytest.raises(UsageError, match=r"two choices of the parameter x are both stored as \[1, 2\]"):
        asked(x="[1, 2]").suggest_categorical("x", [[1, 2], (1, 2)])
    with pytest.raises(UsageError, match=r"the parameter x has the value <function .*, a function, which cannot be"):
        asked(x="a").suggest_categorical("x", [stored_parameter])


def test_forbidden_calls_in_suggest_are_refused() -> None:
    trial = asked()
    with pytest.raises(UsageError, match=r"trial\.report has no meaning in suggest"):
        trial.report(0.5, 1)
    with pytest.raises(UsageError, match="user attributes whose names begin with 'sweep:' are sweep's own"):
        trial.set_user_attr("sweep:clone_of", 0)


def suggest(trial: optuna.Trial) -> LaneConfig:
    return LaneConfig(
        lr=np.float32(trial.suggest_float("lr", np.float64(1e-3), np.float32(0.5))),
        rank=trial.suggest_categorical("rank", np.array([1, 2])),
        warmup_epochs=np.int64(1),
    )


def test_a_study_may_be_declared_with_numpy_numbers() -> None:
    study = Study(
        suggest=suggest,
        baseline={"lr": np.float64(0.25), "rank": np.int64(2)},
        max_rank=np.int64(2),
        trials=np.int32(4),
        epochs=np.int64(3),
        seed=np.uint64(7),
        stages=[np.int64(1), np.int64(3)],
        halving=Halving(eta=np.int64(2)),
        grid={"lr": np.array([0.25, 0.5]), "rank": np.arange(1, 3)},
    )
    check_baseline(study)
    check_enqueued(study, [{"rank": 1}])
    declared = json.loads(json.dumps(study.declarations()))
    assert declared["grid"] == {"lr": [0.25, 0.5], "rank": [1, 2]}
    assert declared["baseline"] == {"lr": 0.25, "rank": 2}
    assert [declared[name] for name in ("max_rank", "trials", "epochs", "seed", "stages")] == [2, 4, 3, 7, [1, 3]]
    config = study.lane_config(FixedTrial(study.baseline))
    assert (config.lr, config.rank, type(config.lr), type(config.rank)) == (0.25, 2, float, int)
    assert type(Budget(target=np.float32(0.5)).target) is float


@pytest.mark.parametrize(("grid", "message"), [({"lr": 0.1}, "'lr': 0.1"), ({"lr": []}, "'lr'"), ([1], "not be")])
def test_malformed_grids_are_refused(grid: Any, message: str) -> None:
    with pytest.raises(UsageError, match=f"Study.grid .*{message}"):
        Study(suggest=suggest, baseline={}, max_rank=2, grid=grid)


@pytest.mark.parametrize("seed", [2**63, 2**64, 2**70, -1, 1.5, True])
def test_seeds_that_pytorch_does_not_accept_are_refused(seed: Any) -> None:
    with pytest.raises(UsageError, match=r"seed must be a whole number of at least 0.*--seed"):
        Study(suggest=suggest, baseline={}, max_rank=2, seed=seed)
    assert Study(suggest=suggest, baseline={}, max_rank=2, seed=2**63 - 1).seed == 2**63 - 1
