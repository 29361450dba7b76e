"""Images that are not square: by default their centre is used, and an older run keeps its own way."""

import json
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

import sweep
from sweep.data import load_data
from sweep.export.write import export_run
from sweep.records.results import load_results
from sweep.running.resize_default import resize_of
from sweep.running.resume import resume_run
from sweep.study.declaration import Study
from sweep.study.finding import LoadedStudy
from sweep.terminal.console import stderr
from sweep.terminal.progress import LineReporter
from sweep.verify.verify import verify_trial
from tests.conftest import draw_images, run_on, suggest


@pytest.fixture(scope="module")
def wide(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The drawn images between two stripes of noise. Only a squashed image shows the stripes."""
    root = draw_images(tmp_path_factory.mktemp("wide") / "images", "everywhere")
    rng = np.random.default_rng(1)
    for file in sorted(root.glob("*/*.png")):
        canvas = rng.integers(0, 255, (32, 96, 3)).astype(np.uint8)
        canvas[:, 32:64] = np.asarray(Image.open(file))
        Image.fromarray(canvas).save(file)
    return root


@pytest.fixture(autouse=True)
def cache(wide: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("SWEEP_CACHE_DIR", str(wide.parent / "cache"))
    return wide.parent / "cache"


def test_own_images_keep_their_proportions(wide: Path, tmp_path: Path, cache: Path) -> None:
    run = run_on(wide, "centre", trials=1)
    config = load_results(run).config
    assert (config["resize"], config["transform"]["crop_pct"]) == ("centre", 1.0)
    export_run(run, tmp_path / "model", cache_dir=cache)
    transform = sweep.load_model(tmp_path / "model").transform
    image = Image.open(wide / "above" / "0.png")
    assert torch.equal(transform(image), transform(image.crop((32, 0, 64, 32))))
    assert verify_trial(run, 0, device=torch.device("cpu"), cache_dir=cache).kept


def test_an_older_run_keeps_squashing_after_it_is_resumed(wide: Path, cache: Path) -> None:
    """Up to version 0.4, a record had no `resize`, and its transform had no crop."""
    run = run_on(wide, "squashed", trials=2, resize="squash")
    path = run / "config.json"
    config = json.loads(path.read_text())
    assert "crop_pct" not in config["transform"]
    path.write_text(json.dumps({**config, "resize": None}))
    expected = json.loads((run / "summary.json").read_text())
    (run / "summary.json").unlink()
    study = Study(
        suggest=suggest, baseline={"lr": 1e-2, "rank": 2}, max_rank=2, backbone="tiny-untrained", group_size=2
    )
    loaded = LoadedStudy("drawn", Path("drawn.py"), study)
    resume_run(run, loaded, storage_url=None, cache_dir=cache, reporter=LineReporter(stderr))
    found = json.loads((run / "summary.json").read_text())
    assert (found["winner"], found["linear_probe"]) == (expected["winner"], expected["linear_probe"])
    assert verify_trial(run, 0, device=torch.device("cpu"), cache_dir=cache).kept


def test_named_data_sets_keep_their_resizing(wide: Path, cache: Path, tmp_path: Path) -> None:
    def study(data: str, **own: str) -> Study:
        return Study(suggest=suggest, baseline={"lr": 1e-2, "rank": 2}, data=data, **own)  # type: ignore[arg-type]

    digits, own = load_data("digits", seed=0, cache_dir=cache), load_data(str(wide), seed=0, cache_dir=cache)
    assert resize_of(study("digits"), digits) == "squash"
    assert resize_of(study("digits", resize="crop"), digits) == "crop"
    assert resize_of(study(str(wide)), own) == "centre"
    assert resize_of(study(str(wide), resize="squash"), own) == "squash"
    task = tmp_path / "clevr_count"
    task.mkdir()
    (task / "test.txt").write_text("")
    assert resize_of(study(str(task)), own) == "squash", "VTAB's protocol squashes"
