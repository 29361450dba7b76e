"""Folders of VTAB-1K tasks."""

import os
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from sweep.data import load_data
from sweep.data.vtab import ALIASES, CLASS_COUNTS
from sweep.errors import UsageError


def task(root: Path, name: str = "own_task", newline: str = "\n") -> Path:
    """Create a task of 3 classes with 4, 2 and 3 images (train, val, test)."""
    folder = root / name
    for file, size in (("train800", 4), ("val200", 2), ("test", 3)):
        (folder / "images" / file).mkdir(parents=True)
        lines = []
        for index in range(size):
            path = f"images/{file}/{index:06}.jpg"
            Image.new("RGB", (8, 8), (30 * index, 0, 0)).save(folder / path)
            lines.append(f"{path} {index % 3}")
        (folder / f"{file}.txt").write_bytes((newline.join(lines) + newline).encode())
    return folder


def append(folder: Path, line: str, file: str = "train800.txt") -> None:
    with (folder / file).open("a", newline="") as stream:
        stream.write(line)


@pytest.mark.parametrize("newline", ["\n", "\r\n"])
def test_lists_are_read_in_order(tmp_path: Path, newline: str) -> None:
    data = load_data(str(task(tmp_path, newline=newline)), seed=0, cache_dir=tmp_path)
    assert (data.name, data.n_classes) == ("own_task", 3)
    assert data.train.labels.tolist() == [0, 1, 2, 0]
    assert [split.n_images for split in (data.train, data.val, data.test)] == [4, 2, 3]
    reds = [data.train.open(index).getpixel((0, 0))[0] for index in range(4)]
    assert reds == pytest.approx([0, 30, 60, 90], abs=3)


def test_known_tasks_have_a_known_number_of_classes(tmp_path: Path) -> None:
    assert len(CLASS_COUNTS) == 19
    assert set(ALIASES.values()) < set(CLASS_COUNTS)
    data = load_data(str(task(tmp_path, "pets")), seed=0, cache_dir=tmp_path)
    assert (data.name, data.n_classes) == ("oxford_iiit_pet", 37)


@pytest.mark.parametrize(
    ("line", "message"),
    [
        ("images/train800/000009.jpg 0\n", r"train800\.txt:5: .*000009\.jpg does not exist"),
        ("images/val200/000000.jpg -1\n", r"train800\.txt:5: label '-1' should be a whole number"),
        ("images/val200/000000.jpg 1.0\n", r"train800\.txt:5: label '1\.0'"),
        ("images/val200/000000.jpg ²\n", r"train800\.txt:5: label '²'"),
        (f"images/val200/000000.jpg {'9' * 5000}\n", r"train800\.txt:5: label '999999…' .*at most 6 digits"),
        (f"images/{'x' * 300}.jpg 0\n", r"train800\.txt:5: .*x\.jpg does not exist"),
        ("images/\0.jpg 0\n", r"train800\.txt:5: .*does not exist"),
        ("images/val200/000000.jpg 9\n", r"train800\.txt:5: label 9 is too large.*9 classes \(0 to 8\)"),
        ("images/val200/000000.jpg\n", r"train800\.txt:5: .*should be a path, one space and a label"),
        ("images/train800/000001.jpg 1\n", r"train800\.txt:5: .*listed before, in line 2"),
        ("images/train800/../train800/000001.jpg 1\n", r"train800\.txt:5: .*listed before, in line 2"),
        ("../other/000000.jpg 1\n", r"train800\.txt:5: .*leads out of the folder .*smallnorb_ele"),
        ("images/../../x.jpg 1\n", r"train800\.txt:5: .*leads out of the folder .*smallnorb_ele"),
        ("/etc/000000.jpg 1\n", r"train800\.txt:5: .*leads out of the folder .*smallnorb_ele"),
        ("\n\nimages/test/000000.jpg 1\n", r"train800\.txt and test\.txt .* both list .*test/000000\.jpg"),
    ],
)
def test_wrong_lines(tmp_path: Path, line: str, message: str) -> None:
    folder = task(tmp_path, "smallnorb_ele")
    append(folder, line)
    with pytest.raises(UsageError, match=message):
        load_data(str(folder), seed=0, cache_dir=tmp_path)


def test_missing_empty_and_unreadable_lists(tmp_path: Path) -> None:
    folder = task(tmp_path)
    (folder / "val200.txt").write_text("\n\r\n")
    with pytest.raises(UsageError, match=r"val200\.txt lists no images"):
        load_data(str(folder), seed=0, cache_dir=tmp_path)
    (folder / "val200.txt").write_bytes(b"\xff\xfe\xff")
    with pytest.raises(UsageError, match=r"val200\.txt is not UTF-8"):
        load_data(str(folder), seed=0, cache_dir=tmp_path)
    (folder / "val200.txt").unlink()
    with pytest.raises(UsageError, match=r"val200\.txt is missing"):
        load_data(str(folder), seed=0, cache_dir=tmp_path)


def test_a_task_needs_two_classes(tmp_path: Path) -> None:
    folder = task(tmp_path)
    for file in ("train800.txt", "val200.txt", "test.txt"):
        path = folder / file
        path.write_text("".join(f"{line.split()[0]} 0\n" for line in path.read_text().splitlines()))
    with pytest.raises(UsageError, match="at least 2 classes"):
        load_data(str(folder), seed=0, cache_dir=tmp_path)


def test_links_out_of_the_folder_are_refused(tmp_path: Path) -> None:
    """A linked image or folder must not lead out of the folder. Links inside it and links to it are allowed."""
    folder = task(tmp_path)
    (tmp_path / "link").symlink_to(folder)
    assert load_data(str(tmp_path / "link"), seed=0, cache_dir=tmp_path).train.n_images == 4
    (folder / "images" / "train800").rename(folder / "moved")
    (folder / "images" / "train800").symlink_to(folder / "moved")
    assert load_data(str(folder), seed=0, cache_dir=tmp_path).train.n_images == 4
    secret = tmp_path / "secret.jpg"
    (folder / "moved" / "000002.jpg").rename(secret)
    (folder / "moved" / "000002.jpg").symlink_to(secret)
    with pytest.raises(UsageError, match=rf"train800\.txt:3: .*link that leads out of .* to {secret}"):
        load_data(str(folder), seed=0, cache_dir=tmp_path)
    (folder / "moved" / "000002.jpg").unlink()
    secret.rename(folder / "moved" / "000002.jpg")
    (folder / "images").rename(tmp_path / "elsewhere")
    (folder / "images").symlink_to(tmp_path / "elsewhere")
    with pytest.raises(UsageError, match=rf"val200\.txt:1: .*link that leads out of .* to {tmp_path}/elsewhere"):
        load_data(str(folder), seed=0, cache_dir=tmp_path)


def write_list(folder: Path, file: str, labels: list[int], name: str = "{:06}.jpg") -> None:
    lines = []
    for index, label in enumerate(labels):
        path = f"images/{file}/{name.format(index)}"
        Image.new("RGB", (8, 8)).save(folder / path)
        lines.append(f"{path} {label}\n")
    (folder / f"{file}.txt").write_text("".join(lines), encoding="utf-8")


@pytest.mark.parametrize(
    ("file", "labels", "message"),
    [
        ("test", [0, 1, 2, 3], r"train800\.txt in .* has no image of label 3, which test\.txt has; a class needs"),
        ("val200", [5], r"train800\.txt in .* has no image of label 5, which val200\.txt has"),
        ("train800", [0, 1, 2, 4], r"labels in .* go up to 4, but no line has label 3; number the classes"),
        ("train800", [0, 1, 2, 999_999], r"labels in .* go up to 999999"),
    ],
)
def test_label_sets_that_differ(tmp_path: Path, file: str, labels: list[int], message: str) -> None:
    folder = task(tmp_path)
    write_list(folder, file, labels)
    with pytest.raises(UsageError, match=message):
        load_data(str(folder), seed=0, cache_dir=tmp_path)


def test_a_vtab_task_may_lack_images_of_a_class_and_says_so(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    folder = task(tmp_path, "pets")
    write_list(folder, "test", [0, 30, 31])
    assert load_data(str(folder), seed=0, cache_dir=tmp_path).n_classes == 37
    assert "has no image of label 30, which test.txt has; 2 classes there cannot be learned" in caplog.text


def test_a_class_of_one_image_and_a_name_in_unicode(tmp_path: Path) -> None:
    folder = task(tmp_path)
    write_list(folder, "train800", [0, 1, 2], name="Größe, ein\u2028Bild {}.jpg")
    data = load_data(str(folder), seed=0, cache_dir=tmp_path)
    assert np.bincount(data.train.labels).tolist() == [1, 1, 1]
    assert data.train.open(2).size == (8, 8)


def test_a_list_that_is_not_a_regular_file(tmp_path: Path) -> None:
    folder = task(tmp_path)
    (folder / "val200.txt").unlink()
    os.mkfifo(folder / "val200.txt")
    with pytest.raises(UsageError, match=r"val200\.txt is missing"):
        load_data(str(folder), seed=0, cache_dir=tmp_path)


def test_unreadable_images_of_a_list_are_left_out_on_demand(tmp_path: Path) -> None:
    folder = task(tmp_path)
    (folder / "images/train800/000003.jpg").write_bytes(b"no image")
    data = load_data(str(folder), seed=0, cache_dir=tmp_path, on_bad_image="skip")
    assert data.train.labels.tolist() == [0, 1, 2]
    assert [skipped.path for skipped in data.skipped] == [str(folder / "images/train800/000003.jpg")]
    (folder / "images/train800/000002.jpg").write_bytes(b"no image")
    with pytest.raises(UsageError, match=r"no image of label 2, .*2 unreadable images were skipped"):
        load_data(str(folder), seed=0, cache_dir=tmp_path, on_bad_image="skip")
    for name in ("000000", "000001"):
        (folder / f"images/train800/{name}.jpg").write_bytes(b"no image")
    with pytest.raises(UsageError, match=r"no image in .*train800\.txt can be read \(4 unreadable"):
        load_data(str(folder), seed=0, cache_dir=tmp_path, on_bad_image="skip")
