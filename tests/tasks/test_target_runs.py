"""Whole runs with several labels and with numbers: search, tables, report, export, prediction, verification, resume."""

import csv
import json
import sys
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import onnxruntime
import optuna
import pandas as pd
import pytest
import torch
from PIL import Image
from small_runs import Stopped

import sweep
import sweep.cli
from sweep import LaneConfig, Study, UsageError, load_results
from sweep.data import load_data
from sweep.export.write import export_run
from sweep.running.resume import resume_run
from sweep.running.runner import run_study
from sweep.study.asking import check_baseline
from sweep.study.finding import LoadedStudy, load_study
from sweep.tasks.kinds import MULTI_LABEL, REGRESSION, TASK_KINDS
from sweep.tasks.targets import Target
from sweep.terminal.console import stderr
from sweep.terminal.progress import LineReporter

N_IMAGES = 90
LABELS = ("left", "right", "top")
TASKS = pytest.mark.parametrize("task", ["multi-label", "regression"])


def draw(root: Path) -> None:
    """Draw images of noise. Labels brighten the left, right and upper part; a number sets the overall brightness."""
    root.mkdir()
    rng = np.random.default_rng(0)
    has = rng.integers(0, 2, (N_IMAGES, 3))
    brightness = rng.uniform(0, 100, N_IMAGES)
    rows = []
    for number in range(N_IMAGES):
        pixels = rng.uniform(0, 40, (32, 32, 3)) + brightness[number]
        for place, own in zip((np.s_[:, :10], np.s_[:, 22:], np.s_[:10]), has[number], strict=True):
            pixels[place] += 15 * own
        Image.fromarray(pixels.clip(0, 255).astype(np.uint8)).save(root / f"{number}.png")
        rows.append((f"{number}.png", "|".join(np.array(LABELS)[has[number] == 1]), brightness[number] / 10 + 500))
    table = pd.DataFrame(rows, columns=["path", "label", "target"])
    table[["path", "label"]].to_csv(root / "multi-label.csv", index=False)
    table[["path", "target"]].to_csv(root / "regression.csv", index=False)


def suggest(trial: optuna.Trial) -> LaneConfig:
    return LaneConfig(
        lr=trial.suggest_float("lr", 1e-3, 1e-1, log=True), rank=trial.suggest_categorical("rank", [1, 2])
    )


@pytest.fixture(scope="module")
def images(tmp_path_factory: pytest.TempPathFactory) -> Path:
    root = tmp_path_factory.mktemp("targets") / "images"
    draw(root)
    return root


@pytest.fixture(scope="module")
def study_of(images: Path) -> Callable[..., Study]:
    def make(table: str, **declared: Any) -> Study:
        small = Study(
            suggest=suggest,
            baseline={"lr": 1e-2, "rank": 2},
            max_rank=2,
            backbone="tiny-untrained",
            data=str(images / f"{table}.csv"),
            group_size=2,
            epochs=4,
            trials=4,
            batch_size=16,
        )
        return replace(small, **declared)

    return make


def run(study: Study, out: Path, cache: Path, **options: Any) -> Path:
    return run_study(
        LoadedStudy("small", Path("small.py"), study),
        out=out,
        cache_dir=cache,
        **{
            "n_parallel": 2,
            "storage_url": None,
            "device_name": "cpu",
            "reporter": LineReporter(stderr),
            **options,
        },
    ).path


@pytest.fixture(scope="module")
def runs(study_of: Callable[..., Study], images: Path) -> dict[str, Path]:
    cache = images.parent / "cache"
    return {task: run(study_of(task), images.parent / task, cache) for task in ("multi-label", "regression")}


def command(monkeypatch: pytest.MonkeyPatch, cache: Path, *arguments: str) -> int:
    monkeypatch.setenv("SWEEP_CACHE_DIR", str(cache))
    monkeypatch.setattr(sys, "argv", ["sweep", *arguments])
    with pytest.raises(SystemExit) as ended:
        sweep.cli.main()
    return int(ended.value.code or 0)


@TASKS
def test_a_run_is_ranked_by_the_score_of_its_task(task: str, runs: dict[str, Path]) -> None:
    results, kind = load_results(runs[task]), TASK_KINDS[task]
    assert results.kind is kind
    assert results.objectives == {f"val_{kind.score}": "maximize"}
    complete = results.trials[results.trials["state"] == "COMPLETE"]
    assert len(complete) == 4
    assert complete[f"val_{kind.score}"].is_monotonic_decreasing
    assert {json.loads(text)["loss"] for text in complete["lane_config"]} == {kind.losses[0]}
    of_others = complete[complete["trial"] != 0]
    for mean, low, high in of_others[list(kind.paired_columns)].to_numpy():
        assert low <= mean <= high
    winner, probe = results.summary["winner"], results.summary["linear_probe"]
    assert winner["test"][kind.score] > 0.3, "the task can be learned"
    for numbers in (winner["val"], winner["test"], probe["val"], probe["test"]):
        assert set(kind.metrics) <= set(numbers)
        assert 0 < numbers[f"{kind.score}_error"] < 0.5


@TASKS
def test_commands_show_the_metrics_of_the_task(
    task: str, runs: dict[str, Path], monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    cache, kind = runs[task].parent / "cache", TASK_KINDS[task]
    assert command(monkeypatch, cache, "results", str(runs[task])) == 0
    printed = capsys.readouterr().out
    summary = load_results(runs[task]).summary
    assert f"{kind.metrics[kind.score]} (± standard error over " in printed
    test = summary["winner"]["test"]
    assert f"{test[kind.score]:.3f} ± {test[f'{kind.score}_error']:.3f}" in printed
    assert command(monkeypatch, cache, "verify", str(runs[task]), "--trial", "1") == 0
    assert "the trial trained alone equals the record" in capsys.readouterr().out
    assert command(monkeypatch, cache, "report", str(runs[task])) == 0
    page = (runs[task] / "report.html").read_text()
    wanted = "Labels of trial" if task == "multi-label" else "Predicted and true values of trial"
    assert wanted in page
    assert "Confusion of" not in page


@TASKS
def test_the_exported_model_gives_what_the_run_measured(
    task: str, runs: dict[str, Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    shipped, results = tmp_path / "shipped", load_results(runs[task])
    exported = sweep.load_run(runs[task]).best.export(shipped, onnx=True)
    assert exported.differences.keys() == {"model.onnx"}
    assert exported.differences["model.onnx"] < 1e-4
    model = sweep.load_model(shipped)
    data = load_data(results.config["data"], seed=0, cache_dir=tmp_path)
    items = torch.stack([model.transform(data.test.open(i)) for i in range(data.test.n_images)])
    with torch.no_grad():
        outputs = model(items)
    output = "values" if task == "regression" else "logits"
    (of_graph,) = onnxruntime.InferenceSession(shipped / "model.onnx").run([output], {"images": items.numpy()})
    torch.testing.assert_close(torch.from_numpy(of_graph), outputs, rtol=1e-6, atol=1e-4)
    labels = torch.from_numpy(data.test.labels)
    plain = Target(MULTI_LABEL) if task == "multi-label" else Target(REGRESSION, (0.0,), (1.0,))
    measured = plain.measure(outputs[None], labels)
    for name, value in measured.items():
        assert value.item() == pytest.approx(results.summary["winner"]["test"][name], abs=2e-3)
    if task == "regression":
        assert 500 < outputs.mean() < 510, "in the targets' own units"
    card = (shipped / "README.md").read_text()
    assert f"images to {len(data.class_names)} {TASK_KINDS[task].outputs}" in card
    assert f"`model.onnx`: for ONNX Runtime, from `images` (N, 3, 32, 32) to `{output}` (N, C)" in card

    table = tmp_path / "predicted.csv"
    image = data.test.source(0)
    assert command(monkeypatch, tmp_path, "predict", str(shipped), image, "--csv", str(table)) == 0
    (row,) = csv.DictReader(table.read_text().splitlines())
    if task == "regression":
        assert float(row["target"]) == pytest.approx(outputs[0].item(), rel=1e-4)
    else:
        p = outputs[0].sigmoid()
        said = [name for name, value in zip(data.class_names, p, strict=True) if value >= 0.5]
        assert row["labels"] == "|".join(said)
        assert float(row[f"p_{data.class_names[1]}"]) == pytest.approx(p[1].item(), abs=1e-5)


@TASKS
def test_an_ensemble_is_exported(task: str, runs: dict[str, Path], tmp_path: Path) -> None:
    members = [sweep.load_run(runs[task]).trial(trial).load() for trial in range(4)]
    export_run(runs[task], tmp_path / "all", ensemble="top4", cache_dir=tmp_path)
    model = sweep.load_model(tmp_path / "all")
    images = torch.randn(2, 3, 32, 32, generator=torch.Generator().manual_seed(0))
    images = torch.nn.functional.interpolate(images, size=(model.transform.image_size,) * 2)
    with torch.no_grad():
        said, of_members = model(images), torch.stack([member(images) for member in members])
    if task == "multi-label":
        torch.testing.assert_close(said.sigmoid(), of_members.sigmoid().mean(0))
    else:
        torch.testing.assert_close(said, of_members.mean(0))


@pytest.mark.parametrize("task", ["regression", pytest.param("multi-label", marks=pytest.mark.slow)])
def test_the_model_is_exported_as_a_program(task: str, runs: dict[str, Path], tmp_path: Path) -> None:
    exported = export_run(runs[task], tmp_path / "shipped", torch_export=True, cache_dir=tmp_path)
    assert exported.differences.keys() == {"model.pt2"}
    assert exported.differences["model.pt2"] < 1e-4


@pytest.mark.slow
@TASKS
def test_an_ensemble_can_be_exported_as_a_graph(task: str, runs: dict[str, Path], tmp_path: Path) -> None:
    exported = export_run(
        runs[task], tmp_path / "all", ensemble="top2", onnx=True, torch_export=True, cache_dir=tmp_path
    )
    assert max(exported.differences.values()) < 1e-4


def test_a_notebook_plots_numbers_against_the_true_ones(runs: dict[str, Path], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("SWEEP_CACHE_DIR", str(runs["regression"].parent / "cache"))
    run = sweep.load_run(runs["regression"])
    points, diagonal = run.plot.predictions().data
    errors = np.array(points.y) - np.array(points.x)
    assert np.sqrt((errors**2).mean()) == pytest.approx(run.summary["winner"]["val"]["rmse"], rel=1e-4)
    assert list(diagonal.x) == list(diagonal.y)
    with pytest.raises(UsageError, match=r"plot\.confusion\(\) needs the task classes"):
        run.plot.confusion()


@TASKS
def test_a_stopped_run_is_resumed_to_the_same_tables(
    task: str, runs: dict[str, Path], study_of: Callable[..., Study], tmp_path: Path
) -> None:
    cache = runs[task].parent / "cache"
    with pytest.raises(KeyboardInterrupt):
        run(study_of(task), tmp_path / "stopped", cache, reporter=Stopped(stderr))
    loaded = LoadedStudy("small", Path("small.py"), study_of(task))
    resume_run(tmp_path / "stopped", loaded, storage_url=None, cache_dir=cache, reporter=LineReporter(stderr))
    expected, found = load_results(runs[task]), load_results(tmp_path / "stopped")
    pd.testing.assert_frame_equal(found.trials.drop(columns="seconds"), expected.trials.drop(columns="seconds"))
    pd.testing.assert_frame_equal(found.curves, expected.curves)
    assert found.summary["winner"] == expected.summary["winner"]


def test_settings_that_do_not_fit_the_task_are_refused_before_anything_runs(
    study_of: Callable[..., Study], images: Path, tmp_path: Path
) -> None:
    def attempt(table: str, **declared: Any) -> None:
        run(study_of(table, **declared), tmp_path / "run", images.parent / "cache")

    with pytest.raises(
        UsageError, match=r"LaneConfig.loss is 'focal', .* kind regression, whose losses are mse, huber"
    ):
        attempt("regression", suggest=lambda trial: LaneConfig(lr=0.1, rank=1, loss="focal"), baseline={})
    with pytest.raises(UsageError, match=r"'val_top1', .* kind multi-label; give one of val_map, "):
        attempt("multi-label", objectives={"val_top1": "maximize"})
    with pytest.raises(
        UsageError, match="task must be one of classes, multi-label, regression, segmentation, detection, not 'ranking'"
    ):
        attempt("multi-label", task="ranking")
    with pytest.raises(
        UsageError, match=r"Study\.other_tasks has 'ranking': .*; give a sweep\.Space for each of classes"
    ):
        attempt("multi-label", other_tasks={"ranking": None})
    assert not (tmp_path / "run").exists()


def test_own_metrics_get_numbers_in_their_units(study_of: Callable[..., Study], images: Path, tmp_path: Path) -> None:
    def worst(values: torch.Tensor, targets: torch.Tensor) -> float:
        assert 450 < values.mean() < 560
        assert 500 <= targets.min() <= targets.max() <= 510
        return (values - targets).abs().max().item()

    study = study_of("regression", metrics={"worst": worst}, objectives={"val_worst": "minimize"}, epochs=2, trials=2)
    trials = load_results(run(study, tmp_path / "run", images.parent / "cache")).trials
    assert (trials["val_worst"] >= trials["val_mae"]).all()


@pytest.mark.parametrize("task", TASK_KINDS)
def test_lr_rank_searches_losses_that_fit(task: str) -> None:
    kind = TASK_KINDS[task]
    study = load_study("lr_rank").study.on(kind)
    check_baseline(study)
    sampled = optuna.create_study(sampler=optuna.samplers.RandomSampler(seed=0))
    losses = {study.lane_config(sampled.ask()).loss for _ in range(12)}
    assert len(losses) == 1 if len(kind.losses) == 1 else len(losses) > 1
    assert losses <= set(kind.losses)
