"""A run on boxes: its report, and its exported model in every use."""

import json
from pathlib import Path

import numpy as np
import onnxruntime
import pandas as pd
import pytest
import torch
from PIL import Image
from small_runs import call
from squares import CLASSES, HEIGHT, SPLITS, WIDTH, draw_squares
from torchvision.ops import box_iou

import sweep
import sweep.cli
from sweep import LaneConfig, Study
from sweep.data import load_data
from sweep.errors import UsageError
from sweep.export.detections import cells_of
from sweep.export.write import export_run
from sweep.report.write import write_report
from sweep.running.runner import run_study
from sweep.study.finding import LoadedStudy
from sweep.tasks.boxes import OVERLAP_OF_ONE, decoded
from sweep.terminal.console import stderr
from sweep.terminal.progress import LineReporter

N_IMAGES = sum(SPLITS.values())
LOW = "0.05"
"""A score that the boxes of a short training exceed."""


@pytest.fixture(scope="module")
def squares(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Images with boxes, one of which cannot be used."""
    root = draw_squares(tmp_path_factory.mktemp("squares") / "squares")
    annotation = root / "Annotations" / "test_0.xml"
    box = "<xmin>5</xmin><ymin>5</ymin><xmax>5</xmax><ymax>9</ymax>"
    without_area = f"<object><name>dark</name><bndbox>{box}</bndbox></object></annotation>"
    annotation.write_text(annotation.read_text().replace("</annotation>", without_area))
    return root


@pytest.fixture(scope="module")
def finished(squares: Path) -> Path:
    study = Study(
        suggest=lambda trial: LaneConfig(lr=1e-2, rank=trial.suggest_categorical("rank", [2, 5])),
        baseline={"rank": 5},
        data=str(squares),
        backbone="tiny-untrained",
        group_size=2,
        epochs=10,
        batch_size=8,
        trials=2,
        side_network="ladder",
    )
    folder = run_study(
        LoadedStudy("squares", Path("squares.py"), study),
        n_parallel=2,
        out=squares.parent / "run",
        storage_url=None,
        device_name="cpu",
        cache_dir=squares.parent / "cache",
        reporter=LineReporter(stderr),
        on_bad_image="skip",
    )
    return folder.path


@pytest.fixture(scope="module")
def shipped(finished: Path, squares: Path) -> Path:
    export_run(finished, squares.parent / "model", torch_export=True, onnx=True, cache_dir=squares.parent / "cache")
    return squares.parent / "model"


@pytest.fixture(scope="module")
def ensemble(finished: Path, squares: Path) -> Path:
    export_run(finished, squares.parent / "ensemble", ensemble="top2", cache_dir=squares.parent / "cache")
    return squares.parent / "ensemble"


def test_a_box_that_was_left_out_is_recorded(finished: Path) -> None:
    (skipped,) = json.loads((finished / "config.json").read_text())["skipped_images"]
    assert skipped["path"].endswith("test_0.xml")
    assert skipped["reason"] == "object 1 (dark, 5 5 to 5 9) has no area"


def test_report_shows_true_and_predicted_boxes(finished: Path, squares: Path, tmp_path: Path) -> None:
    said: list[str] = []
    write_report(finished, tmp_path / "report.html", cache_dir=squares.parent / "cache", say=said.append)
    page = (tmp_path / "report.html").read_text()
    assert "True and predicted boxes" in page
    assert page.count("data:image/png") >= SPLITS["val"]
    assert "AP50" in page


def test_every_cell_of_the_output_has_scores_and_a_box(shipped: Path, squares: Path) -> None:
    model = sweep.load_model(shipped)
    assert model.class_names == CLASSES
    image = Image.open(squares / "JPEGImages" / "test_3.jpg")
    batch = model.transform(image).unsqueeze(0)
    with torch.no_grad():
        cells, outputs = model(batch), model.outputs(batch)
    assert cells.shape == (1, 4 * outputs.shape[1], len(CLASSES) + 4)
    left, top, right, bottom = cells[0, :, -4:].unbind(-1)
    assert (left < right).all()
    assert (top < bottom).all()
    (found,) = decoded(outputs, len(CLASSES), score_threshold=0.05, most=100)
    best = cells[0, :, :-4].sigmoid().amax(1).argmax()
    assert found.scores[0] == pytest.approx(cells[0, best, :-4].sigmoid().max().item())
    assert found.corners[0].tolist() == pytest.approx(cells[0, best, -4:].clamp(0, 1).tolist(), abs=1e-6)


def test_boxes_of_an_image_are_in_its_pixels(shipped: Path, squares: Path) -> None:
    model = sweep.load_model(shipped)
    image = Image.open(squares / "JPEGImages" / "test_3.jpg")
    found = model.detect(image, min_score=0.05)
    twice = model.detect(image.resize((2 * WIDTH, 3 * HEIGHT), Image.Resampling.NEAREST), min_score=0.05)
    assert len(found.scores) > 0
    assert found.scores.tolist() == sorted(found.scores.tolist(), reverse=True)
    assert ((found.corners >= 0) & (found.corners <= torch.tensor([WIDTH, HEIGHT] * 2))).all()
    assert twice.corners[0].tolist() == pytest.approx(
        (found.corners[0] * torch.tensor([2, 3] * 2)).tolist(), abs=0.2 * WIDTH
    ), "the same places in a larger image, whose pixels are resized a little differently"
    assert (found.scores[0] - twice.scores[0]).abs() < 0.1
    for label in range(len(CLASSES)):
        own = found.corners[found.classes == label]
        assert (box_iou(own, own).triu(1) <= OVERLAP_OF_ONE).all()
    assert len(model.detect(image, min_score=1.0).scores) == 0


def test_graph_gives_the_cells(shipped: Path, squares: Path) -> None:
    model = sweep.load_model(shipped)
    graph = torch.export.load(shipped / "model.pt2").module()
    batch = torch.stack(
        [model.transform(Image.open(squares / "JPEGImages" / f"test_{number}.jpg")) for number in range(3)]
    )
    with torch.no_grad():
        assert graph(batch) == pytest.approx(model(batch), abs=1e-4)
        (of_onnx,) = onnxruntime.InferenceSession(shipped / "model.onnx").run(None, {"images": batch.numpy()})
        assert of_onnx == pytest.approx(model(batch).numpy(), abs=1e-4)
        assert model(batch) == pytest.approx(cells_of(model.outputs(batch)))
    card = (shipped / "README.md").read_text()
    assert "model.detect(" in card
    assert "(N, S, C + 4)" in card


def test_code_of_the_card(shipped: Path, squares: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(shipped)
    code = (shipped / "README.md").read_text().split("```python\n")[1].split("```")[0]
    exec(code.replace("photo.jpg", str(squares / "JPEGImages" / "test_3.jpg")), {})


@pytest.mark.parametrize("folder", ["shipped", "ensemble"])
def test_evaluation_measures_what_the_run_measured(
    folder: str,
    request: pytest.FixtureRequest,
    finished: Path,
    squares: Path,
    capsys: pytest.CaptureFixture[str],
) -> None:
    model = request.getfixturevalue(folder)
    assert call("evaluate", str(model), str(squares), "--on-bad-image", "skip", "--json") == 0
    found = json.loads(capsys.readouterr().out)
    summary = sweep.load_run(finished).summary["winner"]
    of_winner = found["metrics"]["model" if folder == "shipped" else f"trial {summary['trial']}"]
    for name, value in of_winner.items():
        assert value == pytest.approx(summary["test"][name], abs=1e-3), name
    assert [row["name"] for row in found["by_class"]] == list(CLASSES)
    whole = found["metrics"]["model" if folder == "shipped" else "ensemble"]
    for column in ("ap", "ap50"):
        assert np.mean([row[column] for row in found["by_class"]]) == pytest.approx(whole[column])
    data = load_data(str(squares), seed=0, cache_dir=squares.parent / "cache", on_bad_image="skip")
    assert [row["n_boxes"] for row in found["by_class"]] == data.test.labels.sum(0).tolist()


def test_evaluation_finds_classes_by_name_and_shows_a_table(
    shipped: Path, squares: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    options = ("--split", "val", "--on-bad-image", "skip", "--json")
    assert call("evaluate", str(shipped), str(squares), *options) == 0
    before = json.loads(capsys.readouterr().out)
    other = tmp_path / "other"
    for folder in ("JPEGImages", "Annotations"):
        (other / folder).mkdir(parents=True)
        for path in (squares / folder).glob("val_*"):
            (other / folder / path.name).write_bytes(path.read_bytes())
    (other / "classes.txt").write_text("dark\nspoon\nbright\n")
    assert call("evaluate", str(shipped), str(other), "--json") == 0
    after = json.loads(capsys.readouterr().out)
    assert after["metrics"]["model"] == pytest.approx(before["metrics"]["model"])
    assert after["by_class"] == before["by_class"]
    assert call("evaluate", str(shipped), str(other)) == 0
    assert "each class, over the boxes of all images" in capsys.readouterr().out


def test_prediction_writes_boxes_that_can_be_read_again(shipped: Path, squares: Path, tmp_path: Path) -> None:
    file, table = tmp_path / "annotations.json", tmp_path / "counts.csv"
    images = squares / "JPEGImages"
    options = ("--boxes", str(file), "--min-score", LOW, "--csv", str(table))
    assert call("predict", str(shipped), str(images), *options) == 0
    content = json.loads(file.read_text())
    rows = pd.read_csv(table)
    assert list(rows.columns) == ["path", "n_bright", "n_dark"]
    assert len(rows) == len(content["images"]) == N_IMAGES
    assert [image["file_name"] for image in content["images"]] == sorted(path.name for path in images.iterdir())
    assert {(image["width"], image["height"]) for image in content["images"]} == {(WIDTH, HEIGHT)}
    assert rows[["n_bright", "n_dark"]].to_numpy().sum() == len(content["annotations"]) > 0
    (tmp_path / "images").symlink_to(images)
    again = load_data(str(tmp_path), seed=None, cache_dir=tmp_path / "cache").test
    model = sweep.load_model(shipped)
    assert again.boxes is not None
    for index in range(0, N_IMAGES, 9):
        found, own = model.detect(again.open(index), min_score=float(LOW)), again.boxes(index)
        assert own.classes.tolist() == found.classes.tolist()
        assert own.corners == pytest.approx(found.corners.numpy(), abs=0.011)


@pytest.mark.parametrize(
    ("options", "said"),
    [((), "--boxes"), (("--boxes", "b.json", "--masks", "m"), "--masks is for segmentation")],
)
def test_prediction_says_which_option_is_wrong(
    shipped: Path, squares: Path, options: tuple[str, ...], said: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert call("predict", str(shipped), str(squares / "JPEGImages"), *options) != 0
    assert said in capsys.readouterr().err


@pytest.mark.parametrize("options", [("--boxes", "b.json"), ("--min-score", "0.5")])
def test_a_model_of_classes_has_no_boxes(
    finished_run: Path, tmp_path: Path, options: tuple[str, ...], capsys: pytest.CaptureFixture[str]
) -> None:
    export_run(finished_run, tmp_path / "model", cache_dir=finished_run.parent / "cache")
    images = finished_run.parent / "images"
    assert call("predict", str(tmp_path / "model"), str(images), *options) != 0
    assert f"{options[0]} is for detection, and the model was trained for classes" in capsys.readouterr().err
    with pytest.raises(UsageError, match="finds no boxes"):
        sweep.load_model(tmp_path / "model").detect(Image.new("RGB", (9, 9)))
