"""Folders of images: splits, order, fingerprints, and everything that can be wrong with them."""

import os
import shutil
from collections import Counter
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from sweep.data import DataSet, load_data
from sweep.errors import SweepError, UsageError


def picture(path: Path, value: int = 0, size: tuple[int, int] = (6, 4)) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.new("RGB", size, (value % 256, 50, 100)).save(path)


def fill(root: Path, sizes: dict[str, int]) -> Path:
    for number, (name, size) in enumerate(sizes.items()):
        for index in range(size):
            picture(root / name / f"{index:03}.png", 40 * number + index)
    return root


def load(root: Path, seed: int = 0) -> DataSet:
    return load_data(str(root), seed=seed, cache_dir=root / "unused")


def contents(data: DataSet) -> list[set[tuple[int, int]]]:
    """(red value, label) of every image of train, val and test."""
    return [
        {(split.open(i).getpixel((0, 0))[0], int(split.labels[i])) for i in range(split.n_images)}
        for split in (data.train, data.val, data.test)
    ]


def test_splits_are_stratified_disjoint_seeded_and_complete(tmp_path: Path) -> None:
    root = fill(tmp_path / "data", {"Äpfel": 25, "pears": 10, "zoo": 3})
    data = load(root)
    assert (data.name, data.class_names) == ("data", ("pears", "zoo", "Äpfel"))
    sizes = [Counter(split.labels.tolist()) for split in (data.train, data.val, data.test)]
    assert sizes == [{0: 6, 1: 1, 2: 16}, {0: 2, 1: 1, 2: 4}, {0: 2, 1: 1, 2: 5}]
    parts = contents(data)
    assert len(set.union(*parts)) == sum(len(part) for part in parts) == 38
    assert {label for value, label in set.union(*parts) if value < 40} == {2}
    assert contents(load(root)) == parts
    assert load(root).train.fingerprint == data.train.fingerprint
    assert contents(load(root, seed=1)) != parts
    assert load(root, seed=1).train.fingerprint != data.train.fingerprint


def test_given_splits_are_used_as_they_are(tmp_path: Path) -> None:
    for name, size in (("train", 4), ("val", 2), ("test", 3)):
        fill(tmp_path / name, {"a": size, "b": size})
    data = load(tmp_path)
    assert [split.n_images for split in (data.train, data.val, data.test)] == [8, 4, 6]
    assert data.train.fingerprint == load(tmp_path, seed=5).train.fingerprint


def test_missing_val_is_taken_from_train(tmp_path: Path) -> None:
    fill(tmp_path / "train", {"a": 10, "b": 5})
    fill(tmp_path / "test", {"a": 1, "b": 1})
    data = load(tmp_path)
    assert [split.n_images for split in (data.train, data.val, data.test)] == [12, 3, 2]
    train, val, _ = contents(data)
    assert not train & val


def test_a_class_may_be_called_train(tmp_path: Path) -> None:
    assert load(fill(tmp_path, {"bus": 3, "train": 3})).class_names == ("bus", "train")


def test_other_files_are_left_aside_and_deeper_ones_found(tmp_path: Path) -> None:
    fill(tmp_path, {"a": 3, "b": 3})
    (tmp_path / "a" / "notes.txt").write_text("no image")
    (tmp_path / "a" / "._000.png").write_bytes(b"left by another system")
    (tmp_path / ".hidden").mkdir()
    picture(tmp_path / "b" / "more" / "deep.JPG", 200)
    data = load(tmp_path)
    assert sum(split.n_images for split in (data.train, data.val, data.test)) == 7
    assert data.n_classes == 2


def test_fingerprint_sees_contents_names_and_labels(tmp_path: Path) -> None:
    def built(name: str) -> Path:
        root = tmp_path / name
        for split in ("train", "val", "test"):
            fill(root / split, {"a": 2, "b": 2})
        return root

    reference, moved = load(built("one")).train.fingerprint, load(built("two")).train.fingerprint
    assert moved == reference
    changed = built("three")
    picture(changed / "train" / "a" / "000.png", 77)
    renamed = built("four")
    (renamed / "train" / "a" / "000.png").rename(renamed / "train" / "a" / "00.png")
    relabelled = built("five")
    for split in ("train", "val", "test"):
        shutil.copytree(relabelled / split / "a", relabelled / split / "_a")
    prints = {load(root).train.fingerprint for root in (changed, renamed, relabelled)}
    assert len(prints | {reference}) == 4


def test_exif_rotation_is_applied(tmp_path: Path) -> None:
    fill(tmp_path, {"a": 3, "b": 3})
    exif = Image.Exif()
    exif[0x0112] = 6
    for name in ("000", "001", "002"):
        Image.new("RGB", (6, 4)).save(tmp_path / "a" / f"{name}.png", exif=exif)
    train = load(tmp_path).train
    sizes = {int(train.labels[i]): train.open(i).size for i in range(train.n_images)}
    assert sizes == {0: (4, 6), 1: (6, 4)}


@pytest.mark.parametrize(
    ("sizes", "message"),
    [
        ({}, "0 class folders"),
        ({"only": 5}, "1 class folders, at least 2"),
        ({"a": 3, "b": 0}, r"class folder .*b has no images"),
        ({"a": 0, "b": 0}, "no images below"),
        ({"a": 9, "b": 2}, r"class 'b' .* has 2 images; 3 are needed"),
        ({"train/a": 3, "train/b": 3}, "no test folder"),
        ({"train/a": 3, "train/b": 3, "test/a": 3, "test/c": 1}, r"missing \['b'\], only there \['c'\]"),
        ({"train/a": 3, "train/b": 1, "test/a": 3, "test/b": 1}, r"class 'b' .* has 1 images; 2 are needed"),
    ],
)
def test_wrong_folders(tmp_path: Path, sizes: dict[str, int], message: str) -> None:
    for name in sizes:
        (tmp_path / name).mkdir(parents=True)
    fill(tmp_path, sizes)
    with pytest.raises(UsageError, match=message) as caught:
        load(tmp_path)
    assert str(tmp_path) in str(caught.value)


@pytest.mark.parametrize("content", [b"", b"not a picture"])
def test_file_that_is_no_picture_is_named_at_once(tmp_path: Path, content: bytes) -> None:
    fill(tmp_path, {"a": 3, "b": 3})
    (tmp_path / "b" / "001.png").write_bytes(content)
    with pytest.raises(SweepError, match=r"001\.png"):
        load(tmp_path)


def test_file_cut_short_is_named_when_it_is_decoded(tmp_path: Path) -> None:
    noise = np.random.default_rng(0).integers(0, 256, (64, 64, 3), dtype=np.uint8)
    for name in ("a/0", "a/1", "a/2", "b/0", "b/1", "b/2"):
        (tmp_path / name).parent.mkdir(exist_ok=True)
        Image.fromarray(noise).save(tmp_path / f"{name}.jpg")
    data = load(tmp_path)
    for path in tmp_path.rglob("*.jpg"):
        os.truncate(path, path.stat().st_size // 2)
    with pytest.raises(SweepError, match=r"cannot read the image .*\.jpg"):
        data.train.open(0)


@pytest.mark.parametrize("limit", [150, 50], ids=["above the limit", "above twice the limit"])
def test_decompression_bombs_are_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, limit: int) -> None:
    fill(tmp_path, {"a": 3, "b": 3})
    picture(tmp_path / "b" / "huge.png", size=(20, 10))
    monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", limit)
    with pytest.raises(SweepError, match=r"huge\.png.*exceeds limit"):
        load(tmp_path)


@pytest.mark.parametrize("odd", ["valid", "labels"])
def test_misnamed_split_is_no_class(tmp_path: Path, odd: str) -> None:
    for split in ("train", "test", odd):
        for name in ("cats", "dogs"):
            (tmp_path / split / name).mkdir(parents=True)
            Image.new("RGB", (4, 4)).save(tmp_path / split / name / "0.png")
    with pytest.raises(UsageError, match=rf"beside test, train it has {odd}: name the splits"):
        load_data(str(tmp_path), seed=0, cache_dir=tmp_path)


@pytest.mark.parametrize("mode", ["I", "F"])
def test_values_of_unknown_range_are_refused(tmp_path: Path, mode: str) -> None:
    for name in ("cats", "dogs"):
        (tmp_path / name).mkdir()
        for i in range(4):
            Image.new("L", (4, 4)).save(tmp_path / name / f"{i}.png")
    Image.new(mode, (4, 4)).save(tmp_path / "dogs" / "4.tif")
    with pytest.raises(SweepError, match=rf"dogs/4\.tif has 32-bit values \({mode}\)"):
        load_data(str(tmp_path), seed=0, cache_dir=tmp_path)
