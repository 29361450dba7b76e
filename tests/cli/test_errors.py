"""Every failure that a user can cause gives one message without a traceback, and exit code 2 (usage) or 1 (others)."""

import errno
import itertools
import json
import os
import shutil
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pandas as pd
import pytest
from PIL import Image

import sweep.cli
from sweep.training.engine import EpochResult, Training

Cli = Callable[..., tuple[int, str]]
OFFLINE_NAME = "vit_small_patch16_224.augreg_in21k"


@pytest.fixture
def cli(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], cache_dir: Path, tmp_path: Path) -> Cli:
    """Run the command in this process. Return its exit code and its standard error."""
    monkeypatch.setenv("SWEEP_CACHE_DIR", str(cache_dir))
    monkeypatch.chdir(tmp_path)

    def call(*arguments: str) -> tuple[int, str]:
        monkeypatch.setattr(sys, "argv", ["sweep", *arguments])
        with pytest.raises(SystemExit) as ended:
            sweep.cli.main()
        code = ended.value.code
        assert isinstance(code, int)
        return code, " ".join(capsys.readouterr().err.split())

    return call


def run_arguments(**options: object) -> list[str]:
    given = {"study": "lr_rank", "backbone": "tiny-untrained", "group_size": 2, "trials": 2, "epochs": 1, **options}
    return ["run", *(part for name, value in given.items() for part in (f"--{name.replace('_', '-')}", str(value)))]


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"study": "lr_rang"}, "did you mean lr_rank?"),
        ({"study": "./nowhere.py"}, "no study './nowhere.py'"),
        ({"data": "cuont"}, "did you mean count"),
        ({"data": "./nowhere"}, "./nowhere"),
        ({"backbone": "vit_smal_patch16_224"}, "vit_small_patch16_224"),
        ({"n_parallel": 0}, "--n-parallel must be at least 1, not 0; give auto"),
        ({"n_parallel": "many"}, "--n-parallel must be a whole number or auto, not 'many'"),
        ({"n_parallel": "2.5"}, "--n-parallel must be a whole number or auto, not '2.5'"),
        ({"trials": 0}, "trials must be a whole number of at least 1, not 0"),
        ({"epochs": 0}, "--epochs"),
        ({"batch_size": -3}, "--batch-size"),
        ({"group_size": 3}, "group size 3"),
        ({"image_size": 0}, "image_size"),
        ({"pool": "max"}, "pool must be 'mean', 'class' or 'last', not 'max'"),
        ({"precision": "fp8"}, "precision must be 'fp32' or 'bf16', not 'fp8'"),
        ({"precision": "bf16", "device": "cpu"}, "--precision bf16 needs a GPU"),
        ({"device": "abacus"}, "--device abacus"),
        ({"storage": "nonsense://"}, "--storage nonsense:// cannot be opened"),
        ({"on_bad_image": "ignore"}, "Invalid value for '--on-bad-image'"),
        ({"colour": "red"}, "No such option"),
        ({"target": 90}, "--target 90"),
        ({"time": 10}, "--time must be a duration with its unit, such as 90s, 10m or 1h30m, not '10'"),
        ({"folds": 1}, "folds must be at least 2, or 0 for no cross-validation, not 1"),
        ({"repeats": 2}, "repeats is 2 without folds; give --folds 5 too"),
        ({"folds": 40}, "--n-parallel 32 is less than the 40 lanes of one trial; raise --n-parallel or lower --folds"),
    ],
)
def test_usage_errors(cli: Cli, photos: Path, options: dict[str, object], message: str) -> None:
    code, stderr = cli(*run_arguments(**{"data": photos, **options}))
    assert code == 2
    assert message in stderr
    assert "Traceback" not in stderr


def test_a_folder_with_almost_that_name_is_suggested(cli: Cli, photos: Path) -> None:
    code, stderr = cli(*run_arguments(data=photos.with_name(f"{photos.name}x")))
    assert code == 2
    assert f"did you mean {photos}?" in stderr


@pytest.mark.parametrize("n_parallel", ["0", "many"])
def test_plan_refuses_what_run_refuses(cli: Cli, photos: Path, n_parallel: str) -> None:
    code, stderr = cli("plan", *run_arguments(data=photos, n_parallel=n_parallel)[1:])
    assert code == 2
    assert "--n-parallel must be" in stderr


def test_empty_and_single_class_folders(cli: Cli, tmp_path: Path) -> None:
    empty = tmp_path / "empty"
    empty.mkdir()
    code, stderr = cli(*run_arguments(data=empty))
    assert (code, str(empty) in stderr) == (2, True)
    (empty / "cats").mkdir()
    Image.new("RGB", (8, 8)).save(empty / "cats" / "0.png")
    code, stderr = cli(*run_arguments(data=empty))
    assert code == 2
    assert "class" in stderr


def test_unreadable_image_is_named(cli: Cli, photos: Path) -> None:
    broken = photos / "cats" / "3.png"
    broken.write_bytes(b"not an image")
    code, stderr = cli(*run_arguments(data=photos))
    assert code in (1, 2)
    assert str(broken) in stderr


def test_image_cut_short_is_named_or_left_out_and_recorded(cli: Cli, photos: Path) -> None:
    """The image's header is sound, so the error comes only when its features are computed."""
    for name in ("cats", "dogs"):
        for i in range(8, 20):
            shutil.copy(photos / name / f"{i % 8}.png", photos / name / f"{i}.png")
    broken = photos / "dogs" / "3.png"
    os.truncate(broken, broken.stat().st_size // 2)
    code, stderr = cli(*run_arguments(data=photos, out="stopped"))
    assert code == 1
    assert f"cannot read the image {broken}: " in stderr
    assert "Replace or remove it, or leave it out with --on-bad-image skip" in stderr

    code, stderr = cli("plan", *run_arguments(data=photos, on_bad_image="skip")[1:])
    assert (code, f"skipped: {broken}: " in stderr) == (0, True)
    code, stderr = cli(*run_arguments(data=photos, on_bad_image="skip", out="here"))
    assert code == 0
    assert f"skipped: {broken}: " in stderr
    assert "1 unreadable image left out; here/config.json lists them" in stderr
    config = json.loads(Path("here/config.json").read_text())
    (skipped,) = config["skipped_images"]
    assert skipped["path"] == str(broken)
    assert "truncated" in skipped["reason"]
    assert sum(split["images"] for split in config["splits"].values()) == 39


def test_weights_that_are_missing_offline(cli: Cli, photos: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    code, stderr = cli(*run_arguments(data=photos, backbone=OFFLINE_NAME, group_size=3))
    assert code == 1
    assert OFFLINE_NAME in stderr
    assert "dinov2_small_focus" in stderr


def test_full_disk_names_the_file(cli: Cli, photos: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def no_space(*args: object, **kwargs: object) -> None:
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    monkeypatch.setattr("pandas.DataFrame.to_parquet", no_space)
    code, stderr = cli(*run_arguments(data=photos, out="here"))
    assert code == 1
    assert "No space left on device" in stderr
    assert "here/trials.parquet" in stderr
    assert not list(Path("here").glob("*.partial"))

    monkeypatch.setattr("optuna.storages.journal.JournalFileBackend.append_logs", no_space)
    code, stderr = cli(*run_arguments(data=photos, out="elsewhere"))
    assert code == 1
    assert "the disk is full: cannot write the output or the Optuna storage. Free some space; sweep resume" in stderr
    assert "Traceback" not in stderr

    monkeypatch.setattr("os.fsync", no_space)
    code, stderr = cli(*run_arguments(data=photos, out="there"))
    assert code == 1
    assert "cannot write there/config.json: No space left on device" in stderr


@pytest.mark.parametrize("number", [errno.EACCES, errno.EROFS, errno.EISDIR])
def test_a_path_that_the_system_refuses(cli: Cli, monkeypatch: pytest.MonkeyPatch, number: int) -> None:
    def refused(path: Path) -> None:
        raise OSError(number, os.strerror(number), "elsewhere/config.json")

    monkeypatch.setattr("sweep.records.folder.RunFolder.open", refused)
    code, stderr = cli("results", "elsewhere")
    assert code == 1
    assert stderr.startswith(f"error: cannot use elsewhere/config.json: {os.strerror(number)}. ")


def test_a_stopped_run_can_be_resumed(cli: Cli, photos: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    arguments = {"data": photos, "epochs": 4, "trials": 3, "enqueue": "fixed.csv"}
    Path("fixed.csv").write_text("lr,rank\n0.002,2\n")
    assert cli(*run_arguments(**arguments, out="whole"))[0] == 0
    epoch, n_epochs = Training.epoch, itertools.count(1)

    def stop_at_third(self: Training, order: int, *arguments: Any) -> EpochResult:
        if next(n_epochs) == 3:
            raise KeyboardInterrupt
        return epoch(self, order, *arguments)

    monkeypatch.setattr(Training, "epoch", stop_at_third)
    code, stderr = cli(*run_arguments(**arguments, out="stopped"))
    assert (code, "stopped; to continue: sweep resume stopped" in stderr) == (130, True)
    assert cli(*run_arguments(**arguments, out="stopped"))[0] == 2, "a run folder is never overwritten"
    code, stderr = cli("resume", "stopped")
    assert code == 0
    assert "continuing after" in stderr
    tables = [pd.read_parquet(f"{run}/trials.parquet").drop(columns="seconds") for run in ("whole", "stopped")]
    pd.testing.assert_frame_equal(*tables, check_exact=True)

    code, stderr = cli("resume", "stopped")
    assert (code, "has ended; nothing is left to do" in stderr) == (0, True)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda config: config.update(epochs="many"), "epochs must be a whole number of at least 1, not 'many'"),
        (lambda config: config.update(study="mine", study_file="mine.py"), "sweep resume run --study FILE"),
        (lambda config: config.update(backbone="./evil.py:build"), "resume run --backbone ./evil.py:build"),
        (lambda config: config.update(sampler="NoSampler"), "declares sampler"),
        (lambda config: config.update(objectives={"val_nll": "minimize"}), "undo the change, or start a new run"),
        (lambda config: config.update(storage="sqlite:///far.db"), "sweep resume run --storage URL"),
        (lambda config: config["splits"]["val"].update(fingerprint="0"), "the val images of photos are not those"),
        (lambda config: config.update(backbone_fingerprint="0"), "the weights of tiny-untrained are not those"),
        (lambda config: config.update(n_parallel="some"), "config.json is damaged"),
        (lambda config: config["budget"].update(wall_seconds="1h"), "entry budget.wall_seconds is '1h'"),
        (lambda config: config.update(lanes="2"), "entry lanes is '2'"),
    ],
)
def test_a_run_that_cannot_be_resumed_is_refused(
    cli: Cli, photos: Path, monkeypatch: pytest.MonkeyPatch, change: Callable[[dict[str, Any]], None], message: str
) -> None:
    """Whatever a run folder names, only the packaged study is executed."""

    def stop(*arguments: object) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr(Training, "epoch", stop)
    assert cli(*run_arguments(data=photos, out="run"))[0] == 130
    config = json.loads(Path("run/config.json").read_text())
    change(config)
    Path("run/config.json").write_text(json.dumps(config))
    code, stderr = cli("resume", "run")
    assert code in (1, 2)
    assert message in stderr


def test_run_folder_is_never_overwritten(cli: Cli, photos: Path) -> None:
    assert cli(*run_arguments(data=photos, out="here"))[0] == 0
    before = Path("here/trials.parquet").read_bytes()
    code, stderr = cli(*run_arguments(data=photos, out="here"))
    assert (code, "is not empty" in stderr) == (2, True)
    assert Path("here/trials.parquet").read_bytes() == before


def test_failed_request_leaves_no_run_folder(cli: Cli) -> None:
    cli(*run_arguments(data="nowhere", out="here"))
    assert not Path("here").exists()


def test_results_of_a_folder_that_is_no_run(cli: Cli, finished_run: Path) -> None:
    for path, why in (
        ("nowhere", "there is no such folder; sweep run names the folder that it writes"),
        (finished_run / "config.json", f"it is a file; give the folder {finished_run}"),
        (finished_run / "snapshots", "it has no config.json"),
        (finished_run.parent, f"it has no config.json; did you mean {finished_run}?"),
    ):
        code, stderr = cli("results", str(path))
        assert code == 2
        assert f"{path} is not a run folder: {why}" in stderr


def test_damaged_results_are_named(cli: Cli, photos: Path) -> None:
    assert cli(*run_arguments(data=photos, out="here"))[0] == 0
    Path("here/trials.parquet").write_bytes(b"PAR1 but not really")
    code, stderr = cli("results", "here")
    assert code == 1
    assert "here/trials.parquet" in stderr
    Path("here/trials.parquet").unlink()
    assert "is missing" in cli("results", "here")[1]


def test_dashboard_without_its_package(cli: Cli, photos: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    assert cli(*run_arguments(data=photos, out="here"))[0] == 0
    monkeypatch.setattr("importlib.util.find_spec", lambda name: None)
    code, stderr = cli("dashboard", "here")
    assert code == 1
    assert "pip install" in stderr


def test_a_plot_is_an_html_file(cli: Cli, finished_run: Path) -> None:
    code, stderr = cli("results", str(finished_run), "--plot", "out.png")
    assert code == 2
    assert "--plot out.png: plots are HTML files; give out.html" in stderr
    assert not Path("out.png").exists()
