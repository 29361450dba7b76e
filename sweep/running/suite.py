"""Runs a study on several tasks. On each task the winner is trained again on train and val, and tested once.

Each task has an ordinary run folder below the suite's folder. The suite has two files of its own: a table with one row
per task, and a record of the study and the suite.
"""

import json
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from types import UnionType
from typing import Any, Protocol

import pandas as pd

from sweep.data.suites import PACKAGED_SUITES, Suite, Task, warn_of_path_of_same_name
from sweep.errors import UsageError
from sweep.machine.checked_files import read_json, require_entries
from sweep.machine.device import device_named
from sweep.machine.settings import own_settings
from sweep.records.entries import METHODS, NUMBER
from sweep.records.folder import RunFolder
from sweep.records.reporter import Reporter
from sweep.records.suite_results import COLUMNS, RECORD, TABLE, SuiteResults, is_suite
from sweep.running.preparation import Prepared, prepare
from sweep.running.resume import as_recorded, resume_run
from sweep.running.retrain import Retrained, read_retrained, retrain
from sweep.study.finding import LoadedStudy
from sweep.study.going_on import ASKED_AS_NOW
from sweep.tasks.kinds import TaskKind, recorded_kind

IN_A_ROW: dict[str, type | UnionType] = {
    "winner.trial": int,
    "winner.trainable_parameters": int,
    "wall_seconds.total": NUMBER,
}
"""Entries of a run's summary that a row of the table contains, beside scores."""


class SearchTask(Protocol):
    """`sweep.running.runner.run_study` with all arguments bound except the study and the run folder."""

    def __call__(self, loaded: LoadedStudy, *, out: Path) -> RunFolder:
        """Run a study and return its run folder."""


@own_settings()
def run_suite(
    loaded: LoadedStudy,
    unfixed: LoadedStudy,
    suite: Suite,
    search: SearchTask,
    *,
    out: Path,
    cache_dir: Path,
    reporter: Reporter,
) -> SuiteResults:
    """Run a study on every task of a suite.

    If the folder holds the same study and suite from an earlier, stopped process, the suite is continued. Tasks that
    have ended are kept.

    Args:
        loaded: The study. Its data are those of the suite.
        unfixed: The same study with what options replace, before anything was fixed. A task that an earlier version
            began may not have fixed the same, or not in the same way.
        suite: The tasks.
        search: Runs the study on one task.
        out: Folder to make; task `NAME` becomes the run folder `out/NAME`.
        cache_dir: Root of sweep's cache; the same as that of `search`.
        reporter: Receives progress events.

    Raises:
        UsageError: The request cannot be carried out as given.
        SweepError: A task failed. The tasks before it are finished and in the table.
        KeyboardInterrupt: The user stopped the suite. The tasks before are finished and in the table.
    """
    if not loaded.study.test:
        raise UsageError("--no-test is for a single data set; the table of a suite shows test results. Leave it out")
    results = SuiteResults(pd.DataFrame(columns=list(COLUMNS)), suite.name, suite.missing)
    if is_suite(out):
        _require_same(out, loaded, suite)
    else:
        RunFolder.check_free(out)
        RunFolder.create(out)
    if loaded.study.data in PACKAGED_SUITES:
        warn_of_path_of_same_name(suite.name, "suite")
    for name, reason in suite.missing.items():
        reporter.message(f"left out: {name}, {reason}")
    _write(results, loaded, out)
    rows: list[dict[str, Any]] = []
    for number, task in enumerate(suite.tasks, start=1):
        reporter.message(f"task {number} of {len(suite.tasks)}: {task.name} ({task.group})")
        study = LoadedStudy(loaded.name, loaded.path, replace(loaded.study, data=task.data))
        folder = RunFolder(out / task.name)
        if folder.config_path.is_file():
            resume_run(folder.path, unfixed, storage_url=None, cache_dir=cache_dir, reporter=reporter)
        else:
            search(study, out=folder.path)
        retrained = read_retrained(folder)
        if retrained is None:
            reporter.message("training the winner and the probe again, on train and val")
            retrained = retrain(folder, _prepared(unfixed, folder, cache_dir), cache_dir)
        kind = recorded_kind(read_json(folder.config_path))
        summary = read_json(folder.summary_path)
        scores = dict.fromkeys((f"{method}.val.{kind.score}" for method in METHODS), NUMBER)
        require_entries(folder.summary_path, summary, IN_A_ROW | scores)
        rows.append(_row(task, kind, summary, retrained))
        results = SuiteResults(pd.DataFrame(rows), suite.name, suite.missing)
        _write(results, loaded, out)
    return results


def _prepared(unfixed: LoadedStudy, folder: RunFolder, cache_dir: Path) -> Prepared:
    """The data and the backbone of a finished run, on the device that it ran on."""
    loaded, config = as_recorded(folder, unfixed, reporter=Reporter())
    return prepare(
        loaded.study,
        n_parallel=None,
        device=device_named(config["device"]),
        cache_dir=cache_dir,
        on_bad_image=config["on_bad_image"],
    )


def _require_same(out: Path, loaded: LoadedStudy, suite: Suite) -> None:
    """Raise an error if a folder holds another study, other options or another suite."""
    begun = read_json(out / RECORD)
    declared, declared_then = _declarations(loaded), begun.get("declarations")
    if isinstance(declared_then, dict):
        unknown = {*ASKED_AS_NOW, "fixed"} - declared_then.keys()  # to version 0.11.2, 0.11.1 or 0.10 and earlier
        if unknown and loaded.study.fixed:
            unknown.add("baseline")  # they changed it in another way; the record of each task has its own
        declared, declared_then = (
            {name: value for name, value in of.items() if name not in unknown} for of in (declared, declared_then)
        )
    if begun.get("suite") != suite.name or declared_then != declared:
        raise UsageError(
            f"{out} holds another study, other options or other tasks; give the same command as before to continue "
            f"it, or choose another folder with --out"
        )


def _declarations(loaded: LoadedStudy) -> Any:
    return json.loads(json.dumps({"study": loaded.name, **loaded.study.declarations(), **ASKED_AS_NOW}))


def _row(task: Task, kind: TaskKind, summary: Mapping[str, Any], retrained: Retrained) -> dict[str, Any]:
    score = kind.score
    return {
        "task": task.name,
        "group": task.group,
        "kind": kind.name,
        "winner_trial": summary["winner"]["trial"],
        "winner_parameters": summary["winner"]["trainable_parameters"],
        f"winner_val_{score}": summary["winner"]["val"][score],
        f"winner_test_{score}": retrained.winner[score],
        f"winner_test_{score}_std": retrained.winner_std,
        f"linear_probe_val_{score}": summary["linear_probe"]["val"][score],
        f"linear_probe_test_{score}": retrained.linear_probe[score],
        "n_train": retrained.n_train_images,
        "n_test": retrained.n_test_images,
        "seconds": summary["wall_seconds"]["total"] + retrained.wall_seconds,
    }


def _write(results: SuiteResults, loaded: LoadedStudy, out: Path) -> None:
    folder = RunFolder(out)
    if len(results.tasks):
        folder.write_table(out / TABLE, results.tasks)
    means = {
        column: {
            "groups": results.group_means(column).to_dict(),
            **dict(zip(("group_mean", "flat_mean"), results.means(column), strict=True)),
        }
        for column in (f"{method}_test_{kind.score}" for kind in results.kinds for method in METHODS)
    }
    record = {"suite": results.suite, "missing": dict(results.missing), "means": means}
    folder.write_json(out / RECORD, {**record, "declarations": _declarations(loaded)})
