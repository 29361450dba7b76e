"""A study over several tasks, and the winners that are retrained at its end."""

import json
import re
import shutil
import sys
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
import torch
from PIL import Image

import sweep.cli
from backbones import load_backbone
from sweep.data import load_data
from sweep.data.suites import PACKAGED_SUITES, VTAB, VTAB_GROUPS, find_suite
from sweep.data.vtab import CLASS_COUNTS
from sweep.errors import UsageError
from sweep.features.batches import StageData
from sweep.features.cache import compute_features
from sweep.features.rows import JoinedRows
from sweep.machine.checked_files import read_weights
from sweep.machine.seeds import derive_seed
from sweep.records.folder import RunFolder
from sweep.records.published import PUBLISHED, PUBLISHED_LAST
from sweep.records.suite_results import load_suite
from sweep.running.retrain import read_retrained
from sweep.side_networks import LAST
from sweep.study.asking import check_baseline
from sweep.study.declaration import Study
from sweep.study.finding import load_study
from sweep.study.fixed import with_fixed
from sweep.study.going_on import as_in_0_11
from sweep.training.engine import train
from sweep.training.stack import Stack, split_logits

Cli = Callable[..., tuple[int, str, str]]

STUDY = """
import optuna
from sweep import LaneConfig, Study

def suggest(trial):
    rank = trial.suggest_categorical("rank", [1, 2])
    return LaneConfig(lr=trial.suggest_float("lr", 1e-3, 1e-1, log=True), rank=rank, dropout=0.2)

study = Study(
    suggest=suggest, baseline={"lr": 1e-2, "rank": 2}, max_rank=2, backbone="tiny-untrained", group_size=2, trials=2,
    epochs=1, batch_size=8, seeds=2,
)
"""


def vtab(root: Path, tasks: dict[str, int]) -> Path:
    """Create VTAB tasks. `tasks` gives the number of their classes; the class of an image is its brightness."""
    rng = np.random.default_rng(0)
    for name, n_classes in tasks.items():
        for file, size in (("train800", 16), ("val200", 8), ("test", 12)):
            (root / name / "images" / file).mkdir(parents=True)
            lines = []
            for index in range(size):
                pixels = rng.integers(0, 60, (16, 16, 3)) + 190 * (index % n_classes) // n_classes
                Image.fromarray(pixels.astype(np.uint8)).save(root / name / "images" / file / f"{index}.png")
                lines.append(f"images/{file}/{index}.png {index % n_classes}\n")
            (root / name / f"{file}.txt").write_text("".join(lines))
    return root


@pytest.fixture
def cli(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], tmp_path: Path) -> Cli:
    """Run the command in this process.

    Return exit code, standard output and standard error, with runs of spaces made one.
    """
    monkeypatch.setenv("SWEEP_CACHE_DIR", str(tmp_path / "cache"))
    monkeypatch.chdir(tmp_path)
    Path("mine.py").write_text(STUDY)

    def call(*arguments: str) -> tuple[int, str, str]:
        monkeypatch.setattr(sys, "argv", ["sweep", *arguments])
        with pytest.raises(SystemExit) as ended:
            sweep.cli.main()
        assert isinstance(ended.value.code, int)
        captured = capsys.readouterr()
        return ended.value.code, " ".join(captured.out.split()), " ".join(captured.err.split())

    return call


RUN = ("run", "--study", "mine.py", "--data", "vtab-1k", "--device", "cpu", "--out", "out")
TASKS = {"svhn": 3, "patch_camelyon": 2, "kitti": 4}


def test_every_task_found_is_searched_retrained_and_averaged(cli: Cli, tmp_path: Path) -> None:
    vtab(tmp_path / "vtab-1k", {**TASKS, "own": 2})
    code, printed, said = cli(*RUN)
    assert code == 0, said
    assert "ignored: vtab-1k/own has lists of images, but VTAB-1K has no task own" in said
    assert "task 1 of 3: svhn (natural)" in said
    results = load_suite(Path("out"))
    assert list(results.tasks["task"]) == ["svhn", "patch_camelyon", "kitti"]
    assert list(results.tasks["group"]) == ["natural", "specialised", "structured"]
    assert (results.tasks["n_train"] == 24).all()
    assert (results.tasks["n_test"] == 12).all()
    for row in results.tasks.to_dict("records"):
        run = sweep.load_results(Path("out") / row["task"])
        assert run.summary["winner"]["trial"] == row["winner_trial"]
        assert run.summary["winner"]["val"]["top1"] == row["winner_val_top1"]
        assert f"{row['task']} │ {row['winner_trial']} │" in printed
    means = results.means("winner_test_top1")
    assert means[0] == pytest.approx(results.tasks["winner_test_top1"].mean()), "each group has one task"
    assert f"winner │ {' │ '.join(f'{100 * v:.1f}' for v in [*results.tasks['winner_test_top1'], *means])}" in printed
    assert "3 of its 19 tasks" in printed
    assert "caltech101 (not in vtab-1k)" in printed
    assert "LAST (arXiv 2402.04009), 0.66 M, published │ - │ - │ - │ 76.44 │ 74.15" in printed
    assert cli("results", "out")[1] == printed
    assert json.loads(cli("results", "out", "--format", "json")[1])["tasks"][2]["task"] == "kitti"
    assert cli("results", "out", "--format", "csv")[1].startswith("task,group,")
    assert cli("results", "out", "--plot", "x.html")[0] == 2
    check_retrained_is_a_plain_training_on_train_and_val(tmp_path)


def check_retrained_is_a_plain_training_on_train_and_val(tmp_path: Path) -> None:
    """Repeat the retraining by hand, with the winner's configuration and the documented seeds."""
    folder = RunFolder(Path("out/kitti"))
    study = load_study("mine.py").study
    data = load_data("vtab-1k/kitti", seed=0, cache_dir=tmp_path)
    backbone = load_backbone("tiny-untrained", group_size=2, cache_dir=tmp_path)
    parts = [
        compute_features(backbone, part, cache_dir=tmp_path / "by hand") for part in (data.train, data.val, data.test)
    ]
    together = StageData(
        np.concatenate([part.stages for part in parts[:2]]), torch.cat([part.labels for part in parts[:2]]), 4
    )
    winner = sweep.load_results(folder.path).summary["winner"]
    from sweep.side_networks.spec import SideNetworkSpec

    spec = SideNetworkSpec(32, 3, 4, backbone.n_prefix_tokens, 1, "mean", 2)
    config = sweep.LaneConfig(**winner["params"], dropout=0.2)
    seeds = [derive_seed(0, "retraining", i) for i in range(2)]
    lanes = [spec.lane(config.rank, seed) for seed in seeds]
    lengths = {"n_epochs": study.epochs, "batch_size": 8}
    states, _ = train(lanes, [config] * 2, together, together, **lengths, seed=study.seed, lane_seeds=seeds)
    plain: list[LAST] = []
    for state in states:
        plain.append(spec.plain(config.rank))
        plain[-1].load_state_dict(spec.trimmed(config.rank, state))
    test = StageData(parts[2].stages, parts[2].labels, 4)
    top1 = (split_logits(Stack(plain), test).argmax(-1) == test.labels).double().mean(-1)
    retrained = read_retrained(folder)
    assert retrained is not None
    assert retrained.winner["top1"] == pytest.approx(top1.mean().item())
    assert retrained.winner_std == pytest.approx(top1.std(correction=0).item())
    for name, tensor in read_weights(folder.path / "retrained.safetensors").items():
        torch.testing.assert_close(tensor, plain[0].state_dict()[name], rtol=0, atol=0)
    assert read_weights(folder.winner_path).keys() == plain[0].state_dict().keys()


def test_a_stopped_suite_can_be_resumed(cli: Cli, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    vtab(tmp_path / "vtab-1k", {"svhn": 3, "kitti": 4})
    assert cli(*RUN[:-1], "whole")[0] == 0

    def stop(*args: object, **kwargs: object) -> None:
        raise KeyboardInterrupt

    with monkeypatch.context() as patched:
        patched.setattr("sweep.running.suite.retrain", stop)
        code, _, said = cli(*RUN)
    assert code == 130
    assert "stopped; to continue, give the same command with --out out" in said
    code, _, said = cli(*RUN, "--epochs", "2")
    assert code == 2
    assert "out holds another study, other options or other tasks" in said
    code, _, said = cli(*RUN)
    assert code == 0
    assert "the run in out/svhn has ended; nothing is left to do" in said
    whole, pieces = (load_suite(Path(name)).tasks.drop(columns="seconds") for name in ("whole", "out"))
    pd.testing.assert_frame_equal(whole, pieces, check_exact=True)


WITH_STAGES = """
from sweep import LaneConfig, Study

STAGES = {"last": (2,), "even": 2}

def suggest(trial):
    stages = STAGES[trial.suggest_categorical("stages", list(STAGES))]
    return LaneConfig(lr=trial.suggest_float("lr", 1e-3, 1e-1, log=True), rank=2, stages=stages)

study = Study(
    suggest=suggest, baseline={"lr": 1e-2, "stages": "last"}, max_rank=2, backbone="tiny-untrained", trials=3, epochs=1,
    batch_size=8,
)
"""
OF_VERSION: Mapping[str, tuple[Callable[[Study, Mapping[str, Any]], Study], Mapping[str, bool]]] = {
    "0.10": (lambda study, options: study.override(**options), {}),
    "0.11.0": (
        lambda study, options: with_fixed(as_in_0_11(study).override(**options), ["stages"], among_names=False),
        {},
    ),
    "0.11.2": (
        lambda study, options: with_fixed(study.override(**options), ["stages"], among_names=False),
        {"fixed_numbers": True},
    ),
}
"""How a version made a study that has the option `--stages`, and what it recorded about that."""


@pytest.mark.parametrize("version", OF_VERSION)
def test_a_suite_that_an_earlier_version_began_with_an_option_goes_on_as_it_began(
    cli: Cli, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, version: str
) -> None:
    Path("mine.py").write_text(WITH_STAGES)
    vtab(tmp_path / "vtab-1k", {"svhn": 3})
    made, recorded = OF_VERSION[version]

    def stop(*args: object, **kwargs: object) -> None:
        raise KeyboardInterrupt

    with monkeypatch.context() as patched:
        patched.setattr("sweep.api.run.with_options", made)
        patched.setattr("sweep.running.record.ASKED_AS_NOW", recorded)
        patched.setattr("sweep.running.suite.ASKED_AS_NOW", recorded)
        assert cli(*RUN[:-1], "whole", "--stages", "2")[0] == 0
        patched.setattr("sweep.running.runner.end_run", stop)
        assert cli(*RUN, "--stages", "2")[0] == 130
    if version == "0.10":
        for path in (Path("out/svhn/config.json"), Path("out/suite.json")):
            record = json.loads(path.read_text())
            del record.get("declarations", record)["fixed"]
            path.write_text(json.dumps(record))
    code, _, said = cli(*RUN, "--stages", "3")
    assert (code, "out holds another study, other options or other tasks" in said) == (2, True)
    code, _, said = cli(*RUN, "--stages", "2")
    assert code == 0, said
    whole, pieces = (sweep.load_results(Path(name) / "svhn") for name in ("whole", "out"))
    assert set(pieces.trials["params_stages"]) == {"last", "even"}
    names = [name for name in whole.trials if "seconds" not in name]
    pd.testing.assert_frame_equal(whole.trials[names], pieces.trials[names], check_exact=True)
    assert cli(*RUN, "--stages", "2")[0] == 0, "it has ended, and its record is of this version now"


def test_options_that_a_suite_refuses(cli: Cli, tmp_path: Path) -> None:
    vtab(tmp_path / "vtab-1k", {"kitti": 4})
    code, _, said = cli(*RUN, "--storage", "sqlite:///trials.db")
    assert (code, "--storage is for a single task; VTAB-1K keeps a journal" in said) == (2, True)
    code, _, said = cli("plan", *RUN[1:-2])
    assert (code, "vtab-1k is several tasks, which `sweep run` takes" in said) == (2, True)
    Path("out").mkdir()
    Path("out/something").touch()
    code, _, said = cli(*RUN)
    assert (code, "the run folder out is not empty" in said) == (2, True)


def test_vtab_folders_by_any_of_their_names(tmp_path: Path) -> None:
    root = vtab(tmp_path / "vtab-1k", {"cifar_100": 2, "pets": 2})
    suite = find_suite(str(root), tmp_path)
    assert suite is not None
    assert [(task.name, task.group, Path(task.data).name) for task in suite.tasks] == [
        ("cifar", "natural", "cifar_100"),
        ("oxford_iiit_pet", "natural", "pets"),
    ]
    assert len(suite.missing) == 17
    assert find_suite(str(root / "pets"), tmp_path) is None, "the folder of one task is no suite"
    assert find_suite(str(tmp_path / "nowhere"), tmp_path) is None
    shutil.copytree(root / "cifar_100", root / "cifar")
    with pytest.raises(UsageError, match=r"cifar and .*cifar_100 are both VTAB-1K's cifar"):
        find_suite(str(root), tmp_path)


def test_groups_and_published_rows_are_complete_and_consistent() -> None:
    tasks = [task for group in VTAB_GROUPS.values() for task in group]
    assert sorted(tasks) == sorted(CLASS_COUNTS)
    assert PUBLISHED_LAST.keys() == CLASS_COUNTS.keys()
    groups = [np.mean([PUBLISHED_LAST[task] for task in group]) for group in VTAB_GROUPS.values()]
    last = PUBLISHED[0]
    assert np.mean(groups) == pytest.approx(last.group_mean, abs=0.05)
    assert last.flat_mean is not None
    assert np.mean(list(PUBLISHED_LAST.values())) == pytest.approx(last.flat_mean, abs=0.05)


def test_mini_vtab_leaves_out_missing_data_and_says_so(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("sweep.data.scanned.FASHION_FOLDER", tmp_path / "nowhere")
    suite = find_suite("mini-vtab", tmp_path)
    assert suite is not None
    assert suite.missing == {"fashion-mnist": "needs Debian's dataset-fashion-mnist"}
    assert len(suite.tasks) == 6
    assert {task.group for task in suite.tasks} == set(PACKAGED_SUITES["mini-vtab"])
    assert VTAB not in PACKAGED_SUITES
    assert find_suite({"train": []}, tmp_path) is None


def test_joined_rows_are_the_rows_of_both_arrays() -> None:
    first, second = np.arange(12).reshape(4, 3), np.arange(100, 109).reshape(3, 3)
    joined, whole = JoinedRows(first, second), np.concatenate([first, second])
    assert (joined.shape, joined.dtype, joined.nbytes) == (whole.shape, whole.dtype, whole.nbytes)
    np.testing.assert_array_equal(np.stack(list(joined)), whole)
    for index in (np.array([6, 0, 4, 3]), slice(2, 6), slice(0, 2), np.array([], dtype=int)):
        np.testing.assert_array_equal(joined[index], whole[index])


def test_the_packaged_studies_are_valid_and_name_their_command() -> None:
    for name in ("mini_vtab", "vtab1k"):
        loaded = load_study(name)
        check_baseline(loaded.study)
        assert re.search(rf"sweep run --study {name}\b", loaded.path.read_text())
