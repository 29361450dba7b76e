"""The names that splits may have in folders, tables, arrays, saved data sets and objects."""

import logging
from pathlib import Path

import datasets
import numpy as np
import pandas as pd
import pytest
from PIL import Image

from sweep.data import DataSet, load_data
from sweep.errors import UsageError


def pictures(folder: Path, n: int, first: int) -> None:
    folder.mkdir(parents=True, exist_ok=True)
    for number in range(first, first + n):
        Image.new("RGB", (5, 4), (number, 0, 0)).save(folder / f"{number}.png")


def tree(root: Path, *splits: str) -> Path:
    """For each split, create the classes cats and dogs with 5 images each.

    The red values of a split start at 0, 20, 40, …
    """
    for place, split in enumerate(splits):
        for c, name in enumerate(("cats", "dogs")):
            pictures(root / split / name, 5, 20 * place + 10 * c)
    return root


def load(spec: object) -> DataSet:
    return load_data(spec if isinstance(spec, dict) else str(spec), seed=0, cache_dir=Path("unused"))


def sizes(data: DataSet) -> tuple[int, int, int]:
    return data.train.n_images, data.val.n_images, data.test.n_images


@pytest.mark.parametrize("splits", [("Train", "Test"), ("training", "testing"), ("TRAIN", "TESTING")])
def test_folders_without_val(tmp_path: Path, splits: tuple[str, ...]) -> None:
    data = load(tree(tmp_path, *splits))
    assert data.class_names == ("cats", "dogs")
    assert sizes(data) == (8, 2, 10)
    assert {data.test.open(i).getpixel((0, 0))[0] // 20 for i in range(10)} == {1}


@pytest.mark.parametrize("val", ["val", "Valid", "validation", "dev"])
def test_folders_with_val(tmp_path: Path, val: str) -> None:
    data = load(tree(tmp_path, "Training", val, "testing"))
    assert sizes(data) == (10, 10, 10)
    for place, split in enumerate((data.train, data.val, data.test)):
        assert {split.open(i).getpixel((0, 0))[0] // 20 for i in range(10)} == {place}


@pytest.mark.parametrize(
    ("folders", "message"),
    [
        (("train", "valid"), "has the folders train, valid but no test folder: add"),
        (("training", "validation"), "has the folders training, validation but no test folder"),
        (("val", "test"), "has the folders test, val but no train folder"),
        (("train", "val", "validation", "test"), "two of which are the same split; keep one folder per split"),
        (("train", "extra"), "seems to hold splits, but beside train it has extra"),
        (("Train", "Test", "unlabelled"), "seems to hold splits, but beside Test, Train it has unlabelled"),
    ],
)
def test_ambiguous_folders_are_refused(tmp_path: Path, folders: tuple[str, ...], message: str) -> None:
    with pytest.raises(UsageError, match=message):
        load(tree(tmp_path, *folders))


def test_folders_that_look_like_splits_give_a_warning(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    with caplog.at_level(logging.WARNING):
        assert load(tree(tmp_path, "fitting", "holdout")).class_names == ("fitting", "holdout")
    assert "fitting, holdout" in caplog.text
    assert "have the same folders in them (cats, dogs) and are read as classes" in caplog.text


@pytest.mark.parametrize("suffix", ["csv", "parquet"])
def test_columns_and_their_values_in_any_case(tmp_path: Path, suffix: str) -> None:
    pictures(tmp_path, 12, 0)
    rows = pd.DataFrame(
        {
            "Path": [f"{number}.png" for number in range(12)],
            "LABEL": ["a", "b"] * 6,
            "Split": ["Train"] * 6 + ["VALIDATION"] * 2 + ["dev"] * 2 + ["Testing"] * 2,
        }
    )
    path = tmp_path / f"photos.{suffix}"
    rows.to_csv(path, index=False) if suffix == "csv" else rows.to_parquet(path, index=False)
    data = load(path)
    assert sizes(data) == (6, 4, 2)
    assert [data.test.open(i).getpixel((0, 0))[0] for i in range(2)] == [10, 11]


@pytest.mark.parametrize("suffix", ["csv", "parquet"])
def test_an_unread_column_that_looks_like_splits_gives_a_warning(
    tmp_path: Path, suffix: str, caplog: pytest.LogCaptureFixture
) -> None:
    pictures(tmp_path, 12, 0)
    rows = pd.DataFrame({"path": [f"{n}.png" for n in range(12)], "label": ["a", "b"] * 6, "author": "me"})
    rows["subset"] = ["train"] * 8 + ["test"] * 4
    path = tmp_path / f"photos.{suffix}"
    rows.to_csv(path, index=False) if suffix == "csv" else rows.to_parquet(path, index=False)
    with caplog.at_level(logging.WARNING):
        load(path)
    assert "the column subset of" in caplog.text
    assert "looks like splits and is not read" in caplog.text
    assert "author" not in caplog.text


@pytest.mark.parametrize("names", ["x_train y_train x_valid y_valid x_test y_test", "Train Valid Test"])
def test_arrays(tmp_path: Path, names: str) -> None:
    images = np.arange(12 * 6 * 5, dtype=np.uint8).reshape(12, 6, 5)
    labels = np.arange(12) % 2
    parts = (slice(0, 6), slice(6, 8), slice(8, 12))
    if names.startswith("x"):
        keys = iter(names.split())
        arrays = {next(keys): array for part in parts for array in (images[part], labels[part])}
    else:
        arrays = {
            f"{split}_{what}": array[part]
            for split, part in zip(names.split(), parts, strict=True)
            for what, array in (("Images", images), ("LABELS", labels))
        }
    np.savez(tmp_path / "scans.npz", **arrays)
    data = load(tmp_path / "scans.npz")
    assert sizes(data) == (6, 2, 4)
    np.testing.assert_array_equal(np.asarray(data.val.open(0)), images[6])


def test_two_arrays_of_one_split_are_refused_and_unused_ones_named(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    images, labels = np.zeros((12, 6, 5), np.uint8), np.arange(12) % 2
    arrays = {"x_train": images, "y_train": labels, "x_test": images, "y_test": labels}
    np.savez(tmp_path / "scans.npz", **arrays, x_val=images, X_valid=images)
    with pytest.raises(UsageError, match=r"scans\.npz has both X_valid and x_val; keep one"):
        load(tmp_path / "scans.npz")
    np.savez(tmp_path / "scans.npz", **arrays, x_holdout=images)
    with caplog.at_level(logging.WARNING):
        load(tmp_path / "scans.npz")
    assert "the arrays x_holdout" in caplog.text


def test_saved_data_sets(tmp_path: Path) -> None:
    pictures(tmp_path, 4, 0)
    features = datasets.Features({"image": datasets.Image(), "label": datasets.ClassLabel(names=["a", "b"])})
    part = datasets.Dataset.from_dict(
        {"image": [str(tmp_path / f"{n}.png") for n in range(4)], "label": [0, 1] * 2}, features=features
    )
    datasets.DatasetDict({"training": part, "dev": part, "testing": part}).save_to_disk(tmp_path / "saved")
    assert sizes(load(tmp_path / "saved")) == (4, 4, 4)


def test_objects() -> None:
    items = [(Image.new("RGB", (4, 4), (n, 0, 0)), n % 2) for n in range(4)]
    assert sizes(load({"training": items, "Validation": items[:2], "test": items})) == (4, 2, 4)
