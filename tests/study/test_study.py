"""Studies: what they may declare, how they are found, and the errors of broken ones."""

from pathlib import Path

import optuna
import pytest

from sweep import LaneConfig, Study, UsageError
from sweep.study.asking import check_baseline
from sweep.study.finding import load_study, study_names

HEAD = "from sweep import LaneConfig, Study\n"


def fine(trial: optuna.Trial) -> LaneConfig:
    return LaneConfig(lr=trial.suggest_float("lr", 1e-4, 1e-2))


@pytest.mark.parametrize(
    ("declaration", "value"),
    [
        ("trials", 0),
        ("epochs", -1),
        ("batch_size", 2.5),
        ("max_rank", True),
        ("group_size", "3"),
        ("seed", -1),
        ("image_size", 0),
        ("pool", "max"),
        ("head_stages", 0),
        ("head_cells", 3),
        ("suggest", 3),
    ],
)
def test_wrong_declaration_is_named(declaration: str, value: object) -> None:
    arguments = {"suggest": fine, "baseline": {}, "max_rank": 4, declaration: value}
    with pytest.raises(UsageError, match=rf"{declaration}.*{value!r}"):
        Study(**arguments)  # type: ignore[arg-type]


def test_shipped_studies_are_found_by_name() -> None:
    assert "lr_rank" in study_names()
    for name in study_names():
        loaded = load_study(name)
        assert loaded.name == name
        docstring = loaded.path.read_text().split('"""')[1]
        assert f"sweep run --study {name}" in docstring


def test_shipped_baselines_are_in_their_spaces() -> None:
    for name in study_names():
        study = load_study(name).study
        trial = optuna.trial.FixedTrial(dict(study.baseline))
        config = study.lane_config(trial)
        assert study.max_rank is None or config.rank <= study.max_rank


def test_study_is_found_by_path(tmp_path: Path) -> None:
    path = tmp_path / "mine.py"
    path.write_text(HEAD + "study = Study(suggest=lambda t: LaneConfig(lr=1.0), baseline={}, max_rank=9, trials=7)\n")
    loaded = load_study(str(path))
    assert (loaded.name, loaded.study.trials) == ("mine", 7)


def test_override_keeps_other_declarations() -> None:
    study = Study(suggest=fine, baseline={}, max_rank=4, trials=9, epochs=2)
    changed = study.override(epochs=5, trials=None)
    assert (changed.epochs, changed.trials, changed.max_rank) == (5, 9, 4)
    with pytest.raises(UsageError, match="epochs"):
        study.override(epochs=0)


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ("study = 3\n", r"must assign a sweep\.Study to the name `study`; it has 3"),
        ("pass\n", "must assign"),
        (HEAD + "study = Study(suggest=None, baseline={}, max_rank=4, colour=3)\n", "colour"),
        (HEAD + "study = Study(suggest=print, baseline={}, max_rank=0)\n", "max_rank must be .* at least 1, not 0"),
        ("x = 1\ny = x / 0\n", r"ZeroDivisionError: division by zero \(.*broken\.py, line 2: y = x / 0\)"),
        ("def f(:\n", r"broken\.py, line 1"),
        ("import no_such_package\n", "no_such_package"),
    ],
)
def test_broken_study_file_shows_the_line(tmp_path: Path, content: str, message: str) -> None:
    path = tmp_path / "broken.py"
    path.write_text(content)
    with pytest.raises(UsageError, match=message):
        load_study(str(path))


def test_unknown_study_is_refused_with_a_list_of_studies() -> None:
    with pytest.raises(UsageError, match=r"no study 'lr_rang' \(did you mean lr_rank\?\)"):
        load_study("lr_rang")


@pytest.mark.parametrize(
    ("suggest", "message"),
    [
        (lambda trial: {"lr": 1e-3}, r"must return a sweep\.LaneConfig"),
        (lambda trial: LaneConfig(lr=1e-3, rank=8), "rank 8, above its max_rank 4"),
        (lambda trial: LaneConfig(lr=1e-3, learning_rate=2), "learning_rate"),  # type: ignore[call-arg]
        (lambda trial: trial.suggest_float("lr", 2, 1), "suggest failed: ValueError"),
        (lambda trial: LaneConfig(lr=-1.0), r"LaneConfig\.lr must be above 0"),
    ],
)
def test_broken_suggest_is_explained(suggest: object, message: str) -> None:
    study = Study(suggest=suggest, baseline={}, max_rank=4)  # type: ignore[arg-type]
    with pytest.raises(UsageError, match=message):
        study.lane_config(optuna.create_study().ask())


LANE = "def suggest(trial):\n    return "


@pytest.mark.parametrize(
    ("content", "message", "line"),
    [
        ("study = Study(suggest=print, baseline={}, max_rank=4, colour=3)\n", "argument 'colour'", 2),
        ("study = Study(suggest=print, baseline={}, max_rank='4')\n", "max_rank must be .* not '4'", 2),
        ("study = Study(suggest=print, baseline={}, max_rank=4, data=3)\n", "map splits to data sets, not 3", 2),
        ("study = Study(suggest=print, baseline=[1], max_rank=4)\n", r"baseline must map .* not be \[1\]", 2),
        ("import sys\nsys.exit(3)\n", "SystemExit: 3", 3),
        (LANE + "LaneConfig(lr=1e-3, learning=3)\n", "argument 'learning'", 3),
        (LANE + "LaneConfig(lr='fast')\n", r"LaneConfig\.lr must be .* gave 'fast'", 3),
        (LANE + "LaneConfig(lr=10**400)\n", r"LaneConfig\.lr must be a finite number", 3),
        (LANE + "LaneConfig(lr=trial.suggest_float('lr', 1e-2, 1e-4))\n", "low <= high.*low=0.01, high=0.0001", 3),
        (LANE + "LaneConfig(lr=trial.suggest_float('lr', 1, 2, step=0))\n", "step > 0", 3),
        (LANE + "LaneConfig(lr=trial.suggest_categorical('lr', []))\n", "one or more elements", 3),
        (LANE + "LaneConfig(lr={}['x'])\n", "KeyError: 'x'", 3),
        (LANE + "suggest(trial)\n", "RecursionError", 3),
        ("def suggest():\n    return 1\n", "takes 0 positional arguments", 2),
    ],
)
def test_a_mistake_is_one_message_with_file_and_line(tmp_path: Path, content: str, message: str, line: int) -> None:
    path = tmp_path / "mine.py"
    tail = "" if "study = " in content else "\nstudy = Study(suggest=suggest, baseline={}, max_rank=8)\n"
    path.write_text(HEAD + content + tail)
    with pytest.raises(UsageError, match=rf"(?s){message}.*\({path}, line {line}\b"):
        check_baseline(load_study(str(path)).study)


def test_a_baseline_of_the_wrong_type_is_named() -> None:
    study = Study(suggest=fine, baseline={"lr": "fast"}, max_rank=8)
    with pytest.raises(UsageError, match=r"with the values of the study's baseline, .*'fast' is not a valid type"):
        check_baseline(study)


def test_a_study_file_with_null_bytes(tmp_path: Path) -> None:
    path = tmp_path / "mine.py"
    path.write_bytes(b"x\0=1\n")
    with pytest.raises(UsageError, match=rf"does not run: .*null bytes \({path}"):
        load_study(str(path))
