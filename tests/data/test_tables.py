"""Tables of images: CSV and parquet."""

import os
from collections.abc import Callable, Sequence
from pathlib import Path

import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from PIL import Image

from sweep.data import DataSet, OnBadImage, load_data
from sweep.errors import SweepError, UsageError

Writer = Callable[[Path, pd.DataFrame], Path]


def as_csv(folder: Path, rows: pd.DataFrame) -> Path:
    rows.to_csv(folder / "photos.csv", index=False)
    return folder / "photos.csv"


def as_parquet(folder: Path, rows: pd.DataFrame) -> Path:
    rows.to_parquet(folder / "photos.parquet", index=False)
    return folder / "photos.parquet"


WRITERS = pytest.mark.parametrize("write", [as_csv, as_parquet])


def pictures(folder: Path, labels: Sequence[object]) -> pd.DataFrame:
    """Save one image per label, with its row number as red value. Return the table of paths and labels."""
    folder.mkdir(parents=True, exist_ok=True)
    for number in range(len(labels)):
        Image.new("RGB", (5, 4), (number, 0, 0)).save(folder / f"{number}.png")
    return pd.DataFrame({"path": [f"{number}.png" for number in range(len(labels))], "label": labels})


def load(path: Path, on_bad_image: OnBadImage = "error", seed: int = 0) -> DataSet:
    return load_data(str(path), seed=seed, cache_dir=path.parent / "unused", on_bad_image=on_bad_image)


def reds(data: DataSet) -> list[list[int]]:
    return [
        [split.open(i).getpixel((0, 0))[0] for i in range(split.n_images)]
        for split in (data.train, data.val, data.test)
    ]


@WRITERS
def test_rows_without_given_splits_are_split(tmp_path: Path, write: Writer) -> None:
    labels = ["cat"] * 10 + ["a dog, brown"] * 5 + ["NA"] * 3
    path = write(tmp_path, pictures(tmp_path, labels).assign(width=5))
    data = load(path)
    assert (data.name, data.class_names) == ("photos", ("NA", "a dog, brown", "cat"))
    assert "64 / 16 / 20 %" in data.description
    parts = reds(data)
    assert [len(part) for part in parts] == [10, 4, 4]
    assert sorted(red for part in parts for red in part) == list(range(18))
    for split, part in zip((data.train, data.val, data.test), parts, strict=True):
        assert [data.class_names[label] for label in split.labels] == [labels[red] for red in part]
    assert reds(load(path)) == parts
    assert reds(load(path, seed=1)) != parts


@WRITERS
def test_given_splits_and_whole_numbers(tmp_path: Path, write: Writer) -> None:
    rows = pictures(tmp_path / "images", [10, 2, 10, 2, 2, 10])
    rows["path"] = "images/" + rows["path"]
    rows["split"] = ["train", "test", "val", "train", "train", "test"]
    data = load(write(tmp_path, rows))
    assert data.class_names == ("2", "10"), "numbers are ordered by value"
    assert reds(data) == [[0, 3, 4], [2], [1, 5]]
    assert data.train.labels.tolist() == [1, 0, 0]
    rows["split"] = ["train", "test", "train", "train", "train", "test"]
    data = load(write(tmp_path, rows))
    assert "val is 20 % of train" in data.description
    assert [len(part) for part in reds(data)] == [2, 2, 2]


def test_categories_of_a_parquet_table(tmp_path: Path) -> None:
    rows = pictures(tmp_path, ["x", "y"] * 3)
    assert load(as_parquet(tmp_path, rows.astype({"label": "category"}))).class_names == ("x", "y")


def test_fingerprint_is_the_contents_and_labels(tmp_path: Path) -> None:
    rows = pictures(tmp_path, ["x", "y"] * 3)
    reference = load(as_csv(tmp_path, rows)).train.fingerprint
    assert load(as_parquet(tmp_path, rows)).train.fingerprint == reference
    swapped = load(as_csv(tmp_path, rows.replace({"label": {"x": "y", "y": "x"}}))).train.fingerprint
    for name in rows["path"]:
        Image.new("RGB", (5, 4), (99, 0, 0)).save(tmp_path / name)
    assert len({reference, swapped, load(as_csv(tmp_path, rows)).train.fingerprint}) == 3


CSV = "path,label\n" + "".join(f"{i}.png,{'ab'[i % 2]}\n" for i in range(6))


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ("", r"photos\.csv has no column path \(its columns: none\); a table of images needs the columns"),
        ("path:label\n0.png:a\n", r"has no column path \(its columns: path:label\)"),
        ("path,class\n0.png,a\n", r"has no column label \(its columns: path, class\)"),
        ("path,label,path\n0.png,a,b\n", r"has several columns path \(path, path\)"),
        ("path,label\n\n", r"photos\.csv has no rows"),
        (CSV + "0.png\n", r"photos\.csv:8: 1 values under 2 column names"),
        (CSV + '\n"7\n.png",b\n', r"photos\.csv:9: .*7\s\.png does not exist"),
        (CSV + ",b\n", r"photos\.csv:8: the path is empty"),
        (CSV + "0.png,\n", r"photos\.csv:8: the label is empty"),
        (CSV + "./0.png,b\n", r"photos\.csv:8: \./0\.png was listed before, in .*photos\.csv:2; drop one"),
        (CSV + "../0.png,b\n", r"photos\.csv:8: \.\./0\.png leads out of the folder"),
        (CSV + "/etc/passwd,b\n", r"photos\.csv:8: /etc/passwd leads out of the folder"),
        (CSV + "out.png,b\n", r"photos\.csv:8: out\.png is behind a link that leads out of the folder .*private\.png"),
        (CSV + "nowhere.png,b\n", r"photos\.csv:8: .*nowhere\.png does not exist; put the image there or drop"),
        (CSV + "\0.png,b\n", r"photos\.csv:8: .*does not exist"),
        (CSV + '"6.png,b\n', r"photos\.csv:8: .*; save it as plain CSV"),
        (CSV.replace("b\n", "a\n"), r"photos\.csv has 1 classes; a task needs at least 2"),
        (
            CSV.replace("5.png,b", "5.png,c"),
            r"2 classes in table .*photos\.csv .*: 'b' has 2, 'c' has 1; in each, 3 are needed",
        ),
        ("path,label,Path\n0.png,a,b\n", r"has several columns path \(path, Path\)"),
        (
            "path,label,split\n0.png,a,eval\n",
            r"photos\.csv:2: 'eval' is not a split; give train or training",
        ),
        ("path,label,split\n0.png,a,train\n1.png,b,train\n", r"photos\.csv has no test images"),
        ("path,label,split\n0.png,a,train\n1.png,b,test\n", r"class 'b' of .* is in test but not in train"),
    ],
)
def test_wrong_tables(tmp_path: Path, content: str, message: str) -> None:
    folder = tmp_path / "data"
    pictures(folder, range(6))
    (tmp_path / "private.png").touch()
    (folder / "out.png").symlink_to(tmp_path / "private.png")
    (folder / "photos.csv").write_text(content)
    with pytest.raises(UsageError, match=message):
        load(folder / "photos.csv")


def test_a_byte_order_mark_is_ignored_and_other_encodings_are_refused(tmp_path: Path) -> None:
    pictures(tmp_path, range(6))
    path = tmp_path / "photos.csv"
    path.write_bytes(b"\xef\xbb\xbf" + CSV.replace("\n", "\r\n").encode())
    assert load(path).n_classes == 2
    path.write_bytes(CSV.replace("a\n", "ä\n").encode("latin-1"))
    with pytest.raises(UsageError, match=r"photos\.csv is not UTF-8 text"):
        load(path)


@pytest.mark.parametrize(
    ("column", "values", "message"),
    [
        ("label", [0.5] * 6, r"column label of .*photos\.parquet holds double; it should hold text or whole numbers"),
        ("label", [["a"]] * 6, r"column label of .* holds list"),
        ("label", ["a", None, "b", "a", "b", "a"], r"photos\.parquet, row 2: the label is missing"),
        ("path", [b"0.png"] * 6, r"column path of .* holds binary; it should hold text"),
        ("path", ["0.png", "1.png", "../2.png"] + ["3.png"] * 3, r"photos\.parquet, row 3: \.\./2\.png leads out"),
        ("split", [1] * 6, r"column split of .* holds int64; it should hold text"),
    ],
)
def test_wrong_columns_of_parquet(tmp_path: Path, column: str, values: list[object], message: str) -> None:
    rows = pictures(tmp_path, ["a", "b"] * 3).to_dict("list")
    pq.write_table(pa.table({**rows, column: values}), tmp_path / "photos.parquet")
    with pytest.raises(UsageError, match=message):
        load(tmp_path / "photos.parquet")


def test_damaged_parquet(tmp_path: Path) -> None:
    (tmp_path / "photos.parquet").write_bytes(b"PAR1 but not really")
    with pytest.raises(SweepError, match=r"cannot read .*photos\.parquet: .*save the table again"):
        load(tmp_path / "photos.parquet")


def test_unreadable_images_are_named_or_left_out(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    rows = pictures(tmp_path, ["a", "b"] * 5)
    path = as_csv(tmp_path, rows)
    os.truncate(tmp_path / "3.png", 50)
    (tmp_path / "4.png").write_bytes(b"no image")
    with pytest.raises(SweepError, match=r"cannot read the image .*4\.png: .*--on-bad-image skip"):
        load(path)
    data = load(path, "skip")
    assert sorted(red for part in reds(data) for red in part) == [0, 1, 2, 5, 6, 7, 8, 9]
    assert [Path(skipped.path).name for skipped in data.skipped] == ["3.png", "4.png"]
    for number in (0, 2, 6):
        (tmp_path / f"{number}.png").write_bytes(b"no image")
    with pytest.raises(UsageError, match=r"class 'a' .* has 1 image \(5 unreadable images were skipped\)"):
        load(path, "skip")
