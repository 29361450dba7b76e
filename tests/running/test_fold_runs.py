"""Runs with cross-validation: ranked by the mean over folds, resumed, verified, reported and exported."""

import json
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

import sweep.cli
from sweep.api.run import overridden_study
from sweep.errors import UsageError
from sweep.export.config import CARD_FILE, WEIGHTS_FILE
from sweep.export.write import export_run
from sweep.machine.checked_files import read_weights
from sweep.records.folder import RunFolder
from sweep.records.results import load_results
from sweep.records.trial_log import TrialRecord
from sweep.report.evidence import winner_on_val
from sweep.report.write import write_report
from sweep.running.resume import resume_run
from sweep.study.halving import Halving
from sweep.terminal.console import stderr
from sweep.terminal.progress import LineReporter
from sweep.verify.verify import verify_trial
from tests.conftest import draw_images, run_on, study_on

N_FOLDS, N_REPEATS = 3, 2
SPLITS = {"train": range(8), "val": range(8, 12), "test": range(12, 16)}


@pytest.fixture(scope="module")
def images(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return draw_images(tmp_path_factory.mktemp("folds") / "images", "everywhere")


@pytest.fixture(scope="module")
def folded(images: Path) -> Path:
    return run_on(images, "folded", n_parallel=13, trials=3, folds=N_FOLDS, repeats=N_REPEATS)


@pytest.fixture(autouse=True)
def cache(images: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("SWEEP_CACHE_DIR", str(images.parent / "cache"))
    return images.parent / "cache"


def command(*arguments: object) -> int | str | None:
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(sys, "argv", ["sweep", *map(str, arguments)])
        with pytest.raises(SystemExit) as ended:
            sweep.cli.main()
    return ended.value.code


def test_trials_are_ranked_by_the_mean_over_folds(folded: Path) -> None:
    results = load_results(folded)
    n_lanes = N_FOLDS * N_REPEATS
    assert (results.trials["seeds"] == n_lanes).all()
    last = results.curves[results.curves["epoch"] == results.config["epochs"]]
    of_trial = last[last["metric"] == "val_top1"].groupby("trial")["value"]
    for row in results.trials.to_dict("records"):
        values = of_trial.get_group(row["trial"])
        assert len(values) == n_lanes
        assert row["val_top1"] == pytest.approx(values.mean(), abs=1e-12)
        assert row["val_top1_std"] == pytest.approx(values.std(ddof=1), abs=1e-12)
    assert results.trials["val_top1"].is_monotonic_decreasing
    winner = results.summary["winner"]
    best = results.trials.iloc[0]
    assert winner["val"]["top1_error"] == pytest.approx(best["val_top1_std"] / np.sqrt(N_FOLDS))
    sizes = {name: split["images"] for name, split in results.config["splits"].items()}
    assert results.summary["n_val_images"] == sizes["train"] + sizes["val"]


def test_winner_is_trained_again_on_all_of_train_and_val(folded: Path, tmp_path: Path) -> None:
    results = load_results(folded)
    assert results.summary["retrained"]
    sizes = {name: split["images"] for name, split in results.config["splits"].items()}
    record = json.loads((folded / "retrained.json").read_text())
    assert record["n_train_images"] == sizes["train"] + sizes["val"]
    assert results.summary["winner"]["test"] == record["winner"]
    exported = export_run(folded, tmp_path / "model", cache_dir=folded.parent / "cache")
    assert exported.retrained
    kept = read_weights(folded / "retrained.safetensors")
    weights = read_weights(tmp_path / "model" / WEIGHTS_FILE)
    assert all(torch.equal(weights[f"side_networks.0.{name}"], tensor) for name, tensor in kept.items())
    card = (tmp_path / "model" / CARD_FILE).read_text()
    n_images = sizes["train"] + sizes["val"]
    assert f"{n_images} train and val images" in card
    assert "on train and val over folds" in card
    trial = int(results.trials.iloc[1]["trial"])
    export_run(folded, tmp_path / "other", trial=trial, cache_dir=folded.parent / "cache")
    assert f"without the first of {N_FOLDS} folds" in (tmp_path / "other" / CARD_FILE).read_text()


def test_every_trial_verifies(folded: Path) -> None:
    for trial in load_results(folded).trials["trial"][:2]:
        found = verify_trial(folded, int(trial), device=torch.device("cpu"), cache_dir=folded.parent / "cache")
        assert found.kept, found.comparisons
        curve = found.comparisons[0]
        assert curve.difference == 0
        assert curve.count % (N_FOLDS * N_REPEATS) == 0
        assert {c.what for c in found.comparisons} >= {"curve", "weights"}


def test_report_shows_the_first_fold(folded: Path, tmp_path: Path) -> None:
    results = load_results(folded)
    trial = results.summary["winner"]["trial"]
    evidence = winner_on_val(results, RunFolder(folded), trial, folded.parent / "cache")
    curves = results.curves
    first = curves[
        (curves["trial"] == trial)
        & (curves["replicate"] == 0)
        & (curves["epoch"] == results.config["epochs"])
        & (curves["metric"] == "val_top1")
    ]["value"].item()
    assert (evidence.predicted == evidence.labels).mean() == pytest.approx(first)
    write_report(folded, tmp_path / "report.html", cache_dir=folded.parent / "cache", say=lambda line: None)
    page = (tmp_path / "report.html").read_text()
    assert "on the first fold" in page
    assert f"{N_FOLDS} folds of train and val, divided anew {N_REPEATS} times" in page


def test_table_and_summary_say_what_the_error_is_over(folded: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert not command("results", folded)
    shown = " ".join(capsys.readouterr().out.split())
    assert "± is the standard error over folds" in shown
    assert f"on {N_FOLDS} folds of" in shown


class KilledError(Exception):
    pass


class Killer(LineReporter):
    """Stops the run when a trial has ended, as a kill would."""

    def trial_ended(self, record: TrialRecord) -> None:
        raise KilledError


def same_tables(ours: Path, theirs: Path) -> bool:
    trials, expected = (load_results(run).trials.drop(columns="seconds") for run in (ours, theirs))
    keys = ["trial", "replicate", "epoch", "metric"]
    curves, expected_curves = (
        load_results(run).curves.sort_values(keys).reset_index(drop=True) for run in (ours, theirs)
    )
    return trials.equals(expected) and curves.equals(expected_curves)


@pytest.mark.slow
def test_killed_run_and_workers_give_the_same_tables(images: Path) -> None:
    """The run also has rungs, trials of two ranks in separate stacks, and a lane that is too few for another trial."""
    declared: dict[str, Any] = {
        **{"trials": 5, "epochs": 4, "folds": N_FOLDS, "halving": Halving(eta=2, first_rung=2)},
        **{"rank_buckets": (1, 2)},
    }
    n_parallel = 2 * N_FOLDS + 1
    whole = run_on(images, "whole", n_parallel=n_parallel, **declared)
    assert set(load_results(whole).trials["state"]) == {"COMPLETE", "PRUNED"}
    with pytest.raises(KilledError):
        run_on(images, "killed", n_parallel=n_parallel, reporter=Killer(stderr), **declared)
    study, reporter = study_on(images, **declared), LineReporter(stderr)
    killed = images.parent / "killed"
    resume_run(killed, study, storage_url=None, cache_dir=images.parent / "cache", reporter=reporter)
    assert same_tables(killed, whole)
    assert same_tables(run_on(images, "on-workers", n_parallel=n_parallel, n_workers=2, **declared), whole)


@pytest.mark.parametrize(
    ("declared", "message"),
    [
        ({"folds": 1}, "folds must be at least 2, or 0"),
        ({"folds": -1}, "folds must be a whole number from 0"),
        ({"repeats": 3}, "repeats is 3 without folds"),
        ({"folds": 3, "repeats": 0}, "repeats must be a whole number from 1"),
        ({"folds": 3}, "--n-parallel 2 is less than the 3 lanes of one trial; raise --n-parallel or lower --folds"),
        ({"folds": 2, "seeds": 2}, "less than the 4 lanes of one trial; raise --n-parallel or lower --seeds or --fol"),
        ({"folds": 500, "n_parallel": 500}, "--folds 500 is more than the 48 images of train and val"),
    ],
)
def test_errors_name_the_remedy(images: Path, declared: dict[str, Any], message: str) -> None:
    with pytest.raises(UsageError, match=message):
        run_on(images, "refused", trials=1, **declared)


def test_no_retrain_cannot_be_combined_with_folds(images: Path) -> None:
    with pytest.raises(UsageError, match="--no-retrain cannot be combined with folds"):
        overridden_study(study_on(images), {"folds": 3, "retrain": False})


def test_classes_with_fewer_images_than_folds_are_named(images: Path, capsys: pytest.CaptureFixture[str]) -> None:
    run_on(images, "rare", n_parallel=20, trials=1, epochs=1, folds=20)
    said = " ".join(capsys.readouterr().err.split())
    assert "cross-validation: 20 folds of the 48 images of train and val; 20 lanes a trial" in said
    assert "3 of 3 classes have fewer images than there are folds (above 16, below 16, everywhere 16)" in said


def test_features_are_computed_once_for_all_folds(images: Path, capsys: pytest.CaptureFixture[str]) -> None:
    run_on(images, "once", n_parallel=4, trials=1, epochs=1, folds=4)
    summary = load_results(images.parent / "once").summary
    assert summary["plan"]["n_images"] == 60


def test_a_fold_on_which_nothing_can_be_measured_is_an_error(images: Path) -> None:
    """Only two of these images have the label. With more folds, some folds have nothing to measure."""
    rows = [f"above/{i}.png,{int(i in (0, 8, 12))},0,{split}" for split, numbers in SPLITS.items() for i in numbers]
    table = images / "rare.csv"
    table.write_text("\n".join(["path,bright,dark,split", *rows]), encoding="utf-8")
    with pytest.raises(UsageError, match=r"no fold \d image of .*rare.* has a label"):
        run_on(table, "no-label", n_parallel=4, trials=1, folds=4, task="multi-label")
