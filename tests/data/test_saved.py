"""Hugging Face data sets on disk, written by the package that users write them with."""

import json
import shutil
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import datasets
import numpy as np
import pyarrow as pa
import pytest
from PIL import Image

from sweep.data import DataSet, OnBadImage, load_data
from sweep.errors import SweepError, UsageError

NAMES = ["cat", "dog"]


@pytest.fixture(autouse=True)
def own_cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(datasets.config, "HF_DATASETS_CACHE", tmp_path / "hf")


def made(start: int, labels: Sequence[object], kind: Any = None, **more: Any) -> datasets.Dataset:
    """One image a label, its red value the row's number, counted from `start`."""
    images = [Image.new("RGB", (5, 4), (start + row, 0, 0)) for row in range(len(labels))]
    kinds = {"image": datasets.Image(), "label": kind or datasets.ClassLabel(names=NAMES)}
    features = datasets.Features({**kinds, **{name: datasets.Value("int64") for name in more}})
    return datasets.Dataset.from_dict({"image": images, "label": list(labels), **more}, features=features)


def saved(data: Any, folder: Path, **options: Any) -> Path:
    data.save_to_disk(folder, **options)
    return folder


def load(folder: Path, on_bad_image: OnBadImage = "error") -> DataSet:
    return load_data(str(folder), seed=0, cache_dir=folder / "unused", on_bad_image=on_bad_image)


def reds(data: DataSet) -> list[list[int]]:
    return [
        [split.open(i).getpixel((0, 0))[0] for i in range(split.n_images)]
        for split in (data.train, data.val, data.test)
    ]


def test_splits_of_a_dict(tmp_path: Path) -> None:
    parts = {"train": made(0, [0, 1, 1]), "validation": made(10, [1]), "test": made(20, [1, 0])}
    data = load(saved(datasets.DatasetDict(parts), tmp_path / "pets"))
    assert (data.name, data.class_names) == ("pets", ("cat", "dog"))
    assert reds(data) == [[0, 1, 2], [10], [20, 21]]
    assert data.train.labels.tolist() == [0, 1, 1]


def test_one_data_set_is_split_and_may_be_shuffled_and_in_several_files(tmp_path: Path) -> None:
    whole = made(0, [0, 1] * 10, weight=list(range(20))).shuffle(seed=3).select(range(18))
    data = load(saved(whole, tmp_path / "pets", num_shards=3))
    parts = reds(data)
    assert min(map(len, parts)) >= 2
    assert sorted(red for part in parts for red in part) == sorted(whole["weight"])
    for split, part in zip((data.train, data.val, data.test), parts, strict=True):
        assert split.labels.tolist() == [red % 2 for red in part]


def test_labels_without_names(tmp_path: Path) -> None:
    assert load(saved(made(0, [7, 30] * 3, datasets.Value("int64")), tmp_path / "a")).class_names == ("7", "30")
    assert load(saved(made(0, ["x", "y"] * 3, datasets.Value("string")), tmp_path / "b")).class_names == ("x", "y")


def test_fingerprint_is_the_contents_and_labels(tmp_path: Path) -> None:
    def fingerprint(name: str, start: int, labels: list[int]) -> str:
        parts = {"train": made(start, labels), "val": made(0, labels), "test": made(0, labels)}
        return load(saved(datasets.DatasetDict(parts), tmp_path / name)).train.fingerprint

    reference = fingerprint("a", 0, [0, 1])
    assert fingerprint("b", 0, [0, 1]) == reference
    assert len({reference, fingerprint("c", 1, [0, 1]), fingerprint("d", 0, [1, 0])}) == 3


@pytest.mark.parametrize(
    ("data", "message"),
    [
        ({"train": [0, 1]}, r"dataset_dict\.json has the splits train; sweep takes train, test and"),
        ({"train": [0, 1], "test": [0], "extra": [0]}, r"has the splits train, test, extra"),
        ({"train": [0, 1], "val": [0], "validation": [0], "test": [0]}, r"has the splits train, val, validation, test"),
        ({"train": [0, 0], "test": [1]}, r"class 'dog' of .* is in test but not in train"),
        ({"train": [0, 1, None], "test": [1]}, r"train, row 2: label is None; labels are 0 to 1, one an image"),
        ({"train": [0, 1, 1], "test": [-1]}, r"test, row 0: label is -1; labels are 0 to 1"),
    ],
)
def test_wrong_splits_and_labels(tmp_path: Path, data: dict[str, list[int]], message: str) -> None:
    parts = {name: made(0, labels) for name, labels in data.items()}
    with pytest.raises(UsageError, match=message):
        load(saved(datasets.DatasetDict(parts), tmp_path / "pets"))


@pytest.mark.parametrize(
    ("data", "message"),
    [
        (
            made(0, [0, 1]).rename_column("label", "kind").cast_column("kind", datasets.Value("int64")),
            "none named label",
        ),
        (made(0, [0, 1]).remove_columns("image"), r"has 0 Image columns, one is needed \(its columns: label\)"),
        (made(0, [0.5, 1.5], datasets.Value("float32")), r"row 0: label is 0\.5; labels are whole numbers or text"),
        (made(0, [0, 1]).cast_column("image", datasets.Image(decode=False)).add_column("more", [1, 2]), "has 1 images"),
    ],
)
def test_wrong_columns(tmp_path: Path, data: datasets.Dataset, message: str) -> None:
    with pytest.raises(UsageError, match=message):
        load(saved(data, tmp_path / "pets"))


def edit(path: Path, **values: object) -> None:
    path.write_text(json.dumps({**json.loads(path.read_text()), **values}))


def test_no_file_outside_of_the_folder_is_read(tmp_path: Path) -> None:
    private = saved(made(0, [0, 1] * 4), tmp_path / "private")
    folder = saved(made(0, [0, 1] * 4), tmp_path / "pets")
    for name in ("../private/data-00000-of-00001.arrow", str(private / "data-00000-of-00001.arrow")):
        edit(folder / "state.json", _data_files=[{"filename": name}])
        with pytest.raises(UsageError, match=r"state\.json: .* leads out of the folder"):
            load(folder)
    (folder / "link.arrow").symlink_to(private / "data-00000-of-00001.arrow")
    edit(folder / "state.json", _data_files=[{"filename": "link.arrow"}])
    with pytest.raises(UsageError, match=r"link\.arrow is behind a link that leads out"):
        load(folder)
    parts = tmp_path / "parts"
    saved(datasets.DatasetDict({"train": made(0, [0, 1]), "test": made(0, [0, 1])}), parts)
    shutil.rmtree(parts / "test")
    (parts / "test").symlink_to(private)
    with pytest.raises(UsageError, match=r"dataset_dict\.json: test/state\.json is behind a link that leads out"):
        load(parts)


def test_an_image_that_is_only_a_path_is_not_followed(tmp_path: Path) -> None:
    folder = saved(made(0, [0, 1] * 4), tmp_path / "pets")
    Image.new("RGB", (5, 4)).save(tmp_path / "private.png")
    (arrow,) = folder.glob("*.arrow")
    with pa.ipc.open_stream(arrow.read_bytes()) as stream:
        table = stream.read_all()
    rows = table.column("image").to_pylist()
    rows[3] = {"bytes": None, "path": str(tmp_path / "private.png")}
    changed = table.set_column(0, table.schema.field("image"), pa.array(rows, table.schema.field("image").type))
    with pa.ipc.new_stream(arrow, changed.schema) as stream:
        stream.write_table(changed)
    with pytest.raises(UsageError, match=r"pets, row 3: the image's bytes are missing; save the data set again"):
        load(folder)


@pytest.mark.parametrize(
    ("file", "content", "message"),
    [
        ("state.json", b"{", r"cannot read .*state\.json"),
        ("state.json", b"[]", r"state\.json: it should hold a JSON object"),
        ("state.json", b'{"_data_files": [{}]}', r"state\.json is damaged: its data files are \[None\]"),
        ("dataset_info.json", b"\xff", r"cannot read .*dataset_info\.json"),
        ("data-00000-of-00001.arrow", b"no arrow", r"cannot read .*\.arrow: .*; save the data set again"),
    ],
)
def test_damaged_files(tmp_path: Path, file: str, content: bytes, message: str) -> None:
    folder = saved(made(0, [0, 1] * 4), tmp_path / "pets")
    (folder / file).write_bytes(content)
    with pytest.raises(SweepError, match=message):
        load(folder)


def test_unreadable_images_are_named_or_left_out(tmp_path: Path) -> None:
    whole = made(0, [0, 1] * 5).cast_column("image", datasets.Image(decode=False))
    rows = whole["image"][:]
    rows[4] = {"bytes": b"no image", "path": None}
    damaged = datasets.Dataset.from_dict({"image": rows, "label": whole["label"][:]}, features=whole.features)
    folder = saved(damaged, tmp_path / "pets")
    with pytest.raises(SweepError, match=r"cannot read the image .*pets, row 4: .*--on-bad-image skip"):
        load(folder)
    data = load(folder, "skip")
    assert sorted(red for part in reds(data) for red in part) == [0, 1, 2, 3, 5, 6, 7, 8, 9]
    assert [skipped.path for skipped in data.skipped] == [f"{folder}, row 4"]
    assert np.bincount(data.test.labels).tolist() == [1, 1]
