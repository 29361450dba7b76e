"""`--track`: each trial is a run of the tracker, with its parameters, curves and end. The tests read its files."""

import math
import shutil
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

import sweep
from sweep.errors import SweepError, UsageError
from sweep.records.folder import RunFolder
from sweep.records.reporter import Reporter
from sweep.records.results import Results, load_results
from sweep.records.trial_log import TrialRecord
from sweep.tracking.tracked import Tracked, trackers_named
from sweep.tracking.tracker import Tracker

pytestmark = pytest.mark.filterwarnings("ignore")  # trackers may give warnings of their own


def replay(run: Path, reporter: Reporter) -> Results:
    """Report a finished run to a reporter, as if the run were in progress."""
    folder, results = RunFolder(run), load_results(run)
    reporter.run_opened(folder, None)
    for row in results.trials.sort_values("trial").to_dict("records"):
        params = {name.removeprefix("params_"): v for name, v in row.items() if str(name).startswith("params_")}
        trial = TrialRecord(row["trial"], params, [row["seed"]], row["trainable_parameters"])
        own = results.curves[results.curves["trial"] == row["trial"]]
        for epoch, measured in own.groupby("epoch"):
            trial.epochs, trial.metrics = int(str(epoch)), dict(zip(measured["metric"], measured["value"], strict=True))
            reporter.trial_measured(trial)
        trial.state = row["state"]
        reporter.trial_ended(trial)
    reporter.run_ended(folder)
    return results


@pytest.fixture
def copy(finished_run: Path, tmp_path: Path) -> Path:
    shutil.copytree(finished_run, tmp_path / "copy")
    return tmp_path / "copy"


def curve_of(results: Results, trial: int) -> dict[int, float]:
    own = results.curves[(results.curves["trial"] == trial) & (results.curves["metric"] == "val_top1")]
    return dict(zip(own["epoch"], own["value"], strict=True))


def test_tensorboard(copy: Path) -> None:
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    (tracker,) = trackers_named(["tensorboard"])
    results = replay(copy, tracker)
    tracker.close()
    for trial in results.trials["trial"]:
        events = EventAccumulator(str(copy / "tensorboard" / f"trial-{trial:04d}"))
        events.Reload()
        curve = {event.step: event.value for event in events.Scalars("val_top1")}
        assert curve == pytest.approx(curve_of(results, trial), abs=1e-6)
        start = events.SummaryMetadata("_hparams_/session_start_info").plugin_data.content
        assert b"lr" in start
        assert b"rank" in start
    events = EventAccumulator(str(copy / "tensorboard" / "run"))
    events.Reload()
    (test,) = events.Scalars("winner_test_top1")
    assert test.value == pytest.approx(results.summary["winner"]["test"]["top1"])


def test_mlflow(copy: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from mlflow.tracking import MlflowClient

    monkeypatch.delenv("MLFLOW_TRACKING_URI", raising=False)
    for _ in range(2):  # the second time as in a resumed run
        (tracker,) = trackers_named(["mlflow"])
        results = replay(copy, tracker)
    client = MlflowClient((copy / "mlruns").resolve().as_uri())
    experiment = client.get_experiment_by_name("drawn")
    assert experiment is not None
    runs = client.search_runs([experiment.experiment_id])
    (parent,) = (run for run in runs if "sweep.run" in run.data.tags)
    trials = {int(run.data.tags["sweep.trial"]): run for run in runs if "sweep.trial" in run.data.tags}
    assert set(trials) == set(results.trials["trial"])
    for trial, run in trials.items():
        assert run.info.status == "FINISHED"
        assert float(run.data.params["lr"]) == results.trials.set_index("trial").loc[trial, "params_lr"]
        history = client.get_metric_history(run.info.run_id, "val_top1")
        assert {point.step: point.value for point in history} == curve_of(results, trial)
        assert len(history) == len(curve_of(results, trial)), "a resumed run logs no point twice"
    assert parent.data.metrics["winner_test_top1"] == results.summary["winner"]["test"]["top1"]
    kept = {file.path for file in client.list_artifacts(parent.info.run_id)}
    assert kept == {"config.json", "summary.json", "trials.parquet", "curves.parquet", "winner.safetensors"}


def wandb_records(content: bytes) -> Iterator[bytes]:
    """Yield the records of an offline file, which is a LevelDB log after seven bytes."""
    place, record, block = 7, b"", 32768
    while place + 7 <= len(content):
        if block - place % block < 7:
            place += block - place % block
            continue
        length, kind = int.from_bytes(content[place + 4 : place + 6], "little"), content[place + 6]
        record += content[place + 7 : place + 7 + length]
        place += 7 + length
        if kind in (1, 4):  # whole, or the last part
            yield record
            record = b""


def wandb_curve(file: Path) -> tuple[dict[int, float], dict[str, str]]:
    """Return the top-1 curve and the configuration in an offline file."""
    from wandb.proto import wandb_internal_pb2

    curve, config = {}, {}
    for data in wandb_records(file.read_bytes()):
        record = wandb_internal_pb2.Record()
        record.ParseFromString(data)
        if record.HasField("history"):
            values = {item.key or "/".join(item.nested_key): item.value_json for item in record.history.item}
            curve[int(values["_step"])] = float(values["val_top1"])
        if record.HasField("run"):
            config |= {item.key: item.value_json for item in record.run.config.update}
    return curve, config


@pytest.mark.parametrize("most_open", [32, 0])
def test_wandb_offline(most_open: int, copy: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Trials are logged while they train. If too many train at a time, they are logged when they end."""
    wandb = pytest.importorskip("wandb")
    monkeypatch.setattr("sweep.tracking.wandb_tracker.MOST_OPEN", most_open)
    monkeypatch.setenv("WANDB_MODE", "offline")
    (tracker,) = trackers_named(["wandb"])
    results = replay(copy, tracker)
    wandb.teardown()
    files = {path.stem.removeprefix("run-copy-"): path for path in copy.glob("wandb/offline-run-*/*.wandb")}
    assert set(files) == {*map(str, results.trials["trial"]), "summary"}
    for trial in results.trials["trial"]:
        curve, config = wandb_curve(files[str(trial)])
        assert curve == pytest.approx(curve_of(results, trial))
        assert float(config["lr"]) == results.trials.set_index("trial").loc[trial, "params_lr"]


def test_wandb_has_what_a_stopped_run_measured(copy: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Two trials train at a time, and neither of them ends."""
    wandb = pytest.importorskip("wandb")
    monkeypatch.setenv("WANDB_MODE", "offline")
    (tracker,) = trackers_named(["wandb"])
    tracker.run_opened(RunFolder(copy), None)
    for epoch in (1, 2):
        for number in (0, 1):
            trial = TrialRecord(number, {"lr": 0.1}, [0], 7)
            trial.epochs, trial.metrics = epoch, {"val_top1": 0.25 * epoch + 0.01 * number}
            tracker.trial_measured(trial)
    tracker.close()
    wandb.teardown()  # normally at the end of a process; another process writes the files
    for number in (0, 1):
        (file,) = copy.glob(f"wandb/offline-run-*/run-copy-{number}.wandb")
        assert wandb_curve(file)[0] == pytest.approx({1: 0.25 + 0.01 * number, 2: 0.5 + 0.01 * number})


class Broken(Tracker):
    name = "broken"

    def trial_measured(self, trial: TrialRecord) -> None:
        raise RuntimeError("the server is away\nand more")


class Listener(Reporter):
    def __init__(self) -> None:
        self.said: list[str] = []
        self.calls: list[tuple[str, int, str]] = []

    def message(self, text: str) -> None:
        self.said.append(text)

    def trial_measured(self, trial: TrialRecord) -> None:
        assert all(math.isfinite(value) for value in trial.metrics.values())
        self.calls.append(("measured", trial.trial, str(trial.epochs)))

    def trial_ended(self, trial: TrialRecord) -> None:
        self.calls.append(("ended", trial.trial, trial.state))

    def run_ended(self, folder: RunFolder) -> None:
        assert folder.summary_path.is_file()
        self.calls.append(("run ended", -1, ""))


def test_a_search_reports_every_trial_and_survives_a_broken_tracker(
    finished_run: Path, tmp_path: Path, drawn_study: Any
) -> None:
    listener = Listener()
    run = sweep.run(
        drawn_study, out=tmp_path / "run", n_parallel=2, device="cpu", reporter=Tracked(listener, [Broken()])
    )
    assert (run.trials["state"] == "COMPLETE").all()
    warnings = [line for line in listener.said if "warning" in line]
    assert warnings == ["warning: broken failed (RuntimeError: the server is away); the run goes on without it"]
    for trial in run.trials["trial"]:
        own = [call for call in listener.calls if call[1] == trial]
        assert own == [*(("measured", trial, str(epoch)) for epoch in (1, 2)), ("ended", trial, "COMPLETE")]
    assert listener.calls[-1][0] == "run ended"


@pytest.fixture
def drawn_study(finished_run: Path, monkeypatch: pytest.MonkeyPatch) -> sweep.Study:
    monkeypatch.setenv("SWEEP_CACHE_DIR", str(finished_run.parent / "cache"))
    return sweep.Study(
        suggest=lambda trial: sweep.LaneConfig(lr=trial.suggest_float("lr", 1e-3, 1e-1, log=True), rank=2),
        baseline={"lr": 1e-2},
        max_rank=2,
        backbone="tiny-untrained",
        data=str(finished_run.parent / "images"),
        group_size=2,
        epochs=2,
        batch_size=16,
        trials=3,
    )


def test_unavailable_trackers_are_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(UsageError, match="--track must be one of tensorboard, mlflow, wandb, not 'aim'"):
        trackers_named(["aim"])
    monkeypatch.setitem(sys.modules, "mlflow", None)
    with pytest.raises(SweepError, match=r'--track mlflow needs the package mlflow .*pip install -e "\.\[mlflow\]"'):
        trackers_named(["mlflow"])
