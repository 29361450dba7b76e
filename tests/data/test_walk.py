"""Which files in a folder are read (hidden files, links, spellings of a name), for training and for `sweep predict`."""

import logging
import unicodedata
from pathlib import Path

import pytest
from PIL import Image

from sweep.data import DataSet, load_data
from sweep.data.walk import files_below
from sweep.errors import UsageError
from sweep.export.predict import find_images

CAFE = "café"
COMPOSED, DECOMPOSED = (unicodedata.normalize(form, CAFE) for form in ("NFC", "NFD"))


def fill(folder: Path, n: int = 4) -> Path:
    folder.mkdir(parents=True, exist_ok=True)
    for number in range(n):
        Image.new("RGB", (5, 4), (number, len(str(folder)) % 256, 0)).save(folder / f"{number}.png")
    return folder


def n_images(data: DataSet) -> int:
    return sum(split.n_images for split in (data.train, data.val, data.test))


def load(root: Path) -> DataSet:
    return load_data(str(root), seed=0, cache_dir=root / "unused")


def test_hidden_folders_below_a_class_are_left_out(tmp_path: Path) -> None:
    for name in ("cats", "dogs"):
        fill(tmp_path / name)
        fill(tmp_path / name / ".ipynb_checkpoints")
        fill(tmp_path / name / "deep" / ".thumbnails" / "deeper")
        fill(tmp_path / name / "deep", 1)
    assert n_images(load(tmp_path)) == 10
    assert len(find_images([tmp_path])) == 10
    fill(tmp_path / "only" / ".hidden")
    with pytest.raises(UsageError, match="only has no image"):
        find_images([tmp_path / "only"])


def test_a_hidden_folder_that_the_user_names_is_read(tmp_path: Path) -> None:
    assert len(find_images([fill(tmp_path / ".shelf")])) == 4


def test_linked_folders_below_a_class_are_read(tmp_path: Path) -> None:
    shelf = fill(tmp_path / "shelf")
    root = tmp_path / "data"
    for name in ("cats", "dogs"):
        fill(root / name)
    (root / "cats" / "more").symlink_to(shelf)
    (root / "cats" / "deep").mkdir()
    (root / "cats" / "deep" / "again").symlink_to(shelf)
    assert n_images(load(root)) == 16
    assert len(find_images([root])) == 16


def test_a_link_to_a_folder_above_is_ignored_with_a_warning(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    fill(tmp_path / "cats" / "deep")
    (tmp_path / "cats" / "deep" / "up").symlink_to(tmp_path / "cats")
    with caplog.at_level(logging.WARNING):
        assert len(files_below(tmp_path)) == 4
    assert f"the link {tmp_path / 'cats' / 'deep' / 'up'} leads back to" in caplog.text


def test_files_come_in_order_of_path(tmp_path: Path) -> None:
    for name in ("b/1.png", "a-b/2.png", "a/3.png", "c.png"):
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).touch()
    assert [path.name for path in files_below(tmp_path)] == ["3.png", "2.png", "1.png", "c.png"]


@pytest.mark.skipif(COMPOSED == DECOMPOSED, reason="one spelling")
def test_one_name_in_two_spellings_of_unicode_is_one_class(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    for split, name in (("train", COMPOSED), ("test", DECOMPOSED)):
        fill(tmp_path / "given" / split / name)
        fill(tmp_path / "given" / split / "tea")
    assert load(tmp_path / "given").class_names == (COMPOSED, "tea")
    for name in (COMPOSED, DECOMPOSED, "tea"):
        fill(tmp_path / "together" / name)
    with caplog.at_level(logging.WARNING):
        data = load(tmp_path / "together")
    assert data.class_names == (COMPOSED, "tea")
    assert n_images(data) == 12
    assert "in two spellings of Unicode; they are one class" in caplog.text
    fill(tmp_path / "photos", 8)
    labels = [COMPOSED, DECOMPOSED, "tea", "tea"] * 2
    rows = "".join(f"photos/{number}.png,{label}\n" for number, label in enumerate(labels))
    (tmp_path / "table.csv").write_text("path,label\n" + rows)
    assert load(tmp_path / "table.csv").class_names == (COMPOSED, "tea")
