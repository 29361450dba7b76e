"""A lane's configuration refuses values that cannot be trained, and names them."""

import re
from dataclasses import FrozenInstanceError, fields

import pytest

from sweep.errors import UsageError
from sweep.study.lane_config import LOSSES, OPTIMIZERS, SCHEDULES, SHAPE_FIELDS, LaneConfig

NUMBERS = [field.name for field in fields(LaneConfig) if field.type is float]
CHOICES = {"optimizer": OPTIMIZERS, "schedule": SCHEDULES, "loss": LOSSES}


def config(**values: object) -> LaneConfig:
    return LaneConfig(**{"lr": 1e-3, **values})  # type: ignore[arg-type]


def assert_refused(name: str, value: object) -> None:
    with pytest.raises(UsageError, match=rf"LaneConfig\.{name} .*{re.escape(repr(value))}$"):
        config(**{name: value})


def test_every_field_is_a_number_a_choice_the_rank_of_the_shape_or_extra() -> None:
    assert {*NUMBERS, *CHOICES, *SHAPE_FIELDS, "rank", "clip_norm", "class_weights", "extra"} == {
        field.name for field in fields(LaneConfig)
    }


@pytest.mark.parametrize("name", ["lr", "head_lr_ratio", "eps"])
@pytest.mark.parametrize("value", [0, 0.0, -1e-3])
def test_positive_numbers(name: str, value: float) -> None:
    assert_refused(name, value)
    assert getattr(config(**{name: 1e-30}), name) == 1e-30


@pytest.mark.parametrize("name", ["weight_decay", "warmup_epochs", "focal_gamma", "logit_adjustment"])
def test_numbers_from_zero(name: str) -> None:
    assert_refused(name, -1e-9)
    for value in (0, 0.0, 12.5):
        assert getattr(config(**{name: value}), name) == value


@pytest.mark.parametrize("value", [0, -1.0, float("nan"), float("inf"), True, "1"])
def test_clip_norm_is_a_positive_number_or_none(value: object) -> None:
    assert_refused("clip_norm", value)
    for norm in (None, 1, 0.5):
        assert config(clip_norm=norm).clip_norm == norm


@pytest.mark.parametrize("name", ["beta1", "beta2", "momentum", "dropout", "label_smoothing"])
def test_numbers_below_one(name: str) -> None:
    for value in (-1e-9, 1, 1.0, 1.5):
        assert_refused(name, value)
    for value in (0, 0.0, 0.999999):
        assert getattr(config(**{name: value}), name) == value


@pytest.mark.parametrize("name", NUMBERS)
@pytest.mark.parametrize("value", [True, False, float("nan"), float("inf"), float("-inf"), "0.1", None, 1j, [0.1]])
def test_values_that_are_no_finite_number_are_refused(name: str, value: object) -> None:
    assert_refused(name, value)


@pytest.mark.parametrize("name", [name for name in NUMBERS if name not in ("beta1", "beta2", "momentum")])
def test_integers_are_numbers(name: str) -> None:
    value = 0 if name in ("dropout", "label_smoothing", "asymmetric_margin") else 2
    assert getattr(config(**{name: value}), name) == value


@pytest.mark.parametrize("value", [0, -1, 4.0, True, "4", None])
def test_ranks_are_positive_integers(value: object) -> None:
    assert_refused("rank", value)
    assert config(rank=1).rank == 1


@pytest.mark.parametrize("name", CHOICES)
def test_choices(name: str) -> None:
    for value in CHOICES[name]:
        assert getattr(config(**{name: value}), name) == value
    for value in ("", "lion", CHOICES[name][0].upper()):
        assert_refused(name, value)
        with pytest.raises(UsageError, match=", ".join(CHOICES[name])):
            config(**{name: value})
    for value in (0, True, CHOICES[name]):
        assert_refused(name, value)
    if name == "loss":  # None stands for the task's first loss, which is chosen once the data is known
        assert config(loss=None).loss is None
    else:
        assert_refused(name, None)


def test_a_configuration_is_given_by_name_and_stays_as_it_is() -> None:
    with pytest.raises(TypeError):
        LaneConfig(1e-3)  # type: ignore[call-arg]
    with pytest.raises(TypeError, match="lr"):
        LaneConfig()  # type: ignore[call-arg]
    with pytest.raises(FrozenInstanceError):
        config().lr = 1.0  # type: ignore[misc]
    assert config(rank=3) == config(rank=3)
    assert config(rank=3) != config(rank=4)


def test_a_refusal_is_a_usage_error_with_its_exit_code() -> None:
    with pytest.raises(UsageError) as caught:
        config(rank=0)
    assert caught.value.exit_code == 2
