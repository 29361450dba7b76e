"""Segmentation from start to end: a folder of images and masks, a run, and all commands that read the run."""

import json
from pathlib import Path

import numpy as np
import onnxruntime
import optuna
import pandas as pd
import pytest
import torch
from PIL import Image
from scenes import HEIGHT, N_IMAGES, WIDTH, draw_scenes
from small_runs import Stopped, call, tables_without_times

import sweep
import sweep.cli
from sweep import LaneConfig, Study
from sweep.errors import UsageError
from sweep.export.write import export_run
from sweep.report.write import write_report
from sweep.running.planner import plan_features
from sweep.running.preparation import prepare
from sweep.running.resume import resume_run
from sweep.running.runner import run_study
from sweep.study.finding import LoadedStudy
from sweep.terminal.console import stderr
from sweep.terminal.progress import LineReporter
from sweep.verify.verify import verify_trial
from sweep.workers.request import WorkersAsked


def suggest(trial: optuna.Trial) -> LaneConfig:
    return LaneConfig(
        lr=trial.suggest_float("lr", 1e-3, 5e-2, log=True),
        rank=trial.suggest_categorical("rank", [2, 5]),
        loss=trial.suggest_categorical("loss", ["cross_entropy", "dice"]),
        side_network=trial.suggest_categorical("side_network", ["convolution", "ladder", "last", "probe"]),
        head_stages=trial.suggest_categorical("head_stages", [1, 2]),
        head_cells=trial.suggest_categorical("head_cells", [1, 2]),
    )


OF_HEAD = {"head_stages": 2, "head_cells": 2}
BASELINE = {"lr": 1e-2, "rank": 5, "loss": "cross_entropy", "side_network": "convolution", **OF_HEAD}


def study_on(data: Path | str, **declared: object) -> LoadedStudy:
    options = {"backbone": "tiny-untrained", "group_size": 2, "epochs": 6, "batch_size": 8, "trials": 4, **declared}
    study = Study(suggest=suggest, baseline=BASELINE, data=str(data), **options)  # type: ignore[arg-type]
    return LoadedStudy("scenes", Path("scenes.py"), study)


def run(loaded: LoadedStudy, out: Path, cache_dir: Path, **options: object) -> Path:
    given = {"n_parallel": 3, "storage_url": None, "device_name": "cpu", "reporter": LineReporter(stderr), **options}
    return run_study(loaded, out=out, cache_dir=cache_dir, **given).path  # type: ignore[arg-type]


@pytest.fixture(scope="module")
def scenes(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return draw_scenes(tmp_path_factory.mktemp("scenes") / "scenes")


@pytest.fixture(scope="module")
def finished(scenes: Path) -> Path:
    return run(study_on(scenes), scenes.parent / "run", scenes.parent / "cache")


@pytest.fixture(scope="module")
def shipped(finished: Path, scenes: Path) -> Path:
    export_run(finished, scenes.parent / "model", torch_export=True, onnx=True, cache_dir=scenes.parent / "cache")
    return scenes.parent / "model"


def test_run_learns_the_masks_and_tests_winner_and_probe(finished: Path) -> None:
    results = sweep.load_run(finished).results
    assert results.kind.name == "segmentation"
    assert list(results.objectives) == ["val_miou"]
    summary = results.summary
    for method in ("winner", "linear_probe"):
        assert summary[method]["test"]["miou"] > 0.3  # the answer "ground" everywhere has 0.27
        assert summary[method]["test"]["miou_error"] > 0


@pytest.mark.parametrize("trial", [0, 2])
def test_trial_trained_alone_equals_the_record(finished: Path, scenes: Path, trial: int) -> None:
    verification = verify_trial(finished, trial, device=torch.device("cpu"), cache_dir=scenes.parent / "cache")
    assert verification.kept, verification.comparisons
    assert verification.comparisons[0].difference == 0


@pytest.mark.slow
def test_same_command_gives_the_same_table_on_workers(finished: Path, scenes: Path, tmp_path: Path) -> None:
    again = run(study_on(scenes), tmp_path / "again", scenes.parent / "cache", workers=WorkersAsked(2))
    pd.testing.assert_frame_equal(*tables_without_times(finished, again))


@pytest.mark.parametrize("declared", [{}, {"augment": "flip-crop", "views": 2}])
def test_folds_measure_every_image_and_a_lane_alone_equals_its_record(
    scenes: Path, tmp_path: Path, declared: dict[str, object]
) -> None:
    cache = scenes.parent / "cache"
    path = run(study_on(scenes, folds=3, trials=2, epochs=3, **declared), tmp_path / "folds", cache)
    assert sweep.load_run(path).trials["val_miou"].between(0, 1).all()
    verification = verify_trial(path, 0, device=torch.device("cpu"), cache_dir=cache)
    assert verification.kept, verification.comparisons


def test_a_run_on_views_is_verified_and_resumed_to_the_same_table(finished: Path, scenes: Path, tmp_path: Path) -> None:
    cache, declared = scenes.parent / "cache", {"augment": "flip-crop-affine", "views": 2, "trials": 2, "epochs": 4}
    whole = run(study_on(scenes, **declared), tmp_path / "whole", cache)
    verification = verify_trial(whole, 0, device=torch.device("cpu"), cache_dir=cache)
    assert verification.kept, verification.comparisons
    assert verification.comparisons[0].difference == 0
    with pytest.raises(KeyboardInterrupt):
        run(study_on(scenes, **declared), tmp_path / "part", cache, reporter=Stopped(stderr))
    loaded, reporter = study_on(scenes, **declared), LineReporter(stderr)
    resume_run(tmp_path / "part", loaded, storage_url=None, cache_dir=cache, reporter=reporter)
    pd.testing.assert_frame_equal(*tables_without_times(whole, tmp_path / "part"))
    assert sweep.load_run(whole).trials["val_miou"][0] != sweep.load_run(finished).trials["val_miou"][0]


def test_views_that_are_not_cached_give_nearly_the_table_of_those_that_are(scenes: Path, tmp_path: Path) -> None:
    cache, declared = scenes.parent / "cache", {"augment": "flip-crop", "trials": 2, "epochs": 3, "batch_size": 32}
    held = run(study_on(scenes, **declared, views=3), tmp_path / "held", cache)
    live = run(study_on(scenes, **declared, cache="off"), tmp_path / "live", cache)
    names = ["val_miou", "val_pixel_accuracy"]
    tables = [sweep.load_run(path).trials[names] for path in (held, live)]
    pd.testing.assert_frame_equal(*tables, atol=0.02)
    assert sweep.load_run(live).summary["linear_probe"]["test"]["miou"] > 0.2


def test_the_plan_counts_the_views(scenes: Path) -> None:
    n_images = []
    for declared in ({}, {"augment": "flip", "views": 3}):
        study = study_on(scenes, **declared).study
        prepared = prepare(study, n_parallel=2, device=torch.device("cpu"), cache_dir=scenes.parent / "cache")
        n_images.append(plan_features(prepared, scenes.parent / "cache").n_images)
    assert n_images[1] - n_images[0] == 2 * prepared.data.train.n_images


def test_resumed_run_has_ended(finished: Path, scenes: Path) -> None:
    before = (finished / "trials.csv").read_bytes() if (finished / "trials.csv").is_file() else None
    resume_run(
        finished,
        study_on(scenes),
        storage_url=None,
        cache_dir=scenes.parent / "cache",
        reporter=LineReporter(stderr),
    )
    assert before is None or (finished / "trials.csv").read_bytes() == before


def test_model_predicts_every_pixel_as_in_the_run(shipped: Path, scenes: Path) -> None:
    model = sweep.load_model(shipped)
    image = Image.open(scenes / "images" / "0.png")
    with torch.no_grad():
        logits = model(model.transform(image).unsqueeze(0))
    side = model.transform.image_size
    assert logits.shape == (1, 3, side, side)
    assert model.class_names == ("ground", "bright", "<dark>")
    session = onnxruntime.InferenceSession(shipped / "model.onnx")
    (of_graph,) = session.run(["logits"], {"images": model.transform(image).unsqueeze(0).numpy()})
    torch.testing.assert_close(torch.from_numpy(of_graph), logits, rtol=0, atol=1e-4)


def test_evaluation_measures_what_the_run_measured(
    shipped: Path, finished: Path, scenes: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert call("evaluate", str(shipped), str(scenes), "--json") == 0
    found = json.loads(capsys.readouterr().out)
    test = sweep.load_run(finished).summary["winner"]["test"]
    for name, value in found["metrics"]["model"].items():
        assert value == pytest.approx(test[name], abs=1e-3), name
    assert [row["name"] for row in found["by_class"]] == ["ground", "bright", "<dark>"]
    assert np.mean([row["iou"] for row in found["by_class"]]) == pytest.approx(found["metrics"]["model"]["miou"])


def test_prediction_writes_a_mask_for_every_image(shipped: Path, scenes: Path, tmp_path: Path) -> None:
    folder, table = tmp_path / "masks", tmp_path / "shares.csv"
    assert call("predict", str(shipped), str(scenes / "images"), "--masks", str(folder), "--csv", str(table)) == 0
    rows = pd.read_csv(table)
    assert len(rows) == N_IMAGES
    right = total = 0
    for row in rows.itertuples():
        said = Image.open(row.mask)
        assert said.mode == "P"
        assert said.size == (WIDTH, HEIGHT)
        relative = Path(row.path).relative_to(scenes / "images")
        assert Path(row.mask) == folder / relative
        true, values = np.asarray(Image.open(scenes / "masks" / relative)), np.asarray(said)
        labelled = true != 255
        right, total = right + (values == true)[labelled].sum(), total + labelled.sum()
        assert row.share_bright == pytest.approx((values == 1).mean(), abs=1e-6)
    assert right / total > 0.7


def test_prediction_needs_a_folder_for_masks(shipped: Path, scenes: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert call("predict", str(shipped), str(scenes / "images")) != 0
    assert "--masks" in capsys.readouterr().err


def test_report_shows_true_and_predicted_masks(finished: Path, scenes: Path, tmp_path: Path) -> None:
    said: list[str] = []
    write_report(finished, tmp_path / "report.html", cache_dir=scenes.parent / "cache", say=said.append)
    page = (tmp_path / "report.html").read_text()
    assert "True and predicted masks" in page
    assert "&lt;dark&gt;" in page
    assert "<dark>" not in page


@pytest.mark.parametrize(
    ("declared", "named"),
    [
        ({"read_out": "tokens"}, "--read-out tokens"),
        ({"pool": "class"}, "--pool class"),
        ({"task": "classes"}, "--task"),
    ],
)
def test_options_that_masks_do_not_allow_give_one_clear_error(
    scenes: Path, tmp_path: Path, declared: dict[str, object], named: str
) -> None:
    with pytest.raises(UsageError, match=named.replace("-", ".")):
        run(study_on(scenes, **declared), tmp_path / "run", scenes.parent / "cache")


@pytest.mark.parametrize("family", ["mixer", "multi_stage"])
def test_a_family_without_outputs_for_tokens_is_refused(scenes: Path, tmp_path: Path, family: str) -> None:
    loaded = study_on(scenes)
    study = Study(
        suggest=lambda trial: LaneConfig(lr=1e-3, rank=2),
        baseline={},
        **{name: getattr(loaded.study, name) for name in ("data", "backbone", "group_size")},
        side_network=family,
    )
    with pytest.raises(UsageError, match="last, ladder, convolution, full_convolution, probe"):
        run(LoadedStudy("refused", Path("refused.py"), study), tmp_path / "run", scenes.parent / "cache")
