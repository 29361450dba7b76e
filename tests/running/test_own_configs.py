"""A study's own dataclass of hyperparameters, a subclass of `LaneConfig`, works in every command."""

import json
import pickle
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

import sweep
from sweep.api.run import run as run_study
from sweep.errors import UsageError
from sweep.export.write import export_run
from sweep.report.write import write_report
from sweep.running.resume import resume_run
from sweep.side_networks import own_networks
from sweep.side_networks.given import take_own_code
from sweep.study.finding import load_study
from sweep.study.lane_config import LaneConfig
from sweep.study.own_config import with_fields_in_extra
from sweep.terminal.console import stderr
from sweep.terminal.progress import LineReporter
from sweep.verify.verify import verify_trial

STUDY = """
from dataclasses import dataclass

import torch
from torch import nn

from sweep import LaneConfig, Study
from sweep.side_networks.head import Head


@dataclass(frozen=True, kw_only=True)
class Mine(LaneConfig):
    rank: int = 4
    scale: float = 1.0
    note: str = "mine"

    @classmethod
    def of(cls, trial):
        return cls(lr=trial.suggest_float("lr", 1e-3, 1e-1, log=True), scale=trial.suggest_float("scale", 0.5, 2))


class Scaled(nn.Module):
    def __init__(self, shapes, n_classes, config):
        super().__init__()
        assert config.note == "mine" and config.rank == 4
        self.register_buffer("scale", torch.tensor(config.scale), persistent=False)
        self.body = nn.Linear(shapes.widths[0], shapes.widths[-1])
        self.head = Head(shapes.widths[-1], n_classes, pool="mean", n_prefix_tokens=shapes.n_prefix_tokens)

    def forward(self, stages):
        early = torch.relu(self.body(self.head.pool(stages[0])))
        return self.head(self.head.pool(stages[-1]) + self.scale * early)


study = Study(
    suggest=Mine.of,
    baseline={"lr": 1e-2, "scale": 1.5},
    side_network=Scaled,
    backbone="tiny-untrained",
    group_size=2,
    epochs=2,
    batch_size=16,
    trials=3,
)
"""


@dataclass(frozen=True, kw_only=True)
class Sized(LaneConfig):
    width: Any = 1
    scale: Any = 1.0


@pytest.fixture(scope="module")
def own_run(drawn_images: Path, tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Path]:
    """Return a run folder and its study file."""
    root = tmp_path_factory.mktemp("own")
    file = root / "mine.py"
    file.write_text(STUDY)
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("SWEEP_CACHE_DIR", str(drawn_images.parent / "cache"))
        run_study(file, n_parallel=2, out=root / "run", data=str(drawn_images), device="cpu")
    return root / "run", file


def test_a_run_with_an_own_dataclass_ends_and_records_its_fields(own_run: tuple[Path, Path]) -> None:
    trials = sweep.load_results(own_run[0]).trials.sort_values("trial")
    assert list(trials["state"]) == ["COMPLETE"] * 3
    extras = [json.loads(recorded)["extra"] for recorded in trials["lane_config"]]
    assert [extra["scale"] for extra in extras] == list(trials["params_scale"])
    assert extras[0] == {"scale": 1.5, "note": "mine"}
    assert {json.loads(recorded)["rank"] for recorded in trials["lane_config"]} == {4}


def test_a_trial_with_an_own_dataclass_is_verified_reported_exported_and_resumed(
    own_run: tuple[Path, Path], drawn_images: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    run, file = own_run
    cache_dir = drawn_images.parent / "cache"
    monkeypatch.setattr(own_networks, "_given", {})  # as in another process
    assert verify_trial(run, 1, own_study=file, device=torch.device("cpu"), cache_dir=cache_dir).kept
    take_own_code(file)
    assert "confusion" in write_report(run, tmp_path / "report.html", cache_dir=cache_dir, say=lambda line: None)
    export_run(run, tmp_path / "shipped", cache_dir=cache_dir)
    buffers = dict(sweep.load_model(tmp_path / "shipped", study=file).side_networks[0].named_buffers())
    before = sweep.load_results(run).summary["winner"]
    assert buffers["scale"].item() == pytest.approx(before["params"]["scale"])
    (run / "summary.json").unlink()
    resume_run(run, load_study(str(file)), storage_url=None, cache_dir=cache_dir, reporter=LineReporter(stderr))
    assert sweep.load_results(run).summary["winner"]["test"] == before["test"]


@pytest.mark.parametrize(
    ("replaced", "by", "message"),
    [
        ("scale: float = 1.0", "scale: float = 1.0\n    sizes: tuple = (1, 2)", r"Mine.sizes must be a finite number"),
        ("cls(lr=", "cls(extra={'scale': 2.0}, lr=", "'scale' is a field of Mine, and also in its extra"),
        ("scale: float = 1.0", "scale: float = 1.0\n    on: bool = True", r"Mine.on has the name of a method of Lane"),
        ("torch.tensor(config.scale)", "torch.tensor(config.sacle)", "configuration has no field 'sacle'"),
        ("@dataclass(frozen=True, kw_only=True)\n", "", "suggest failed: TypeError: .*unexpected keyword .*'scale'"),
    ],
)
def test_what_an_own_dataclass_cannot_have_is_refused_before_features_are_computed(
    replaced: str, by: str, message: str, drawn_images: Path, tmp_path: Path
) -> None:
    file = tmp_path / "mine.py"
    file.write_text(STUDY.replace(replaced, by))
    with pytest.raises(UsageError, match=message):
        run_study(file, n_parallel=2, out=tmp_path / "run", data=str(drawn_images), device="cpu")
    assert not (tmp_path / "run").exists()


def test_an_own_field_may_have_a_number_of_numpy() -> None:
    config = with_fields_in_extra(Sized(lr=1e-3, width=np.int64(3), scale=np.float32(0.5)))
    assert (config.extra, config.width) == ({"width": 3, "scale": 0.5}, 3)
    assert {type(value) for value in config.extra.values()} == {int, float}


def test_values_in_extra_are_attributes_also_after_pickling() -> None:
    config = pickle.loads(pickle.dumps(LaneConfig(lr=1e-3, extra={"scale": 2.0, "lr": 5.0})))
    assert (config.scale, config.lr) == (2.0, 1e-3), "fields of LaneConfig come first"
    assert not hasattr(config, "width")
