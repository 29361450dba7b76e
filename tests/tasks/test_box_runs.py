"""Detection from start to end: a folder in the layout of Pascal VOC, a run, and the commands that train it again."""

import importlib.util
from pathlib import Path

import optuna
import pandas as pd
import pytest
import torch
from small_runs import Stopped, tables_without_times
from squares import draw_squares

import sweep
from sweep import LaneConfig, Study
from sweep.errors import UsageError
from sweep.running.planner import plan_features, plan_study
from sweep.running.preparation import prepare
from sweep.running.resume import resume_run
from sweep.running.runner import run_study
from sweep.study.finding import LoadedStudy
from sweep.terminal.console import stderr
from sweep.terminal.progress import LineReporter
from sweep.verify.verify import verify_trial
from sweep.workers.request import WorkersAsked

BASELINE = {"lr": 1e-2, "rank": 5, "gamma": 2.0, "side_network": "convolution"}


def suggest(trial: optuna.Trial) -> LaneConfig:
    return LaneConfig(
        lr=trial.suggest_float("lr", 3e-3, 3e-2, log=True),
        rank=trial.suggest_categorical("rank", [2, 5]),
        focal_gamma=trial.suggest_categorical("gamma", [1.0, 2.0]),
        side_network=trial.suggest_categorical("side_network", ["convolution", "ladder", "last", "probe"]),
    )


def study_on(data: Path, **declared: object) -> LoadedStudy:
    options = {"backbone": "tiny-untrained", "group_size": 2, "epochs": 6, "batch_size": 5, "trials": 4, **declared}
    study = Study(suggest=suggest, baseline=BASELINE, data=str(data), **options)  # type: ignore[arg-type]
    return LoadedStudy("squares", Path("squares.py"), study)


def run(loaded: LoadedStudy, out: Path, cache_dir: Path, **options: object) -> Path:
    given = {"n_parallel": 3, "storage_url": None, "device_name": "cpu", "reporter": LineReporter(stderr), **options}
    return run_study(loaded, out=out, cache_dir=cache_dir, **given).path  # type: ignore[arg-type]


@pytest.fixture(scope="module")
def squares(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return draw_squares(tmp_path_factory.mktemp("squares") / "squares")


@pytest.fixture(scope="module")
def finished(squares: Path) -> Path:
    return run(study_on(squares), squares.parent / "run", squares.parent / "cache")


def test_run_learns_the_boxes_and_tests_winner_and_probe(finished: Path) -> None:
    results = sweep.load_run(finished).results
    assert results.kind.name == "detection"
    assert list(results.objectives) == ["val_ap"]
    for method in ("winner", "linear_probe"):
        test = results.summary[method]["test"]
        assert test["ap50"] > 0.1
        assert 0 < test["ap"] < test["ap50"] < 1
        assert test["ap_error"] > 0


def test_trial_trained_alone_equals_the_record(finished: Path, squares: Path) -> None:
    verification = verify_trial(finished, 0, device=torch.device("cpu"), cache_dir=squares.parent / "cache")
    assert verification.kept, verification.comparisons
    assert verification.comparisons[0].difference == 0


@pytest.mark.slow
def test_same_command_gives_the_same_table_on_workers(finished: Path, squares: Path, tmp_path: Path) -> None:
    again = run(study_on(squares), tmp_path / "again", squares.parent / "cache", workers=WorkersAsked(2))
    pd.testing.assert_frame_equal(*tables_without_times(finished, again))


def test_folds_measure_every_image_and_a_lane_alone_equals_its_record(squares: Path, tmp_path: Path) -> None:
    cache = squares.parent / "cache"
    path = run(study_on(squares, folds=3, trials=2, epochs=2), tmp_path / "folds", cache)
    assert sweep.load_run(path).trials["val_ap"].between(0, 1).all()
    verification = verify_trial(path, 0, device=torch.device("cpu"), cache_dir=cache)
    assert verification.kept, verification.comparisons


ON_VIEWS = {"augment": "flip-crop", "views": 2, "trials": 2, "epochs": 2}


def test_a_run_on_moved_boxes_is_verified(squares: Path, tmp_path: Path) -> None:
    path = run(study_on(squares, **ON_VIEWS), tmp_path / "views", squares.parent / "cache")
    verification = verify_trial(path, 0, device=torch.device("cpu"), cache_dir=squares.parent / "cache")
    assert verification.kept, verification.comparisons
    assert verification.comparisons[0].difference == 0


@pytest.mark.slow
def test_workers_give_the_same_table_on_moved_boxes(squares: Path, tmp_path: Path) -> None:
    options = ({}, {"workers": WorkersAsked(2)})
    paths = [
        run(study_on(squares, **ON_VIEWS), tmp_path / str(number), squares.parent / "cache", **own)
        for number, own in enumerate(options)
    ]
    pd.testing.assert_frame_equal(*tables_without_times(*paths))


def test_a_stopped_run_is_resumed_to_the_same_table(finished: Path, squares: Path, tmp_path: Path) -> None:
    cache = squares.parent / "cache"
    with pytest.raises(KeyboardInterrupt):
        run(study_on(squares), tmp_path / "stopped", cache, reporter=Stopped(stderr))
    resume_run(
        tmp_path / "stopped", study_on(squares), storage_url=None, cache_dir=cache, reporter=LineReporter(stderr)
    )
    pd.testing.assert_frame_equal(*tables_without_times(finished, tmp_path / "stopped"))


def test_plan_counts_the_outputs_of_the_head(squares: Path) -> None:
    options = {"n_parallel": 3, "device": torch.device("cpu"), "cache_dir": squares.parent / "cache"}
    prepared = prepare(study_on(squares).study, **options)
    plan = plan_study(plan_features(prepared, squares.parent / "cache"), prepared)
    assert prepared.spec.n_outputs == 4 * (2 + 4)
    assert plan.multiply_adds > 2 * prepared.spec.n_tokens * prepared.spec.n_outputs * prepared.spec.width
    assert plan.bytes_per_lane > 0


@pytest.mark.parametrize(
    ("declared", "named"),
    [
        ({"read_out": "tokens"}, "--read-out tokens"),
        ({"pool": "class"}, "--pool class"),
        ({"task": "segmentation"}, "segmentation"),
    ],
)
def test_options_that_boxes_do_not_allow_give_one_clear_error(
    squares: Path, tmp_path: Path, declared: dict[str, object], named: str
) -> None:
    with pytest.raises(UsageError, match=named.replace("-", ".")):
        run(study_on(squares, **declared), tmp_path / "run", squares.parent / "cache")


@pytest.mark.parametrize(
    ("config", "named"),
    [
        (LaneConfig(lr=1e-3, rank=2, side_network="mixer"), "last, ladder, convolution, full_convolution, probe"),
        (LaneConfig(lr=1e-3, rank=2, dropout=0.1), "dropout"),
        (LaneConfig(lr=1e-3, rank=2, loss="dice"), "focal_giou"),
    ],
)
def test_lanes_that_boxes_do_not_allow_give_one_clear_error(
    squares: Path, tmp_path: Path, config: LaneConfig, named: str
) -> None:
    study = Study(
        suggest=lambda trial: config,
        baseline={},
        **{name: getattr(study_on(squares).study, name) for name in ("data", "backbone", "group_size")},
    )
    with pytest.raises(UsageError, match=named):
        run(LoadedStudy("refused", Path("refused.py"), study), tmp_path / "run", squares.parent / "cache")


def test_without_the_package_for_metrics_nothing_starts(
    squares: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    find = importlib.util.find_spec
    monkeypatch.setattr(
        importlib.util, "find_spec", lambda name, *rest: None if name == "faster_coco_eval" else find(name, *rest)
    )
    with pytest.raises(UsageError, match=r"\.\[detection\]"):
        run(study_on(squares), tmp_path / "run", squares.parent / "cache")
