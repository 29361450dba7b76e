"""Tables of texts, and the packaged texts."""

from collections.abc import Callable
from pathlib import Path

import pandas as pd
import pytest

from sweep.data import DataSet, load_data
from sweep.errors import SweepError, UsageError
from sweep.export.predict import find_texts

Writer = Callable[[Path, pd.DataFrame], Path]


def as_csv(folder: Path, rows: pd.DataFrame) -> Path:
    rows.to_csv(folder / "texts.csv", index=False)
    return folder / "texts.csv"


def as_parquet(folder: Path, rows: pd.DataFrame) -> Path:
    rows.to_parquet(folder / "texts.parquet", index=False)
    return folder / "texts.parquet"


WRITERS = pytest.mark.parametrize("write", [as_csv, as_parquet])
ROWS = pd.DataFrame({"text": [f'text {i}, "quoted"\nsecond line' for i in range(12)], "label": ["good", "bad"] * 6})


def load(path: Path, seed: int = 0) -> DataSet:
    return load_data(str(path), seed=seed, cache_dir=path.parent / "unused")


@WRITERS
def test_rows_are_texts_with_their_labels(tmp_path: Path, write: Writer) -> None:
    data = load(write(tmp_path, ROWS.assign(author="somebody")))
    assert (data.kind, data.name, data.class_names) == ("texts", "texts", ("bad", "good"))
    seen = {}
    for split in (data.train, data.val, data.test):
        seen |= {split.open(i): data.class_names[split.labels[i]] for i in range(split.n_images)}
    assert seen == dict(zip(ROWS["text"], ROWS["label"], strict=True))
    assert "texts." in data.train.describe(0)


@WRITERS
def test_given_splits(tmp_path: Path, write: Writer) -> None:
    rows = ROWS.assign(split=["train"] * 6 + ["val"] * 2 + ["test"] * 4)
    data = load(write(tmp_path, rows))
    assert [data.val.open(i) for i in range(2)] == rows["text"][6:8].tolist()
    assert data.test.labels.tolist() == [1, 0, 1, 0]


def test_a_table_of_images_may_have_texts_beside(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match=r"texts\.csv:2: .*nowhere\.png does not exist"):
        load(as_csv(tmp_path, ROWS.assign(path="nowhere.png")))


def test_fingerprint_is_of_texts_and_labels(tmp_path: Path) -> None:
    rows = ROWS.assign(split=["train"] * 6 + ["val"] * 2 + ["test"] * 4)
    reference = load(as_csv(tmp_path, rows)).train.fingerprint
    assert load(as_parquet(tmp_path, rows)).train.fingerprint == reference
    other_text = rows.replace({"text": {rows["text"][0]: "another"}})
    other_label = rows.assign(label=["bad", *rows["label"][1:]])
    seen = {reference, *(load(as_csv(tmp_path, other)).train.fingerprint for other in (other_text, other_label))}
    assert len(seen) == 3


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (
            "text,class\na,b\n",
            r"texts\.csv has no column label \(its columns: text, class\); .* a table of texts needs text",
        ),
        ("text,label\n ,b\n", r"texts\.csv:2: the text is empty; drop the row"),
        ("text,label\na,\n", r"texts\.csv:2: the label is empty"),
        ("text,label,text\na,b,c\n", r"texts\.csv has several columns text"),
        ("text,label\n", r"texts\.csv has no rows; .* one row per image or text"),
        (
            "text,label\na,x\nb,x\nc,y\n",
            r"2 classes in table .*: 'x' has 2, 'y' has 1; in each, 3 are needed, one for each of .*\. Add texts",
        ),
        ("text,label,split\na,x,train\nb,y,train\n", r"texts\.csv has no test texts"),
        ("text,target\na,1\nb,1\nc,1\n", r"target has one value in all 1 train texts of .*Add texts, or leave"),
        ("text,label\na,x|y\nb,\nc,\n", r"no (train|val|test) text of .* has a label"),
        ("text,label,split\na,b,eval\n", r"texts\.csv:2: 'eval' is not a split; give train"),
    ],
)
def test_wrong_tables(tmp_path: Path, content: str, message: str) -> None:
    (tmp_path / "texts.csv").write_text(content)
    with pytest.raises(UsageError, match=message):
        load(tmp_path / "texts.csv")


def test_packaged_texts(cache_dir: Path) -> None:
    tomatoes = load_data("rotten-tomatoes", seed=0, cache_dir=cache_dir)
    groups = load_data("newsgroups", seed=0, cache_dir=cache_dir)
    for data in (tomatoes, groups):
        assert data.kind == "texts"
        assert data.val.describe(3) == "text 3 of split 'val'"
        parts = [{split.open(i) for i in range(split.n_images)} for split in (data.train, data.val, data.test)]
        assert all(text.strip() for part in parts for text in part)
        assert len(parts[0] & parts[1]) == 0
    hockey = groups.class_names.index("rec.sport.hockey")
    posts = [groups.train.open(i) for i, label in enumerate(groups.train.labels) if label == hockey]
    assert sum("hockey" in post or "game" in post or "nhl" in post for post in posts) > len(posts) / 2


# What `sweep predict` reads


def test_texts_to_be_labelled(tmp_path: Path) -> None:
    (tmp_path / "lines.txt").write_text("one\n\n  two  \n")
    rows = pd.DataFrame({"text": ["three, four", ""], "label": [None, 2.5]})
    assert find_texts([tmp_path / "lines.txt", as_csv(tmp_path, rows)]) == ["one", "two", "three, four", ""]
    assert find_texts([as_parquet(tmp_path, rows)]) == ["three, four", ""]


@pytest.mark.parametrize(
    ("name", "content", "message"),
    [
        ("a.txt", b"\n \n", "has no text"),
        ("a.txt", b"\xff\xfe", "is not UTF-8 text"),
        ("a.md", b"text", r"a\.md: the model reads texts; give a \.txt file with one text per line, or a table"),
        ("a.csv", b"txt\nb\n", r"has 0 columns text; it needs one \(its columns: txt\)"),
        ("nowhere", None, "nowhere is not a file"),
    ],
)
def test_files_without_texts_are_refused(tmp_path: Path, name: str, content: bytes | None, message: str) -> None:
    if content is not None:
        (tmp_path / name).write_bytes(content)
    with pytest.raises((UsageError, SweepError), match=message):
        find_texts([tmp_path / name])
