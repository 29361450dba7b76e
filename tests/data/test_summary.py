"""The line that summarises the data, and the warning about images that are in two splits."""

import logging
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
from PIL import Image

from sweep.data import DataSet, load_data
from sweep.data.summary import summary, warn_of_shared_items

RNG = np.random.default_rng(0)


def load(spec: Any) -> DataSet:
    return load_data(str(spec) if isinstance(spec, Path) else spec, seed=0, cache_dir=Path("unused"))


def tree(root: Path) -> Path:
    for split, size in (("train", 5), ("val", 2), ("test", 3)):
        for name in ("dress", "hat"):
            (root / split / name).mkdir(parents=True)
            for number in range(size + (name == "hat")):
                noise = RNG.integers(0, 256, (4, 4, 3), dtype=np.uint8)
                Image.fromarray(noise).save(root / split / name / f"{number}.png")
    return root


def test_the_line_of_classes(tmp_path: Path) -> None:
    assert summary(load(tree(tmp_path))) == "classes: 2 (dress 5, hat 6); train 11, val 5, test 7"
    assert summary(load("count")).startswith("classes: 8 (3 100, 4 100")


def test_the_lines_of_other_tasks_and_of_many_classes(tmp_path: Path) -> None:
    assert summary(load("sprite-set")).startswith("labels: 6 (")
    place = summary(load("sprite-place"))
    assert place.startswith("targets: 3 (")
    assert " to " in place
    rows = pd.DataFrame({"text": [f"text {n}" for n in range(90)], "label": [f"c{n % 30:02}" for n in range(90)]})
    rows.to_csv(tmp_path / "texts.csv", index=False)
    line = summary(load(tmp_path / "texts.csv"))
    assert line == ("classes: 30 (" + ", ".join(f"c{n:02} 1" for n in range(12)) + ", …); train 30, val 30, test 30")


def warnings_of(data: DataSet, caplog: pytest.LogCaptureFixture) -> list[str]:
    caplog.clear()
    with caplog.at_level(logging.WARNING, "sweep.data.summary"):
        warn_of_shared_items(data)
    return [record.message for record in caplog.records if record.name == "sweep.data.summary"]


def test_files_in_two_splits_give_one_warning(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    root = tree(tmp_path)
    assert warnings_of(load(root), caplog) == []
    for number in (0, 1):
        shutil.copy(root / "train" / "hat" / f"{number}.png", root / "test" / "hat" / f"again{number}.png")
    shutil.copy(root / "train" / "hat" / "2.png", root / "train" / "hat" / "twice.png")
    (message,) = warnings_of(load(root), caplog)
    assert message.startswith(f"2 images of {tmp_path.name} are in two splits, byte for byte, such as image ")
    assert "train/hat/0.png" in message
    assert "test/hat/again0.png" in message


def test_shared_items_are_found_in_every_form_of_data(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    images = RNG.integers(0, 256, (12, 6, 5), dtype=np.uint8)
    labels = np.arange(12) % 2
    given = {"train_images": images, "train_labels": labels, "test_labels": labels[:4]}
    np.savez(tmp_path / "scans.npz", **given, test_images=images[:4])
    assert warnings_of(load(tmp_path / "scans.npz"), caplog)[0].startswith("4 images of scans")
    np.savez(tmp_path / "scans.npz", **given, test_images=255 - images[:4])
    assert warnings_of(load(tmp_path / "scans.npz"), caplog) == []
    items = [(Image.fromarray(image), int(label)) for image, label in zip(images, labels, strict=True)]
    assert warnings_of(load({"train": items[:8], "val": items[8:], "test": items[6:8]}), caplog)[0].startswith("2 im")
    rows = pd.DataFrame({"text": ["same", *[f"text {n}" for n in range(10)], "same"], "label": ["a", "b"] * 6})
    rows["split"] = ["train"] * 6 + ["val"] * 2 + ["test"] * 4
    rows.to_csv(tmp_path / "texts.csv", index=False)
    (message,) = warnings_of(load(tmp_path / "texts.csv"), caplog)
    assert message.startswith("1 texts of texts are in two splits")
    assert "texts.csv:2" in message
    assert "texts.csv:13" in message


def test_packaged_sets_have_no_item_in_two_splits(caplog: pytest.LogCaptureFixture) -> None:
    assert warnings_of(load("count"), caplog) == []
