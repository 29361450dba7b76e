"""Warnings about labels that may have been read differently than meant, and what `--task` makes of such labels."""

import logging
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
from PIL import Image

from sweep.data import DataSet, load_data
from sweep.data.label_doubts import lookalikes

N = 48
GREYS = np.arange(N * 6 * 5, dtype=np.uint8).reshape(N, 6, 5)
CLASSES = np.arange(N) % 3
ONE_HOT = np.eye(3, dtype=int)[CLASSES]


def arrays(folder: Path, labels: Any) -> Path:
    np.savez(folder / "scans.npz", images=GREYS, labels=labels)
    return folder / "scans.npz"


def table(folder: Path, suffix: str = "csv", **columns: Any) -> Path:
    for number in range(N):
        Image.new("RGB", (5, 4), (number, 0, 0)).save(folder / f"{number}.png")
    rows = pd.DataFrame({"path": [f"{number}.png" for number in range(N)], **columns})
    path = folder / f"photos.{suffix}"
    rows.to_csv(path, index=False) if suffix == "csv" else rows.to_parquet(path, index=False)
    return path


def load(path: Path, task: str | None = None) -> DataSet:
    return load_data(str(path), seed=0, cache_dir=Path("unused"), task=task)


def classes_by_red(data: DataSet) -> list[int]:
    found = {
        split.open(i).getpixel((0, 0))[0]: int(split.labels[i])
        for split in (data.train, data.val, data.test)
        for i in range(split.n_images)
    }
    return [found[number] for number in range(N)]


def test_classes_of_a_float_type(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    path = arrays(tmp_path, CLASSES.astype(np.float32))
    with caplog.at_level(logging.WARNING):
        assert load(path).task == "regression"
    assert "the targets are 0, 1, 2 and nothing else, read as numbers to be predicted; give --task cl" in caplog.text
    caplog.clear()
    data = load(path, "classes")
    assert (data.task, data.class_names) == ("classes", ("0", "1", "2"))
    assert load(path, "regression").task == "regression"
    assert caplog.text == "", "no warning if the user has given the task"


def test_real_numbers_give_no_warning(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    load(arrays(tmp_path, np.linspace(0, 1, N)))
    load(arrays(tmp_path, np.arange(N, dtype=float)))
    assert caplog.text == ""


@pytest.mark.parametrize(
    ("labels", "task"), [(ONE_HOT, "multi-label"), (ONE_HOT.astype(float), "regression")], ids=["whole", "float"]
)
def test_one_hot_arrays(tmp_path: Path, labels: np.ndarray, task: str, caplog: pytest.LogCaptureFixture) -> None:
    path = arrays(tmp_path, labels)
    with caplog.at_level(logging.WARNING):
        assert load(path).task == task
    assert "every image has a 1 in one column and 0 in all others" in caplog.text
    data = load(path, "classes")
    assert data.class_names == ("0", "1", "2")
    assert sorted(data.train.labels.tolist() + data.val.labels.tolist() + data.test.labels.tolist()) == sorted(CLASSES)


def test_one_hot_columns(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    path = table(tmp_path, cat=ONE_HOT[:, 0], dog=ONE_HOT[:, 1], fox=ONE_HOT[:, 2])
    with caplog.at_level(logging.WARNING):
        assert load(path).task == "multi-label"
    assert "give --task classes if the columns are classes" in caplog.text
    data = load(path, "classes")
    assert data.class_names == ("cat", "dog", "fox")
    assert classes_by_red(data) == CLASSES.tolist()


def test_a_column_target_of_classes(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    path = table(tmp_path, target=CLASSES)
    with caplog.at_level(logging.WARNING):
        assert load(path).task == "regression"
    assert "the targets are 0, 1, 2 and nothing else" in caplog.text
    data = load(path, "classes")
    assert classes_by_red(data) == CLASSES.tolist()


def test_whole_numbers_that_pandas_made_floats(tmp_path: Path) -> None:
    data = load(table(tmp_path, "parquet", label=CLASSES.astype(float)))
    assert data.class_names == ("0", "1", "2")
    assert classes_by_red(data) == CLASSES.tolist()


def test_a_bar_in_very_few_labels(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    rows = pd.DataFrame({"text": [f"text {n}" for n in range(100)], "label": ["a", "b"] * 50})
    rows.loc[7, "label"] = "a|b"
    rows.to_csv(tmp_path / "texts.csv", index=False)
    with caplog.at_level(logging.WARNING):
        assert load(tmp_path / "texts.csv").task == "multi-label"
    assert "1 of 100 images have more than one label" in caplog.text


@pytest.mark.parametrize("labels", [["a", "a "], ["a", "\ta"]])
def test_spaces_around_a_label_are_no_part_of_it(tmp_path: Path, labels: list[str]) -> None:
    values = np.array([*labels, "b"])[CLASSES]
    assert load(arrays(tmp_path, values)).class_names == ("a", "b")
    assert load(table(tmp_path, label=values)).class_names == ("a", "b")


def test_similar_class_names_give_a_warning(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    with caplog.at_level(logging.WARNING):
        assert load(table(tmp_path, label=np.array(["Dog", "dog", "cat"])[CLASSES])).n_classes == 3
    assert "has the classes 'Dog' and 'dog', which are learned as different ones" in caplog.text
    assert lookalikes(["red  car", "Red car", "bus"]) == [("red  car", "Red car")]
    assert lookalikes(["1", "1.0", "01", "10", "nan"]) == [("1", "1.0"), ("1", "01")]
