"""Runs the programs of docs/data.md in order, in one folder, and loads the data that its commands name."""

import re
from pathlib import Path

import datasets
import pytest

from sweep.data import TableOptions, load_data
from sweep.data.suites import find_suite
from sweep.study.finding import load_study

PAGE = Path(__file__).parents[2] / "docs" / "data.md"
SIZES = {
    "./photos": (12, 4, 4),
    "photos.csv": (12, 4, 4),
    "photos.parquet": (12, 4, 4),
    "texts.csv": (12, 4, 4),
    "texts.parquet": (12, 4, 4),
    "rotten-tomatoes": (800, 200, 1000),
    "scans.npz": (39, 9, 12),
    "split.npz": (30, 12, 18),
    "tags.csv": (13, 3, 4),
    "columns.csv": (13, 3, 4),
    "ages.csv": (13, 3, 4),
    "places.npz": (38, 10, 12),
    "pets": (12, 4, 4),
    "pets-split": (12, 4, 4),
    "news": (13, 3, 4),
    "vtab-1k/svhn": (8, 8, 8),
}
SUITES = {"vtab-1k": ["svhn", "kitti"], "several": ["dated", "tagged"]}


def test_every_example(tmp_path: Path, cache_dir: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(datasets.config, "HF_DATASETS_CACHE", tmp_path / "hf")
    text = PAGE.read_text(encoding="utf-8")
    shared: dict[str, object] = {}
    for block in re.findall(r"```python\n(.*?)```", text, re.DOTALL):
        if block.startswith("# mine.py"):
            Path("mine.py").write_text(block)
        else:
            exec(compile(block, str(PAGE), "exec"), shared)
    named = re.findall(r"^    sweep run --study (\S+)(?: --data (\S+))?$", text, re.MULTILINE)
    found: dict[str, tuple[int, ...]] = {}
    suites: dict[str, list[str]] = {}
    for study, data in named:
        declared = load_study(study).study.data
        suite = find_suite(data or declared, tmp_path)
        if suite is None:
            loaded = load_data(data, seed=0, cache_dir=cache_dir)
            found[data] = tuple(split.n_images for split in (loaded.train, loaded.val, loaded.test))
            loaded.train.open(0)
        elif data:
            suites[data] = [task.name for task in suite.tasks]
            for task in suite.tasks:
                load_data(task.data, seed=0, cache_dir=cache_dir).train.open(0)
    assert suites == SUITES
    assert found == SIZES
    (options,) = re.findall(r"^    sweep plan --study lr_rank --data (\S+animals\.csv .*)$", text, re.MULTILINE)
    spec, root, path, label = re.fullmatch(
        r"(\S+) --image-root (\S+) --path-column (\S+) --label-column (\S+)", options
    ).groups()
    loaded = load_data(spec, seed=0, cache_dir=cache_dir, table=TableOptions(root, path, label))
    assert tuple(split.n_images for split in (loaded.train, loaded.val, loaded.test)) == (12, 4, 4)
    loaded = load_data(load_study("./mine.py").study.data, seed=0, cache_dir=tmp_path)
    assert (loaded.train.n_images + loaded.val.n_images, loaded.test.n_images) == (80, 40)
