"""Suites of tasks with several labels and with numbers: retraining on train and val, and the means over tasks."""

from dataclasses import replace
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import torch
from PIL import Image
from rich.console import Console

import sweep
from backbones import load_backbone
from sweep import LaneConfig, Study, SweepError, UsageError
from sweep.cli.show_suite import show_suite
from sweep.data import load_data
from sweep.data.suites import find_suite
from sweep.features.batches import StageData
from sweep.features.cache import compute_features
from sweep.machine.checked_files import read_weights
from sweep.machine.seeds import derive_seed
from sweep.records.folder import RunFolder
from sweep.records.reporter import Reporter
from sweep.records.suite_results import TABLE, SuiteResults, load_suite
from sweep.running.retrain import RECORD, read_retrained
from sweep.side_networks.spec import SideNetworkSpec
from sweep.tasks.kinds import CLASSES, MULTI_LABEL, REGRESSION
from sweep.tasks.targets import Target
from sweep.training.engine import train
from sweep.training.stack import Stack, split_logits

SPLITS = ["train"] * 16 + ["val"] * 8 + ["test"] * 12
SEEDS = 2
STUDY = Study(
    suggest=lambda trial: LaneConfig(lr=trial.suggest_float("lr", 1e-3, 1e-1, log=True), rank=2),
    baseline={"lr": 1e-2},
    max_rank=2,
    backbone="tiny-untrained",
    group_size=2,
    trials=2,
    epochs=2,
    batch_size=8,
    seeds=SEEDS,
)


def draw(folder: Path, **labels: list[object]) -> None:
    """Create a task of images whose brightness follows `brightnesses()`, with columns of labels."""
    folder.mkdir(parents=True)
    rng = np.random.default_rng(0)
    paths = [f"{number}.png" for number in range(len(SPLITS))]
    for path, brightness in zip(paths, brightnesses(), strict=True):
        pixels = rng.integers(0, 60, (16, 16, 3)) + int(190 * brightness)
        Image.fromarray(pixels.astype(np.uint8)).save(folder / path)
    pd.DataFrame({"path": paths, "split": SPLITS, **labels}).to_csv(folder / "task.csv", index=False)


def brightnesses() -> list[float]:
    return np.random.default_rng(1).uniform(0, 1, len(SPLITS)).tolist()


@pytest.fixture(scope="module")
def tasks(tmp_path_factory: pytest.TempPathFactory) -> Path:
    root = tmp_path_factory.mktemp("suite") / "mine"
    shares = brightnesses()
    draw(root / "ages", target=[40 + 20 * share for share in shares])
    draw(root / "bright", label=["day" if share > 0.5 else "night" for share in shares])
    draw(root / "tags", label=["day|very" if share > 0.7 else "day" if share > 0.4 else "" for share in shares])
    draw(root / "years", target_first=shares, target_second=[share**2 for share in shares])
    (root / "notes").mkdir()
    return root


@pytest.fixture(scope="module")
def found(tasks: Path) -> SuiteResults:
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("SWEEP_CACHE_DIR", str(tasks.parent / "cache"))
        return sweep.run_tasks(
            STUDY, data=str(tasks), out=tasks.parent / "out", n_parallel=4, device="cpu", reporter=Reporter()
        )


def test_each_column_and_each_mean_has_one_metric(found: SuiteResults, tasks: Path) -> None:
    table = found.tasks.set_index("task")
    assert table["kind"].to_dict() == {
        "ages": "regression",
        "bright": "classes",
        "tags": "multi-label",
        "years": "regression",
    }
    for kind in (CLASSES, MULTI_LABEL, REGRESSION):
        of_kind = table["kind"] == kind.name
        for column in (f"winner_test_{kind.score}", f"linear_probe_val_{kind.score}", f"winner_test_{kind.score}_std"):
            assert table[column].notna().eq(of_kind).all()
    r2 = table.loc[["ages", "years"], "winner_test_r2"]
    assert found.means("winner_test_r2") == pytest.approx((r2.mean(), r2.mean()))
    assert found.means("winner_test_map")[1] == table.loc["tags", "winner_test_map"]
    record = sweep.machine.checked_files.read_json(tasks.parent / "out" / "suite.json")
    assert record["means"]["winner_test_r2"]["flat_mean"] == pytest.approx(r2.mean())
    pd.testing.assert_frame_equal(load_suite(tasks.parent / "out").tasks, found.tasks)


def test_a_table_for_each_metric_is_printed(found: SuiteResults) -> None:
    console = Console(width=200)
    with console.capture() as capture:
        show_suite(console, found, Path("out"))
    printed = " ".join(capture.get().split())
    assert "mine, 1 of its 4 tasks: top-1 (%); chosen on val" in printed
    assert "mine, 1 of its 4 tasks: mAP; chosen on val" in printed
    assert "mine, 2 of its 4 tasks: R²; chosen on val" in printed
    for heading in ("top-1 (%)", "mAP", "R²"):
        assert f"means on test, {heading}" in printed
    mean = found.means("winner_test_r2")[1]
    assert f"winner │ {mean:.3f} │ {mean:.3f} │ {mean:.3f}" in printed
    assert "VTAB" not in printed


@pytest.mark.parametrize("name", ["ages", "tags"])
def test_retrained_is_a_plain_training_on_train_and_val(found: SuiteResults, tasks: Path, name: str) -> None:
    """Repeat the retraining by hand: joined features of both splits, targets scaled as in train, documented seeds."""
    cache, folder = tasks.parent / "cache", RunFolder(tasks.parent / "out" / name)
    data = load_data(str(tasks / name / "task.csv"), seed=0, cache_dir=cache)
    target = Target.of(data.task, data.train.labels)
    backbone = load_backbone("tiny-untrained", group_size=2, cache_dir=cache)
    parts = [compute_features(backbone, part, cache_dir=cache) for part in (data.train, data.val, data.test)]
    stages, labels = np.concatenate([part.stages for part in parts[:2]]), torch.cat([p.labels for p in parts[:2]])
    together = StageData(stages, labels, data.n_classes, target=target)
    config = LaneConfig(**sweep.load_results(folder.path).summary["winner"]["params"], rank=2).on(target.kind)
    spec = SideNetworkSpec(32, 3, data.n_classes, backbone.n_prefix_tokens, 1, "mean", 2)
    lanes = [spec.lane(2, derive_seed(0, "retraining", i)) for i in range(SEEDS)]
    states, _ = train(lanes, [config] * SEEDS, together, together, n_epochs=2, batch_size=8, seed=0)
    plain = []
    for state in states:
        plain.append(spec.plain(2))
        plain[-1].load_state_dict(spec.trimmed(2, state))
    outputs = split_logits(Stack(plain), parts[2].as_data(data.n_classes, target))
    measured = target.measure(outputs, parts[2].labels)
    retrained = read_retrained(folder)
    assert retrained is not None
    assert (retrained.n_train_images, retrained.n_test_images) == (24, 12)
    means = {metric: values.mean().item() for metric, values in measured.items()}
    assert retrained.winner == pytest.approx(means | target.standard_error(outputs[0], parts[2].labels))
    scores = measured[target.kind.score]
    assert retrained.winner_std == pytest.approx(scores.std(correction=0).item(), abs=1e-9)
    for key, tensor in read_weights(folder.path / "retrained.safetensors").items():
        torch.testing.assert_close(tensor, plain[0].state_dict()[key], rtol=0, atol=0)
    if target.kind is REGRESSION:
        assert retrained.winner["rmse"] < 30, "in the targets' own units"
        assert target.std[0] == pytest.approx(data.train.labels.std())


def test_records_of_another_task_count_as_damaged(found: SuiteResults, tasks: Path, tmp_path: Path) -> None:
    out = tasks.parent / "out"
    for name in ("suite.json", TABLE):
        (tmp_path / name).write_bytes((out / name).read_bytes())
    found.tasks.assign(kind="ranking").to_parquet(tmp_path / TABLE)
    with pytest.raises(SweepError, match=r"tasks\.parquet is damaged: it names an unknown kind of task"):
        load_suite(tmp_path)
    found.tasks.drop(columns="winner_val_map").to_parquet(tmp_path / TABLE)
    with pytest.raises(SweepError, match="it has no column winner_val_map"):
        load_suite(tmp_path)
    folder = RunFolder(tmp_path)
    (tmp_path / "config.json").write_text('{"task": "regression"}')
    (tmp_path / RECORD).write_bytes((out / "tags" / RECORD).read_bytes())
    with pytest.raises(SweepError, match=r"retrained\.json is damaged: its entry winner\.r2 is 'None'"):
        read_retrained(folder)


def test_tables_and_records_from_before_kinds(found: SuiteResults, tasks: Path, tmp_path: Path) -> None:
    before = found.tasks[found.tasks["kind"] == "classes"].drop(columns="kind").dropna(axis=1)
    before.to_parquet(tmp_path / TABLE)
    (tmp_path / "suite.json").write_text('{"suite": "VTAB-1K", "missing": {}}')
    assert load_suite(tmp_path).kinds == (CLASSES,)


def test_which_folders_are_tasks(
    tasks: Path, tmp_path: Path, text_table: Path, caplog: pytest.LogCaptureFixture
) -> None:
    suite = find_suite(str(tasks), tmp_path)
    assert suite is not None
    assert (suite.name, [task.name for task in suite.tasks]) == ("mine", ["ages", "bright", "tags", "years"])
    assert "ignored: " in caplog.text
    assert "mine/notes has no task.csv, task.parquet, task.npz and is not a saved data set" in caplog.text
    assert find_suite(str(tasks / "ages"), tmp_path) is None, "the folder of one task is no suite"
    texts = tmp_path / "several" / "mood"
    texts.mkdir(parents=True)
    (texts / "task.csv").write_bytes(text_table.read_bytes())
    (tmp_path / "several" / "pets").mkdir()
    (tmp_path / "several" / "pets" / "state.json").touch()
    suite = find_suite(str(tmp_path / "several"), tmp_path)
    assert suite is not None
    assert [Path(task.data).name for task in suite.tasks] == ["task.csv", "pets"]
    (texts / "task.npz").touch()
    with pytest.raises(UsageError, match=r"mood has both task\.csv and task\.npz; move one of them away"):
        find_suite(str(tmp_path / "several"), tmp_path)


@pytest.mark.usefixtures("whole_probe")
def test_texts_can_be_retrained(
    text_encoder: Path, text_table: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("SWEEP_CACHE_DIR", str(tmp_path / "cache"))
    task = tmp_path / "several" / "colours"
    task.mkdir(parents=True)
    (task / "task.csv").write_bytes(text_table.read_bytes())
    few = replace(STUDY, backbone=str(text_encoder), max_tokens=20, trials=1, seeds=1, data=str(task.parent))
    results = sweep.run_tasks(few, out=tmp_path / "out", device="cpu", reporter=Reporter())
    (row,) = results.tasks.to_dict("records")
    assert (row["task"], row["n_train"] + row["n_test"]) == ("colours", 90)
    assert row["linear_probe_test_top1"] > 0.5, "the colour word decides the label"
    photos = tmp_path / "several" / "photos"
    draw(photos, label=["a", "b"] * 18)
    with pytest.raises(UsageError, match="reads texts, and the data photos are images"):
        sweep.run_tasks(few, out=tmp_path / "mixed", device="cpu", reporter=Reporter())
