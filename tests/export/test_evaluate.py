"""`sweep evaluate` measures a model on any form of labelled data. Classes are matched by their names."""

import json
import shutil
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
import torch
from PIL import Image

import sweep
import sweep.cli
from sweep.data import load_data
from sweep.export.config import ModelConfig
from sweep.export.evaluated_data import evaluated_data
from sweep.export.write import export_run
from sweep.records.results import load_results
from sweep.tasks.breakdown import calibration_bins, class_scores, confusion_counts, label_scores
from sweep.tasks.metrics import classification_metrics
from tests.conftest import draw_images, run_on


@pytest.fixture(scope="module")
def own_run(tmp_path_factory: pytest.TempPathFactory) -> Path:
    root = tmp_path_factory.mktemp("evaluated")
    return run_on(draw_images(root / "images", "everywhere"), "run", trials=4)


@pytest.fixture(scope="module")
def shipped(own_run: Path) -> Path:
    export_run(own_run, own_run.parent / "model", cache_dir=own_run.parent / "cache")
    return own_run.parent / "model"


@pytest.fixture(autouse=True)
def cache(own_run: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("SWEEP_CACHE_DIR", str(own_run.parent / "cache"))
    return own_run.parent / "cache"


def call(capsys: pytest.CaptureFixture[str], *arguments: object) -> tuple[int, str, str]:
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(sys, "argv", ["sweep", "evaluate", *map(str, arguments)])
        with pytest.raises(SystemExit) as ended:
            sweep.cli.main()
    captured = capsys.readouterr()
    assert isinstance(ended.value.code, int)
    return ended.value.code, captured.out, captured.err


def evaluated(capsys: pytest.CaptureFixture[str], *arguments: object) -> dict[str, Any]:
    code, out, err = call(capsys, *arguments, "--json")
    assert code == 0, err
    found: dict[str, Any] = json.loads(out)
    return found


def test_on_the_data_of_the_run_the_test_numbers_are_repeated(
    own_run: Path, shipped: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    found = evaluated(capsys, shipped, own_run.parent / "images")
    summary = load_results(own_run).summary
    assert (found["split"], found["n_images"]) == ("test", summary["n_test_images"])
    expected = summary["winner"]["test"]  # the run read stages rounded to half precision
    assert found["metrics"]["model"]["top1"] == pytest.approx(expected["top1"], abs=1e-9)
    assert found["metrics"]["model"]["nll"] == pytest.approx(expected["nll"], abs=2e-3)


def test_other_data_is_measured_whole_and_matched_by_name(
    own_run: Path, shipped: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """The data has its classes in another order, lacks one, and has one with a single image. It is not split."""
    root = tmp_path / "new"
    for name, numbers in (("below", range(3)), ("above", range(1))):
        (root / name).mkdir(parents=True)
        for number in numbers:
            shutil.copy(own_run.parent / "images" / name / f"{number}.png", root / name)
    shutil.move(root / "below", root / "everywhere")
    found = evaluated(capsys, shipped, root)
    assert found["split"] == "all"
    assert found["n_images"] == 4
    model = sweep.load_model(shipped)
    files = [*sorted((root / "above").iterdir()), *sorted((root / "everywhere").iterdir())]
    labels = [model.class_names.index(file.parent.name) for file in files]
    with torch.no_grad():
        logits = model(torch.stack([model.transform(Image.open(file)) for file in files]))
    expected = classification_metrics(logits[None], torch.tensor(labels))
    for name, value in expected.items():
        assert found["metrics"]["model"][name] == pytest.approx(value.item(), abs=1e-5)
    confusion = np.array(found["confusion"])
    assert confusion.sum(1).tolist() == [1, 0, 3]
    assert confusion.trace() / 4 == pytest.approx(found["metrics"]["model"]["top1"])
    assert found["by_label"][1]["recall"] is None, "no image has this class"


def test_a_table_and_arrays_are_read_as_in_a_run(
    own_run: Path, shipped: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    files = sorted((own_run.parent / "images").glob("*/*.png"))[::7]
    (tmp_path / "pictures").mkdir()
    rows = []
    for number, file in enumerate(files):
        shutil.copy(file, tmp_path / "pictures" / f"{number}.png")
        rows.append({"file": f"{number}.png", "what": file.parent.name})
    pd.DataFrame(rows).to_csv(tmp_path / "new.csv", index=False)
    options = ("--image-root", tmp_path / "pictures", "--path-column", "file", "--label-column", "what")
    of_table = evaluated(capsys, shipped, tmp_path / "new.csv", *options)
    images = np.stack([np.asarray(Image.open(file)) for file in files])
    np.savez(tmp_path / "new.npz", images=images, labels=np.array([file.parent.name for file in files]))
    of_arrays = evaluated(capsys, shipped, tmp_path / "new.npz")
    assert of_table["n_images"] == len(files)
    assert of_table["metrics"] == of_arrays["metrics"]
    table = pd.read_csv(tmp_path / "new.csv").assign(split=["train", "test"] * (len(files) // 2) + ["test"])
    table.to_csv(tmp_path / "split.csv", index=False)
    of_split = evaluated(capsys, shipped, tmp_path / "split.csv", *options)
    assert (of_split["split"], of_split["n_images"]) == ("test", (table["split"] == "test").sum())
    of_all = evaluated(capsys, shipped, tmp_path / "split.csv", *options, "--split", "all")
    assert of_all["n_images"] == len(files)


def test_images_used_in_the_search_give_a_warning(
    own_run: Path, shipped: Path, capsys: pytest.CaptureFixture[str], caplog: pytest.LogCaptureFixture
) -> None:
    found = evaluated(capsys, shipped, own_run.parent / "images", "--split", "val")
    assert found["n_images"] == load_results(own_run).summary["n_val_images"]
    assert "that the model was trained and chosen on" in caplog.text


def test_changed_data_of_the_same_name_gives_a_warning(
    own_run: Path,
    shipped: Path,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
    caplog: pytest.LogCaptureFixture,
) -> None:
    shutil.copytree(own_run.parent / "images", tmp_path / "images")
    (tmp_path / "images" / "above" / "0.png").unlink()
    assert evaluated(capsys, shipped, tmp_path / "images")["n_images"] == 59
    assert "does not hold the same images. If training images are among them" in caplog.text


def test_every_member_of_an_ensemble_is_measured(own_run: Path, tmp_path: Path, cache: Path) -> None:
    export_run(own_run, tmp_path / "several", ensemble="top3", cache_dir=cache)
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("COLUMNS", "200")
        found = evaluated_members(tmp_path / "several", own_run.parent / "images")
    best = load_results(own_run).trials["trial"][:3].tolist()
    assert list(found) == ["ensemble", *(f"trial {number}" for number in best)]
    export_run(own_run, tmp_path / "one", trial=best[1], cache_dir=cache)
    alone = evaluated_members(tmp_path / "one", own_run.parent / "images")
    assert alone["model"]["nll"] == pytest.approx(found[f"trial {best[1]}"]["nll"], abs=1e-6)
    assert found["ensemble"]["nll"] not in [values["nll"] for name, values in found.items() if name != "ensemble"]


def evaluated_members(model: Path, data: Path) -> dict[str, dict[str, float]]:
    from sweep.export.evaluation import evaluate

    config = ModelConfig.read(model)
    found = evaluated_data(config, str(data), split=None, cache_dir=data.parent / "cache")
    trials = [member.trial for member in config.members]
    return evaluate(sweep.load_model(model), found, trials=trials, batch_size=5).metrics


def test_tables_for_a_reader(own_run: Path, shipped: Path, capsys: pytest.CaptureFixture[str]) -> None:
    code, out, _ = call(capsys, shipped, own_run.parent / "images")
    assert code == 0
    for shown in ("images, test split of the model's own run: 12 images", "confusion", "calibration", "everywhere"):
        assert shown in out


def test_data_that_cannot_be_evaluated_gives_one_error(
    own_run: Path, shipped: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    root = tmp_path / "new"
    (root / "elsewhere").mkdir(parents=True)
    shutil.copy(own_run.parent / "images" / "above" / "0.png", root / "elsewhere")
    code, _, err = call(capsys, shipped, root)
    assert code == 2
    assert "has classes that the model does not know: elsewhere. The model knows above, below, everywhere" in err
    (root / "elsewhere").rename(root / "above")
    code, _, err = call(capsys, shipped, root, "--split", "val")
    assert code == 2
    assert f"{root} has no val images" in err
    code, _, err = call(capsys, own_run, root)
    assert code == 2
    assert f"it is the folder of a run; make one with sweep export {own_run} --to DIR" in err
    pd.DataFrame({"text": ["one", "two"], "label": ["above", "below"]}).to_csv(tmp_path / "texts.csv", index=False)
    code, _, err = call(capsys, shipped, tmp_path / "texts.csv")
    assert code == 2
    assert "holds texts, but the model reads images" in err
    for number in (1, 2):  # the header can be read, but nothing follows it
        whole = (own_run.parent / "images" / "below" / f"{number}.png").read_bytes()
        (root / "above" / f"cut-{number}.png").write_bytes(whole[: len(whole) // 2])
    code, _, err = call(capsys, shipped, root)
    assert code == 1
    assert "cannot read 2 images" in err
    code, out, err = call(capsys, shipped, root, "--on-bad-image", "skip", "--json")
    assert (code, json.loads(out)["n_images"]) == (0, 1)
    code, _, err = call(capsys, shipped, "sprite-set")
    assert code == 2
    assert "sprite-set makes a task of the kind multi-label, but the model was trained for classes" in err


def test_several_labels_and_numbers(drawn_images: Path, tmp_path: Path, cache: Path) -> None:
    """The order of columns does not matter. A label that is not mentioned counts as one that no image has."""
    files = sorted(drawn_images.glob("*/*.png"))
    root = tmp_path / "several"
    (root / "pictures").mkdir(parents=True)
    rows = []
    for number, file in enumerate(files):
        shutil.copy(file, root / "pictures" / f"{number}.png")
        up, down = (file.parent.name in (name, "everywhere") for name in ("above", "below"))
        rows.append({"path": f"pictures/{number}.png", "up": int(up), "down": int(down), "target_x": number * 0.5})
    table = pd.DataFrame(rows)
    for name, columns, swapped in (
        ("flags", ["path", "up", "down"], ["path", "down", "up"]),
        ("numbers", ["path", "target_x"], ["path", "target_x"]),
    ):
        table[columns].to_csv(root / f"{name}.csv", index=False)
        run = run_on(root / f"{name}.csv", f"run-{name}", trials=2)
        export_run(run, root / f"model-{name}", cache_dir=cache)
        table[swapped].iloc[:30].to_csv(root / "part.csv", index=False)
        config = ModelConfig.read(root / f"model-{name}")
        found = evaluated_data(config, str(root / "part.csv"), split=None, cache_dir=cache)
        wanted = load_data(str(root / f"{name}.csv"), seed=None, cache_dir=cache)
        np.testing.assert_array_equal(found.labels, wanted.test.labels[:30])
        metrics = evaluated_members(root / f"model-{name}", root / f"{name}.csv")["model"]
        expected = load_results(run).summary["winner"]["test"]
        kind = config.target.kind
        assert metrics[kind.score] == pytest.approx(expected[kind.score], abs=5e-3)
        assert metrics[kind.tie] == pytest.approx(expected[kind.tie], rel=5e-3)


def test_breakdowns_equal_those_counted_in_a_loop() -> None:
    generator = torch.Generator().manual_seed(0)
    logits = torch.randn(200, 4, generator=generator)
    labels = torch.randint(4, (200,), generator=generator)
    predicted = logits.argmax(-1)
    confusion = confusion_counts(predicted, labels, 4)
    expected = torch.zeros(4, 4, dtype=torch.int64)
    for true, answer in zip(labels.tolist(), predicted.tolist(), strict=True):
        expected[true, answer] += 1
    assert torch.equal(confusion, expected)
    scores = class_scores(confusion, tuple("abcd"))
    assert scores[2].recall == pytest.approx((predicted[labels == 2] == 2).double().mean().item())
    assert scores[2].precision == pytest.approx((labels[predicted == 2] == 2).double().mean().item())
    bins = calibration_bins(logits.softmax(-1), labels)
    assert sum(one.n for one in bins) == 200
    ece = sum(one.n / 200 * abs(one.accuracy - one.confidence) for one in bins)
    assert ece == pytest.approx(classification_metrics(logits[None], labels)["ece"].item(), abs=1e-6)
    has = torch.tensor([[1, 0], [1, 0], [0, 0]])
    probabilities = torch.tensor([[0.9, 0.7], [0.2, 0.1], [0.8, 0.4]])
    first, second = label_scores(probabilities, has, ("a", "b"))
    assert (first.n, first.n_predicted, first.precision, first.recall) == (2, 2, 0.5, 0.5)
    assert (second.n, second.n_predicted, second.precision) == (0, 1, 0.0)
    assert np.isnan(second.recall)
