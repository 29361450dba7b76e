"""Hugging Face data sets on disk, written by the package `datasets` itself."""

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
    """Return a data set with one image per label. The red value of an image is its row number, counted from `start`."""
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
        ({"train": [0, 1, None], "test": [1]}, r"train, row 2: label is None; labels are 0 to 1, one per row"),
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
        (
            made(0, [0, 1]).remove_columns("image"),
            r"has 0 Image columns and 0 text columns; it needs one Image or one text column \(its columns: label\)",
        ),
        (made(0, [True, False] * 3, datasets.Value("bool")), r"label of .*pets holds bool of shape \(6,\)"),
        (made(0, ["a", None, "b"], datasets.Value("string")), r"row 1: label is None; labels are text or numbers"),
        (
            made(0, [0, 1]).cast_column("image", datasets.Image(decode=False)).add_column("more", [1, 2]),
            "'cat' has 1, ",
        ),
    ],
)
def test_wrong_columns(tmp_path: Path, data: datasets.Dataset, message: str) -> None:
    with pytest.raises(UsageError, match=message):
        load(saved(data, tmp_path / "pets"))


SEVERAL = datasets.List(datasets.ClassLabel(names=NAMES))
LISTS = datasets.List(datasets.Value("int64"))
FLOATS = datasets.List(datasets.Value("float32"))


def whole(kind: Any, labels: Sequence[object], folder: Path, column: str = "label") -> DataSet:
    """Save images with these labels, and return them as loaded, in three splits."""
    data = made(0, labels, kind)
    return load(saved(data.rename_column("label", column) if column != "label" else data, folder))


def in_order(data: DataSet) -> list[Any]:
    """The labels in the order of the images' red values, which are the row numbers."""
    splits = (data.train, data.val, data.test)
    rows = [
        (red, label)
        for part, split in zip(reds(data), splits, strict=True)
        for red, label in zip(part, split.labels.tolist(), strict=True)
    ]
    return [label for _, label in sorted(rows)]


def test_several_labels(tmp_path: Path) -> None:
    lists = [[0], [0, 1], [], [1]] * 3
    data = whole(SEVERAL, lists, tmp_path / "named", "animals")
    assert (data.task, data.class_names) == ("multi-label", ("cat", "dog"))
    assert in_order(data) == [[1, 0], [1, 1], [0, 0], [0, 1]] * 3
    data = whole(datasets.List(datasets.Value("string")), [["b"], ["b", "a"], []] * 4, tmp_path / "text", "labels")
    assert (data.class_names, in_order(data)[:3]) == (("a", "b"), [[0, 1], [1, 1], [0, 0]])
    data = whole(LISTS, [[7], [30, 7], []] * 4, tmp_path / "numbers")
    assert (data.class_names, in_order(data)[:3]) == (("7", "30"), [[1, 0], [1, 1], [0, 0]])
    data = whole(LISTS, [[0, 1, 1], [1, 0, 0]] * 6, tmp_path / "entries", "labels")
    assert (data.class_names, in_order(data)[:2]) == (("0", "1", "2"), [[0, 1, 1], [1, 0, 0]])


def test_numbers(tmp_path: Path) -> None:
    numbers = [0.5 * row for row in range(12)]
    data = whole(datasets.Value("float32"), numbers, tmp_path / "a")
    assert (data.task, data.class_names, in_order(data)) == ("regression", ("target",), [[n] for n in numbers])
    data = whole(datasets.Value("int64"), list(range(12)), tmp_path / "b", "target_age")
    assert (data.task, data.class_names, in_order(data)) == ("regression", ("age",), [[row] for row in range(12)])
    data = whole(FLOATS, [[n, -n] for n in numbers], tmp_path / "c", "labels")
    assert (data.class_names, in_order(data)[3]) == (("0", "1"), [1.5, -1.5])
    folder = saved(made(0, list(range(12)), datasets.Value("int64")), tmp_path / "d")
    data = load_data(str(folder), seed=0, cache_dir=tmp_path, task="regression")
    assert (data.task, in_order(data)[5]) == ("regression", [5.0])
    folder = saved(made(0, [0, 1] * 6, target=list(range(12))), tmp_path / "e")
    assert load(folder).task == "classes"
    assert load_data(str(folder), seed=0, cache_dir=tmp_path, task="regression").task == "regression"


def test_texts(tmp_path: Path) -> None:
    features = {
        "title": datasets.Value("string"),
        "text": datasets.Value("large_string"),
        "mood": datasets.ClassLabel(names=NAMES),
    }
    columns = {"title": ["t"] * 12, "text": [f"text {n}" for n in range(12)], "mood": [0, 1] * 6}
    two = datasets.Dataset.from_dict(columns, features=datasets.Features(features))
    for name, data in (("two", two), ("one", two.remove_columns("text").rename_column("title", "sentence"))):
        loaded = load(saved(data, tmp_path / name))
        assert (loaded.kind, loaded.name, loaded.class_names) == ("texts", name, ("cat", "dog"))
        assert loaded.train.n_images + loaded.val.n_images + loaded.test.n_images == 12
    loaded = load(tmp_path / "two")
    assert [int(loaded.val.open(i).split()[1]) % 2 for i in range(2)] == loaded.val.labels.tolist()
    assert "two, row " in loaded.test.describe(0)
    given = datasets.DatasetDict({"train": two.select(range(8)), "test": two.select(range(8, 12))})
    assert load(saved(given, tmp_path / "split")).test.open(3) == "text 11"
    with pytest.raises(
        UsageError, match=r"has 0 Image columns and 2 text columns; .*rename the column of texts to text, and"
    ):
        load(saved(two.rename_column("text", "body"), tmp_path / "which"))
    empty = datasets.Dataset.from_dict({**columns, "text": ["x", " "] * 6}, features=two.features)
    with pytest.raises(UsageError, match=r"empty, row 1: text is ' '; drop the row and save again"):
        load(saved(empty, tmp_path / "empty"))


@pytest.mark.parametrize(
    ("kind", "labels", "message"),
    [
        (SEVERAL, [[0], None], r"row 1: label is None; labels are 0 to 1, a list of them per row"),
        (LISTS, [[0, 3], [None, 1]], r"row 1: label is \[None, 1\]; labels are text or numbers, or lists of either"),
        (
            FLOATS,
            [[0.5, 3], [1.5]] * 3,
            r"row [0-9]+: label is \[1\.5\]; every row needs one number per target",
        ),
        (datasets.Value("float32"), [0.5, float("nan")] * 3, r"label of .*pets has targets that are not finite"),
    ],
)
def test_wrong_lists_and_numbers(tmp_path: Path, kind: Any, labels: list[Any], message: str) -> None:
    with pytest.raises(UsageError, match=message):
        load(saved(made(0, labels, kind), tmp_path / "pets"))


def test_labels_that_contradict_the_requested_task_are_refused(tmp_path: Path) -> None:
    folder = saved(made(0, [0, 1] * 6), tmp_path / "pets")
    with pytest.raises(UsageError, match=r"label of .*pets makes a task of the kind classes, not multi-label; leave"):
        load_data(str(folder), seed=0, cache_dir=tmp_path, task="multi-label")
    targets = made(0, [0, 1] * 6, target=[*range(11), None])
    with pytest.raises(UsageError, match=r"row 11: target is None; targets are finite numbers, one per row"):
        load_data(str(saved(targets, tmp_path / "ages")), seed=0, cache_dir=tmp_path, task="regression")
    parts = {
        "train": made(0, [0, 1]),
        "test": made(0, [0.5, 1], datasets.Value("float64")).rename_column("label", "labels"),
    }
    with pytest.raises(UsageError, match=r"test has other classes than .*train"):
        load(saved(datasets.DatasetDict({**parts, "train": made(0, [0, 1])}), tmp_path / "mixed"))


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
