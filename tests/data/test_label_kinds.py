"""Which kind of task the labels make (classes, several labels, numbers), read from tables, arrays and objects."""

import logging
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
import torch
from PIL import Image

from sweep.data import DataSet, load_data
from sweep.errors import UsageError

N = 20
PATHS = [f"{number}.png" for number in range(N)]
GREYS = np.arange(N * 6 * 5, dtype=np.uint8).reshape(N, 6, 5)


def table(folder: Path, suffix: str = "csv", **columns: Any) -> Path:
    for number, path in enumerate(PATHS):
        Image.new("RGB", (5, 4), (number, 0, 0)).save(folder / path)
    rows = pd.DataFrame({"path": PATHS, **columns})
    path = folder / f"photos.{suffix}"
    rows.to_csv(path, index=False) if suffix == "csv" else rows.to_parquet(path, index=False)
    return path


def load(spec: Any, task: str | None = None) -> DataSet:
    return load_data(str(spec) if isinstance(spec, Path) else spec, seed=0, cache_dir=Path("unused"), task=task)


def by_red(data: DataSet) -> np.ndarray:
    """Return every image's label, ordered by the images' red values, which number the images."""
    found = {
        split.open(i).convert("RGB").getpixel((0, 0))[0]: split.labels[i]
        for split in (data.train, data.val, data.test)
        for i in range(split.n_images)
    }
    return np.array([found[number] for number in sorted(found)])


HAS = np.array([[n % 2, n % 3 == 0, n % 5 != 0] for n in range(N)]).astype(int)
NAMES = ("cat", "dog", "a fox")
JOINED = ["|".join(name for name, has in zip(NAMES, row, strict=True) if has) for row in HAS]


@pytest.mark.parametrize("suffix", ["csv", "parquet"])
def test_labels_in_one_column_or_a_column_each(tmp_path: Path, suffix: str) -> None:
    data = load(table(tmp_path, suffix, label=JOINED, width=3))
    assert (data.task, data.class_names) == ("multi-label", ("a fox", "cat", "dog"))
    np.testing.assert_array_equal(by_red(data), HAS[:, [2, 0, 1]])
    assert "" in JOINED, "an image may have no label"
    assert "64 / 16 / 20 % of all images" in data.description
    data = load(table(tmp_path, suffix, **{name: HAS[:, c] for c, name in enumerate(NAMES)}))
    assert (data.task, data.class_names) == ("multi-label", NAMES)
    np.testing.assert_array_equal(by_red(data), HAS)
    truths = load(table(tmp_path, suffix, **{name: HAS[:, c] == 1 for c, name in enumerate(NAMES)}))
    assert truths.train.fingerprint == data.train.fingerprint
    other = load(table(tmp_path, suffix, **{name: 1 - HAS[:, c] for c, name in enumerate(NAMES)}))
    assert other.train.fingerprint != data.train.fingerprint


@pytest.mark.parametrize("suffix", ["csv", "parquet"])
def test_numbers(tmp_path: Path, suffix: str) -> None:
    numbers = np.linspace(-1, 7, N)
    data = load(table(tmp_path, suffix, target=numbers, width=3))
    assert (data.task, data.class_names) == ("regression", ("target",))
    np.testing.assert_array_equal(by_red(data)[:, 0], numbers)
    data = load(table(tmp_path, suffix, target_x=numbers, target_y=np.arange(N), split=["train", "test"] * 10))
    assert (data.task, data.class_names) == ("regression", ("x", "y"))
    assert [split.n_images for split in (data.train, data.val, data.test)] == [8, 2, 10]
    np.testing.assert_array_equal(by_red(data), np.stack([numbers, np.arange(N)], 1))


def test_a_given_task_decides(tmp_path: Path) -> None:
    path = table(tmp_path, label=[f"{n % 2}|{n % 2}" for n in range(N)], target=range(N))
    assert load(path).task == "multi-label"
    assert load(path, "classes").class_names == ("0|0", "1|1")
    assert load(path, "regression").class_names == ("target",)
    path = table(tmp_path, label=[f"{n % 4}" for n in range(N)])
    assert load(path).task == "classes"
    np.testing.assert_array_equal(by_red(load(path, "regression"))[:, 0], np.arange(N) % 4)
    assert load(path, "multi-label").n_classes == 4


@pytest.mark.parametrize(
    ("columns", "task", "message"),
    [
        ({"cat": HAS[:, 0], "age": range(N)}, None, r"photos\.csv:4: age is '2', not 0 or 1\. Without a column"),
        ({"target": ["1", "tall", *["2"] * 18]}, None, r"photos\.csv:3: target: 'tall' is not a finite number"),
        ({"target": ["1", "inf", *["2"] * 18]}, None, r"photos\.csv:3: target: 'inf' is not a finite number"),
        ({"target": [4] * N}, None, r"target has one value in all 13 train images of table"),
        ({"label": ["|"] * N}, None, r"no train image of table .* has a label"),
        ({"label": ["a", "b"] * 10}, "regression", r"photos\.csv:2: 'a' is not a finite number"),
        (
            {"cat": HAS[:, 0], "dog": HAS[:, 1]},
            "classes",
            r"photos\.csv:4 has 0 columns of 1; for classes, every",
        ),
        ({"cat": HAS[:, 0]}, "classes", r"photos\.csv has no column label"),
        ({"cat": HAS[:, 0], "dog": HAS[:, 1]}, "regression", r"photos\.csv has no column target"),
        ({"target": range(N)}, "classes", r"classes in table .*photos\.csv have too few images: '0' has 1, "),
        ({"label": ["a|b", "b"] * 10, "split": ["train"] * N}, None, r"photos\.csv has no test images"),
    ],
)
def test_labels_that_fit_no_task_are_refused(
    tmp_path: Path, columns: dict[str, Any], task: str | None, message: str
) -> None:
    with pytest.raises(UsageError, match=message):
        load(table(tmp_path, **columns), task)


def test_a_label_that_cannot_be_learned_gives_a_warning(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    labels = [*["a|b", "a", "b", ""] * 4, "a|rare", "b", "a", "b"]
    path = table(tmp_path, label=labels, split=["train"] * 12 + ["val"] * 4 + ["test"] * 4)
    with caplog.at_level(logging.WARNING):
        assert load(path).class_names == ("a", "b", "rare")
    assert "the label 'rare', so it cannot be learned" in caplog.text


@pytest.mark.parametrize(
    ("labels", "task", "found", "names"),
    [
        (HAS, None, "multi-label", ("0", "1", "2")),
        (HAS.astype(bool), None, "multi-label", ("0", "1", "2")),
        (HAS.astype(np.float32), "multi-label", "multi-label", ("0", "1", "2")),
        (np.arange(N) / 4, None, "regression", ("target",)),
        (np.arange(N)[:, None] / np.float32(4), None, "regression", ("target",)),
        (np.arange(2 * N).reshape(N, 2) / 4, None, "regression", ("0", "1")),
        (np.arange(N), "regression", "regression", ("target",)),
    ],
)
def test_arrays(tmp_path: Path, labels: np.ndarray, task: str | None, found: str, names: tuple[str, ...]) -> None:
    np.savez(tmp_path / "scans.npz", images=GREYS, labels=labels)
    data = load(tmp_path / "scans.npz", task)
    assert (data.task, data.class_names) == (found, names)
    rows = {image.tobytes(): row for image, row in zip(GREYS, labels.reshape(N, -1), strict=True)}
    for split in (data.train, data.val, data.test):
        for i in range(split.n_images):
            np.testing.assert_array_equal(split.labels[i], rows[np.asarray(split.open(i)).tobytes()])


class Numbered:
    """Images whose red value is their number. `label` computes the label from the number."""

    def __init__(self, label: Callable[[int], Any]):
        self.label = label

    def __len__(self) -> int:
        return N

    def __getitem__(self, index: int) -> tuple[Image.Image, Any]:
        if index >= N:
            raise IndexError
        return Image.new("RGB", (5, 4), (index, 0, 0)), self.label(index)


@pytest.mark.parametrize(
    ("label", "task", "expected"),
    [
        (lambda n: torch.from_numpy(HAS[n]), "multi-label", HAS),
        (lambda n: tuple(HAS[n].tolist()), "multi-label", HAS),
        (lambda n: n / 4, "regression", np.arange(N)[:, None] / 4),
        (lambda n: torch.tensor([n / 4, 2.0 * n]), "regression", np.arange(N)[:, None] * [0.25, 2]),
    ],
)
def test_objects(label: Callable[[int], Any], task: str, expected: np.ndarray) -> None:
    data = load({"all": Numbered(label)})
    assert data.task == task
    np.testing.assert_array_equal(by_red(data), expected)


@pytest.mark.parametrize(
    ("label", "message"),
    [
        (lambda n: n if n else 0.5, r"the label of .*\[1\] is array\(1\), of another kind than that of .*\[0\]"),
        (lambda n: [0, 1, n], r"the labels of Study\.data holds int64 of shape \(20, 3\); for multi-label"),
        (lambda n: [[0, 1]], r"the label of .*\[0\] is \[\[0, 1\]\], not a class index"),
        (lambda n: [0, [1, 2]], r"the label of .*\[0\] is \[0, \[1, 2\]\], not a class index"),
    ],
)
def test_unsuitable_labels_of_objects_are_refused(label: Callable[[int], Any], message: str) -> None:
    with pytest.raises(UsageError, match=message):
        load({"all": Numbered(label)})


def test_folders_and_named_sets_have_their_own_task(photos: Path) -> None:
    assert load(photos, "classes").task == "classes"
    with pytest.raises(UsageError, match=r"the folder .*photos makes a task of the kind classes, not regression"):
        load(photos, "regression")
    with pytest.raises(UsageError, match="sprite-set makes a task of the kind multi-label, not classes"):
        load("sprite-set", "classes")
