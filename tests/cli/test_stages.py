"""`--stages` and `--group-size`: how they are parsed, and which of them applies."""

import optuna
import pytest

from backbones import Taps, recorded_stages
from sweep import LaneConfig, Study
from sweep.cli.options import stages_asked_for
from sweep.errors import SweepError, UsageError


@pytest.mark.parametrize(
    ("given", "stages"),
    [(None, None), ("4", 4), ("3,6,12", (3, 6, 12)), ("3, 6", (3, 6)), ("12,", (12,)), ("", ()), (",", ())],
)
def test_stages_option_is_parsed(given: str | None, stages: int | tuple[int, ...] | None) -> None:
    assert stages_asked_for(given) == stages


@pytest.mark.parametrize("given", ["all", "3;6", "1.5", "3,six"])
def test_malformed_stages_are_refused(given: str) -> None:
    with pytest.raises(UsageError, match="--stages must be a number of stages, or blocks such as 3,6,12, not"):
        stages_asked_for(given)


def suggest(trial: optuna.Trial) -> LaneConfig:
    return LaneConfig(lr=trial.suggest_float("lr", 0.1, 1), rank=1)


def study(stages: object) -> Study:
    return Study(suggest=suggest, baseline={"lr": 0.5}, max_rank=1, stages=stages)  # type: ignore[arg-type]


def test_the_command_line_overrides_the_study() -> None:
    declared = study([2, 4])
    assert declared.stages == (2, 4)
    assert declared.override(stages=3, group_size=None).stages == 3
    assert declared.override(stages=None, epochs=2).stages == (2, 4)
    by_group = declared.override(stages=None, group_size=2)
    assert (by_group.stages, by_group.group_size) == (None, 2)
    assert study(None).override(group_size=2, stages=(1, 2)).stages == (1, 2)


@pytest.mark.parametrize("stages", ["3,6", [1.5], (1, "2"), {1: 2}])
def test_a_study_with_malformed_stages_is_refused(stages: object) -> None:
    with pytest.raises(UsageError, match=r"Study\.stages must be a number, or numbers of blocks"):
        study(stages)


def test_stages_in_records() -> None:
    for stages in (None, 4, (3, 6)):
        assert recorded_stages(list(stages) if isinstance(stages, tuple) else stages) == stages
    for damaged in (True, "3", 1.5, ["3"], {"3": 6}):
        with pytest.raises(SweepError, match="recorded stages"):
            recorded_stages(damaged)
    assert str(Taps(3)) == "a stage every 3 blocks"
    assert str(Taps(stages=4)) == "4 stages, evenly spread"
    assert str(Taps(stages=(3, 6))) == "stages after blocks 3, 6"
