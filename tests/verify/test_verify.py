"""`sweep verify` repeats a trial of a real run. It confirms a true record and finds a false one."""

import json
import shutil
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import optuna
import pandas as pd
import pytest
import torch
from safetensors.torch import load_file, save_file

import sweep.cli
from sweep import Halving, LaneConfig, Study, SweepError, UsageError, load_results
from sweep.records.folder import RunFolder
from sweep.records.reporter import Reporter
from sweep.running.runner import run_study
from sweep.study.finding import LoadedStudy
from sweep.verify.verify import Verification, verify_trial

CPU = torch.device("cpu")


def suggest(trial: optuna.Trial) -> LaneConfig:
    wild = trial.suggest_categorical("wild", [False, True])
    return LaneConfig(
        lr=1e30 if wild else trial.suggest_float("lr", 1e-3, 1e-1, log=True),
        rank=trial.suggest_categorical("rank", [1, 2]),
        loss=(loss := trial.suggest_categorical("loss", ["focal", "logit_adjusted"])),
        optimizer="sgd" if wild else "adamw",
        dropout=0.3 if loss == "focal" else 0.0,
        clip_norm=1.0 if loss == "focal" and not wild else None,
    )


@pytest.fixture(scope="module")
def searched(finished_run: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run with all kinds of trials: stopped at rungs, started late, replicated, diverged.

    The study has its own metric.
    """
    study = Study(
        suggest=suggest,
        baseline={"wild": False, "lr": 1e-2, "rank": 2, "loss": "focal"},
        max_rank=2,
        backbone="tiny-untrained",
        group_size=2,
        data=str(finished_run.parent / "images"),
        trials=8,
        epochs=3,
        batch_size=16,
        seeds=2,
        sampler="random",
        metrics={"spread": lambda logits, labels: float(logits.std())},
        halving=Halving(eta=2, first_rung=1),
    )
    folder = run_study(
        LoadedStudy("searched", Path("searched.py"), study),
        n_parallel=4,
        out=tmp_path_factory.mktemp("searched") / "run",
        storage_url=None,
        device_name="cpu",
        cache_dir=finished_run.parent / "cache",
        reporter=Reporter(),
    )
    return folder.path


@pytest.fixture
def copy(searched: Path, tmp_path: Path) -> RunFolder:
    shutil.copytree(searched, tmp_path / "run")
    return RunFolder(tmp_path / "run")


@pytest.fixture
def verified(finished_run: Path) -> Callable[..., Verification]:
    def verify(run: Path, trial: int, **options: Any) -> Verification:
        return verify_trial(run, trial, device=CPU, cache_dir=finished_run.parent / "cache", **options)

    return verify


def test_every_trial_has_the_same_result_alone(searched: Path, verified: Callable[..., Verification]) -> None:
    trials = load_results(searched).trials.set_index("trial")
    assert set(trials["state"]) == {"COMPLETE", "PRUNED", "FAIL"}
    assert (trials["first_order"] > 1).any()
    for number, row in trials.iterrows():
        verification = verified(searched, number)
        differences = {c.what.split()[0] if c.promised == 0 else "plain": c for c in verification.comparisons}
        assert verification.kept, (number, verification.comparisons)
        assert [differences[name].difference for name in ("curve", "metrics")] == [0, 0]
        assert differences["curve"].count == 2 * row["epochs"] * 6
        assert ("weights" in differences) == (row["state"] == "COMPLETE")
        if row["state"] != "FAIL":  # a trial that diverges is compared until it does
            assert differences["plain"].what.startswith(f"weights after {min(50, 3 * row['epochs'])} steps in fp64")
        assert verification.comparisons[-2].difference <= 1e-10
        assert verification.not_compared == ["val_spread"]
        assert verification.changed == {}


def test_a_trial_without_replicates(finished_run: Path, verified: Callable[..., Verification]) -> None:
    assert [c.difference for c in verified(finished_run, 1).comparisons[:3]] == [0, 0, 0]


def change(path: Path, number: int, column: str, value: Any) -> None:
    table = pd.read_parquet(path)
    table.loc[table.index[table["trial"] == number][0], column] = value
    table.to_parquet(path, index=False)


def test_false_records_are_found(copy: RunFolder, verified: Callable[..., Verification]) -> None:
    best = int(load_results(copy.path).trials.iloc[0]["trial"])

    def broken() -> list[str]:
        return [c.what.split()[0] for c in verified(copy.path, best).comparisons if not c.kept]

    assert broken() == []
    weights = load_file(copy.weights_path)
    for path, key in ((copy.weights_path, f"trial {best}/head.norm.weight"), (copy.winner_path, "head.norm.weight")):
        weights = load_file(path)
        with_metadata = dict(_metadata(path))
        weights[key][0] = torch.nextafter(weights[key][0], torch.tensor(9.0))
        save_file(weights, path, with_metadata)
    assert broken() == ["weights"]
    change(copy.trials_path, best, "val_nll", 0.1)
    assert broken() == ["metrics", "weights"]
    change(copy.curves_path, best, "value", 0.123)
    assert broken() == ["curve", "metrics", "weights"]
    assert not verified(copy.path, best, tolerance=1e-6).kept


def _metadata(path: Path) -> dict[str, str]:
    from safetensors import safe_open

    with safe_open(path, framework="pt") as file:
        return dict(file.metadata())


def test_another_seed_or_configuration_is_another_trial(copy: RunFolder, verified: Callable[..., Verification]) -> None:
    row = load_results(copy.path).trials.set_index("trial").loc[0]
    for column, value in (
        ("seed", int(row["seed"]) + 1),
        ("first_order", int(row["first_order"]) + 1),
        ("lane_config", json.dumps({**json.loads(row["lane_config"]), "lr": 0.0101})),
    ):
        change(copy.trials_path, 0, column, value)
        verification = verified(copy.path, 0)
        assert not verification.kept
        assert verification.comparisons[-2].kept, "the engine still computes what plain PyTorch does"
        change(copy.trials_path, 0, column, row[column])
    assert verified(copy.path, 0).kept


def test_images_that_moved_or_changed(
    copy: RunFolder, finished_run: Path, tmp_path: Path, verified: Callable[..., Verification]
) -> None:
    moved = tmp_path / "moved"
    shutil.copytree(finished_run.parent / "images", moved)
    config = json.loads(copy.config_path.read_text())
    copy.write_json(copy.config_path, {**config, "data": "/nowhere", "data_path": "/nowhere"})
    with pytest.raises(UsageError, match="no data set '/nowhere'"):
        verified(copy.path, 0)
    assert verified(copy.path, 0, data=str(moved)).kept
    for image in (moved / "above").iterdir():
        shutil.copy(moved / "below" / image.name, image)
    with pytest.raises(SweepError, match=r"the train images of .*moved are not those that the run saw"):
        verified(copy.path, 0, data=str(moved))


def test_trials_that_cannot_be_verified(copy: RunFolder, tmp_path: Path, verified: Callable[..., Verification]) -> None:
    with pytest.raises(UsageError, match="is not a run folder"):
        verified(tmp_path, 0)
    with pytest.raises(UsageError, match=r"has no trial 99; sweep results .*run lists"):
        verified(copy.path, 99)
    for lane_config in ("{", "[]", '{"lr": "much"}', '{"rate": 1}', '{"lr": 0.1, "rank": 3}'):
        change(copy.trials_path, 0, "lane_config", lane_config)
        with pytest.raises(SweepError, match="is damaged: the lane_config of trial 0"):
            verified(copy.path, 0)
    for column, value in (("epochs", 9), ("first_order", 0), ("seed", -1)):
        change(copy.trials_path, 1, column, value)
        with pytest.raises(SweepError, match=r"trials.parquet is damaged"):
            verified(copy.path, 1)
        change(copy.trials_path, 1, column, 1)
    change(copy.trials_path, 1, "epochs", 0)
    with pytest.raises(UsageError, match="ended before its first epoch"):
        verified(copy.path, 1)
    config = json.loads(copy.config_path.read_text())
    copy.write_json(copy.config_path, {**config, "seeds": 3})
    change(copy.trials_path, 1, "epochs", 1)
    with pytest.raises(SweepError, match=r"curves.parquet is damaged: the curve of trial 1 has gaps"):
        verified(copy.path, 1)
    copy.write_json(copy.config_path, config)
    pd.read_parquet(copy.trials_path).drop(columns="lane_config").to_parquet(copy.trials_path, index=False)
    with pytest.raises(SweepError, match="written by an older version of sweep"):
        verified(copy.path, 0)


def test_the_command_prints_the_result_and_sets_the_exit_code(
    copy: RunFolder, finished_run: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("SWEEP_CACHE_DIR", str(finished_run.parent / "cache"))

    def call() -> tuple[object, str]:
        monkeypatch.setattr(sys, "argv", ["sweep", "verify", str(copy.path), "--trial", "0", "--device", "cpu"])
        with pytest.raises(SystemExit) as ended:
            sweep.cli.main()
        return ended.value.code, capsys.readouterr().out

    code, out = call()
    assert (code, "the trial trained alone equals the record" in out) == (0, True)
    change(copy.trials_path, 0, "val_nll", 0.1)
    config = json.loads(copy.config_path.read_text())
    copy.write_json(copy.config_path, {**config, "versions": {**config["versions"], "torch": "1.0"}})
    code, out = call()
    assert (code, "the trial trained alone differs from the record" in out) == (1, True)
    assert "the run had torch 1.0, here" in out
