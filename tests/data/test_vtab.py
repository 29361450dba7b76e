"""VTAB-1K task folders."""

from pathlib import Path

import pytest
from PIL import Image

from sweep.data import load_data
from sweep.data.vtab import ALIASES, CLASS_COUNTS
from sweep.errors import UsageError


def task(root: Path, name: str = "own_task", newline: str = "\n") -> Path:
    """A task of 3 classes with 4 / 2 / 3 images."""
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


def test_known_tasks_bring_their_class_count(tmp_path: Path) -> None:
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
        ("images/val200/000000.jpg 9\n", r"train800\.txt:5: label 9 is too large.*9 classes \(0 to 8\)"),
        ("images/val200/000000.jpg\n", r"train800\.txt:5: .*should be a path, one space and a label"),
        ("images/train800/000001.jpg 1\n", r"train800\.txt:5: .*listed before, in line 2"),
        ("images/train800/../train800/000001.jpg 1\n", r"train800\.txt:5: .*listed before, in line 2"),
        ("../other/000000.jpg 1\n", r"train800\.txt:5: .*leads out of the task's folder"),
        ("images/../../x.jpg 1\n", r"train800\.txt:5: .*leads out of the task's folder"),
        ("/etc/000000.jpg 1\n", r"train800\.txt:5: .*leads out of the task's folder"),
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


def test_images_may_lie_behind_a_link(tmp_path: Path) -> None:
    folder = task(tmp_path)
    (folder / "images").rename(tmp_path / "elsewhere")
    (folder / "images").symlink_to(tmp_path / "elsewhere")
    assert load_data(str(folder), seed=0, cache_dir=tmp_path).train.n_images == 4
