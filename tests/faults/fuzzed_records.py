"""Readers of records for the fuzz tests: suites, retrained tests, the accuracy suite, and runs that are resumed."""

import contextlib
import io
import json
from dataclasses import asdict
from pathlib import Path
from typing import Any

import pandas as pd
import pytest
from fuzzed_labels import STUDY
from fuzzed_runs import CURVES, SUMMARY, TRIALS, journal
from fuzzing import Reader, damaged, parquet, wrong_entries
from hypothesis import strategies as st
from rich.console import Console

from backbones import Transform
from sweep import LaneConfig
from sweep.bench.accuracy_report import accuracy_json, measured_rows, show_accuracy
from sweep.bench.accuracy_results import AccuracyBenchmark, AccuracyRow, AccuracySizes
from sweep.cli.results import Format, results
from sweep.export.selection import winner_of
from sweep.export.write import model_config
from sweep.records.entries import require_config, require_summary
from sweep.records.folder import RunFolder
from sweep.records.reporter import Reporter
from sweep.records.results import load_results
from sweep.records.suite_results import RECORD, TABLE
from sweep.report.dashboard_notes import study_note
from sweep.report.watch import Watcher
from sweep.running.resume import resume_run
from sweep.running.retrain import RECORD as RETRAINED
from sweep.running.retrain import Retrained, read_retrained
from sweep.side_networks.spec import SideNetworkSpec
from sweep.study.finding import LoadedStudy
from sweep.study.objectives import METRICS as VAL_METRICS
from sweep.tasks.kinds import CLASSES
from sweep.terminal.lanes_view import view
from sweep.verify.record import recorded_trial

Files = dict[str, bytes]


def one_damaged(
    files: Files, objects: dict[str, dict[str, Any]], *more: st.SearchStrategy[Any]
) -> st.SearchStrategy[Any]:
    """Draw the name of a file and a damaged content for it. `objects` holds the contents of the JSON files."""

    def damage(name: str) -> st.SearchStrategy[Any]:
        contents = damaged([files[name]])
        if name in objects:
            contents = contents | wrong_entries(objects[name])
        return st.tuples(st.just(name), contents, *more)

    return st.sampled_from(sorted(files)).flatmap(damage)


def as_json(objects: dict[str, dict[str, Any]]) -> Files:
    return {name: json.dumps(value).encode() for name, value in objects.items()}


def written(folder: Path, files: Files) -> Path:
    for name, content in files.items():
        (folder / name).write_bytes(content)
    return folder


SUITE = {"suite": "VTAB-1K", "missing": {"dtd": "not in vtab"}, "means": {}, "declarations": {}}
TASK_ROWS = pd.DataFrame(
    {
        "task": ["svhn", "eurosat"],
        "group": ["natural", "specialised"],
        **dict.fromkeys(("winner_trial", "winner_parameters", "n_train", "n_test"), 3),
        **dict.fromkeys(("winner_test_top1_std", "seconds", "winner_val_top1", "winner_test_top1"), 0.5),
        **dict.fromkeys(("linear_probe_val_top1", "linear_probe_test_top1"), 0.25),
    }
)
SUITE_FILES = {**as_json({RECORD: SUITE}), TABLE: parquet(TASK_ROWS)}


def read_suite(folder: Path, damage: tuple[str, bytes, Format]) -> None:
    """Run `sweep results` on the folder of a suite."""
    name, content, format = damage
    with contextlib.redirect_stdout(io.StringIO()):
        results(written(folder, {**SUITE_FILES, name: content}), format)


OF_TEST = {"top1": 0.5, "nll": 1.0}
RETRAINED_RECORD = asdict(Retrained(OF_TEST, 0.25, OF_TEST, 80, 20, 1.5))


def read_retrained_record(folder: Path, content: bytes) -> None:
    retrained = read_retrained(RunFolder(written(folder, {RETRAINED: content, "config.json": b"{}"})))
    assert retrained is not None
    assert retrained.winner["top1"] + retrained.linear_probe["top1"] + retrained.wall_seconds is not None


ACCURACY_SIZES = AccuracySizes()
ROWS = [
    AccuracyRow("svhn", "natural", method, 16, {"lr": 0.01}, 0.5, 3, 0.5, std, 0.01, 1000, 1234, 1.5, 2**30)
    for method, std in (("last", 0.01), ("linear_probe", None))
]


def wrong_rows(report: dict[str, Any]) -> st.SearchStrategy[bytes]:
    """Draw a report in which one row has wrong types, wrong values or missing entries."""
    return wrong_entries(report["rows"][0]).map(
        lambda row: json.dumps({**report, "rows": [json.loads(row), *report["rows"][1:]]}).encode()
    )


def read_accuracy(folder: Path, content: bytes) -> None:
    """Continue and show an accuracy suite that was interrupted."""
    path = folder / "accuracy.json"
    path.write_bytes(content)
    benchmark = AccuracyBenchmark(measured_rows(path, ACCURACY_SIZES), {})
    accuracy_json(benchmark, ACCURACY_SIZES)
    show_accuracy(Console(file=io.StringIO()), benchmark, ACCURACY_SIZES)


MEASURED = {split: dict.fromkeys(VAL_METRICS, 0.5) for split in ("val", "test")}
ENDED = {**SUMMARY, **{whose: {**SUMMARY[whose], **MEASURED} for whose in ("winner", "linear_probe")}}
SPLIT = {"images": 20, "fingerprint": "f"}
CONFIG: dict[str, Any] = {
    **STUDY.on(CLASSES).declarations(),
    **{
        "command": ["sweep", "run", "small"],
        "study": "small",
        "study_file": "small.py",
        "study_sha256": None,
        "storage": None,
        "device": "cpu",
    },
    **{
        "backbone_fingerprint": "f",
        "transform": asdict(Transform(32, (0.5, 0.5, 0.5), (0.5, 0.5, 0.5))),
        "classes": ["a", "b"],
        "versions": {},
        "data_notice": "",
    },
    **{"on_bad_image": "error", "n_parallel": 2, "splits": {"train": SPLIT, "val": SPLIT, "test": SPLIT}},
    **{"budget": {"wall_seconds": None, "target": None}, "enqueued": [{"lr": 0.1}], "augment_fingerprint": None},
}


SPEC = SideNetworkSpec(8, 3, 2, 1, modules_per_block=1, pool="mean", max_rank=2)


def trials() -> pd.DataFrame:
    """Return a table of trials that has all columns."""
    table = pd.read_parquet(io.BytesIO(TRIALS))
    return table.assign(lane_config=json.dumps(asdict(LaneConfig(lr=0.01, rank=1))))


RUN_FILES = {
    **as_json({"config.json": CONFIG, "summary.json": ENDED}),
    "trials.parquet": parquet(trials()),
    "curves.parquet": CURVES,
}


def read_recorded(folder: Path, damage: tuple[str, bytes]) -> None:
    """Read what `sweep verify` trains again and `sweep export` records."""
    name, content = damage
    run = RunFolder(written(folder, {**RUN_FILES, name: content}))
    results = load_results(folder)
    winner_of(results, run)
    assert model_config(results, run, SPEC, ()).side_network is SPEC
    recorded = recorded_trial(results, run, 1)
    assert len(recorded.orders) == recorded.epochs > 0
    assert len(recorded.seeds) > 0


class ReadEnoughError(Exception):
    """Raised when everything under test has been read."""


def read_noted(folder: Path, damage: tuple[str, bytes]) -> None:
    """Write the dashboard's note about a run that has ended."""
    name, content = damage
    run = RunFolder(written(folder, {**RUN_FILES, name: content}))
    results = load_results(folder)
    require_summary(run, results.summary, results.kind, results.kind.shown)
    require_config(run, results.config)
    assert study_note(results, {"config.json": "config"})


def read_resumed(folder: Path, content: bytes) -> None:
    """Read what `sweep resume` reads before it loads images and backbone."""

    def prepared(*_: object, **__: object) -> None:
        raise ReadEnoughError

    written(folder, {"config.json": content})
    with pytest.MonkeyPatch.context() as patch, contextlib.suppress(ReadEnoughError):
        patch.setattr("sweep.running.resume.prepare", prepared)
        study = LoadedStudy("small", Path("small.py"), STUDY)
        resume_run(folder, study, storage_url=None, cache_dir=folder, reporter=Reporter())


def read_watched(folder: Path, damage: tuple[str, bytes]) -> None:
    """Run `sweep watch` once, on a run in progress."""
    name, content = damage
    written(folder, {**WATCHED, name: content})
    console = Console(file=io.StringIO())
    console.print(view(Watcher(RunFolder(folder), None).look(), console))


WATCHED = {**as_json({"config.json": CONFIG}), "optuna.journal": journal()}


def record_readers() -> dict[str, Reader]:
    accuracy = accuracy_json(AccuracyBenchmark(ROWS, {}), ACCURACY_SIZES)
    retrained, config, measured = (json.dumps(value).encode() for value in (RETRAINED_RECORD, CONFIG, accuracy))
    of_run = one_damaged(RUN_FILES, {"config.json": CONFIG, "summary.json": ENDED})
    return {
        "suites": Reader(
            one_damaged(SUITE_FILES, {RECORD: SUITE}, st.sampled_from(list(Format))),
            read_suite,
            60,
            4_000,
            [(TABLE, SUITE_FILES[TABLE], format) for format in Format],
        ),
        "retrained": Reader(
            damaged([retrained]) | wrong_entries(RETRAINED_RECORD), read_retrained_record, 100, 5_000, [retrained]
        ),
        "accuracy": Reader(damaged([measured]) | wrong_rows(accuracy), read_accuracy, 100, 5_000, [measured]),
        "recorded": Reader(of_run, read_recorded, 100, 5_000, list(RUN_FILES.items())),
        "noted": Reader(of_run, read_noted, 100, 5_000, list(RUN_FILES.items())),
        "resumed": Reader(damaged([config]) | wrong_entries(CONFIG), read_resumed, 100, 5_000, [config]),
        "watched": Reader(
            one_damaged(WATCHED, {"config.json": CONFIG}), read_watched, 100, 5_000, list(WATCHED.items())
        ),
    }
