"""Runs whose heads start from label words."""

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import optuna
import pytest
import torch

import sweep
from sweep.errors import UsageError
from sweep.export.write import export_run
from sweep.machine.checked_files import read_json
from sweep.running.preparation import Prepared, prepare
from sweep.running.resume import resume_run
from sweep.running.runner import run_study
from sweep.side_networks.head_start import head_of
from sweep.study.declaration import Study
from sweep.study.finding import LoadedStudy
from sweep.study.lane_config import LaneConfig
from sweep.terminal.console import stderr
from sweep.terminal.progress import LineReporter
from sweep.verify.verify import verify_trial

CPU = torch.device("cpu")
WORDS = {"red": "old car", "blue": "new"}
"""The third class, green, has its name."""


def suggest(trial: optuna.Trial) -> LaneConfig:
    return LaneConfig(lr=trial.suggest_float("lr", 1e-3, 1e-1, log=True), rank=4)


@pytest.fixture
def declared(text_decoder: Path, text_table: Path) -> dict[str, Any]:
    of_data = {"backbone": str(text_decoder), "data": str(text_table), "max_tokens": 20, "group_size": 2}
    return {"suggest": suggest, "baseline": {"lr": 1e-2}, "epochs": 2, "trials": 2, **of_data}


def prepared(declared: Mapping[str, Any], cache: Path, **others: Any) -> Prepared:
    study = Study(**{**declared, **others})
    return prepare(study, n_parallel=2, device=CPU, cache_dir=cache)


@pytest.mark.parametrize("family", ["last", "granular_last", "gated_last", "ladder", "multi_stage", "probe"])
def test_every_lane_starts_with_the_words(family: str, declared: dict[str, Any], tmp_path: Path) -> None:
    spec = prepared(declared, tmp_path, side_network=family, label_words=WORDS).spec
    assert spec.head_start is not None
    for seed in range(2):
        lane = spec.lane(4, seed=seed)
        assert torch.equal(head_of(lane).linear.weight, spec.head_start.weight)
        assert torch.equal(head_of(lane).linear.bias, spec.head_start.bias)
    plain = prepared(declared, tmp_path, side_network=family).spec
    assert plain.head_start is None
    of_both = zip(spec.lane(4, seed=0).named_parameters(), plain.lane(4, seed=0).parameters(), strict=True)
    assert all(torch.equal(a, b) for (name, a), b in of_both if ".linear." not in name)


def test_a_run_is_verified_resumed_and_exported(declared: dict[str, Any], tmp_path: Path) -> None:
    study = LoadedStudy("words", Path("words.py"), Study(**declared, label_words=WORDS))
    options = {"storage_url": None, "cache_dir": tmp_path / "cache", "reporter": LineReporter(stderr)}
    run = run_study(study, n_parallel=2, out=tmp_path / "run", device_name="cpu", **options).path
    assert read_json(run / "config.json")["label_words"] == WORDS
    assert verify_trial(run, 1, device=CPU, cache_dir=tmp_path / "cache").kept
    expected = sweep.load_results(run).trials
    (run / "summary.json").unlink()
    resume_run(run, study, **options)
    columns = ["trial", "val_top1", "val_nll"]
    assert sweep.load_results(run).trials[columns].equals(expected[columns])
    export_run(run, tmp_path / "shipped", cache_dir=tmp_path / "cache")
    assert "head_start" not in json.loads((tmp_path / "shipped" / "config.json").read_text())["side_network"]
    model = sweep.load_model(tmp_path / "shipped")
    assert model(model.transform("the red car").unsqueeze(0)).shape == (1, 3)


@pytest.mark.parametrize(
    ("others", "message"),
    [
        ({"label_words": {"purple": "red"}}, "words for 'purple', which is no class of the data; the classes are blue"),
        ({"label_words": {"red": 1}}, "label_words must be True, False, or map names of classes to words"),
        ({"label_words": "red"}, "label_words must be True, False, or map names of classes to words"),
        (
            {"label_words": True, "side_network": "ladder", "read_out": "tokens"},
            "a head that reads the last stage, and --read-out tokens has none",
        ),
    ],
)
def test_what_cannot_start_from_words_is_refused(
    others: dict[str, Any], message: str, declared: dict[str, Any], tmp_path: Path
) -> None:
    with pytest.raises(UsageError, match=message):
        prepared(declared, tmp_path, **others)


def test_numbers_have_no_words(declared: dict[str, Any], tmp_path: Path) -> None:
    table = tmp_path / "numbers.csv"
    table.write_text("text,label\n" + "".join(f"a red car,{i / 10}\n" for i in range(40)))
    with pytest.raises(UsageError, match=r"--label-words needs classes with names, and .* is for regression"):
        prepared(declared, tmp_path, data=str(table), task="regression", label_words=True)
