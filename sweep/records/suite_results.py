"""The results of a study over several tasks: one row per task, read from the suite's folder."""

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

import pandas as pd

from sweep.errors import SweepError
from sweep.machine.checked_files import read_json, read_table, require_columns
from sweep.records.entries import METHODS
from sweep.tasks.kinds import CLASSES, TASK_KINDS, TaskKind

TABLE, RECORD = "tasks.parquet", "suite.json"
COLUMNS: dict[str, type] = {
    "task": str,
    "group": str,
    "kind": str,
    "winner_trial": float,
    "winner_parameters": float,
    "n_train": float,
    "n_test": float,
    "seconds": float,
}


def score_columns(kind: TaskKind) -> tuple[str, ...]:
    """Return the columns for tasks of a kind, named after its score. They are empty in the rows of other tasks."""
    of_methods = (f"{method}_{split}_{kind.score}" for method in METHODS for split in ("val", "test"))
    return (*of_methods, f"winner_test_{kind.score}_std")


@dataclass(frozen=True)
class SuiteResults:
    """The results of a study on several tasks.

    Attributes:
        tasks: One row per task, in the suite's order, with these columns.
            `task`, `group`, `kind` (of task), `winner_trial`, `winner_parameters`.
            Top-1 of the winner and the tuned linear probe on the validation data, after training on the training data,
            by which they were chosen: `winner_val_top1`, `linear_probe_val_top1`.
            Top-1 on the test data, after training on training and validation data: `winner_test_top1`, its standard
            deviation over replicates `winner_test_top1_std`, and `linear_probe_test_top1`.
            `n_train` (including the validation data), `n_test`, `seconds`.
            Tasks with several labels have columns `…_map` instead, and regressions `…_r2`: no column mixes metrics.
        suite: Name of the suite.
        missing: Tasks that could not be found, each with the reason.
    """

    tasks: pd.DataFrame
    suite: str
    missing: Mapping[str, str]

    @property
    def kinds(self) -> tuple[TaskKind, ...]:
        """The kinds of the tasks that have ended."""
        return tuple(kind for kind in TASK_KINDS.values() if (self.tasks["kind"] == kind.name).any())

    def of_kind(self, kind: TaskKind) -> pd.DataFrame:
        """The rows of tasks of a kind."""
        return self.tasks[self.tasks["kind"] == kind.name]

    def group_means(self, column: str) -> pd.Series:
        """Return the mean of a column over each group's tasks, in the suite's order, without groups that lack it."""
        return self.tasks.groupby("group", sort=False)[column].mean().dropna()

    def means(self, column: str) -> tuple[float, float]:
        """Return the mean of the groups' means, and the mean over tasks, among those that have the column."""
        return float(self.group_means(column).mean()), float(self.tasks[column].mean())


def is_suite(folder: Path) -> bool:
    """Whether `run_suite` wrote this folder."""
    return (folder / RECORD).is_file()


def load_suite(folder: Path) -> SuiteResults:
    """Read the results that `run_suite` wrote.

    Raises:
        SweepError: A file is missing or damaged.
    """
    record = read_json(folder / RECORD)
    suite, missing = record.get("suite"), record.get("missing")
    if not isinstance(suite, str) or not isinstance(missing, dict):
        raise SweepError(f"{folder / RECORD} is damaged: it does not say which suite it is of; run the study again")
    table = folder / TABLE
    tasks = pd.DataFrame(columns=list(COLUMNS))
    if table.is_file():
        tasks = read_table(table, {name: of for name, of in COLUMNS.items() if name != "kind"})
        tasks = tasks if "kind" in tasks else tasks.assign(kind=CLASSES.name)  # written before there were other kinds
        kinds = [TASK_KINDS.get(str(name)) for name in tasks["kind"].unique()]
        if None in kinds:
            raise SweepError(f"{table} is damaged: it names an unknown kind of task; run the study again")
        require_columns(
            table, tasks, {name: float for kind in kinds if kind is not None for name in score_columns(kind)}
        )
    return SuiteResults(tasks, suite, {str(name): str(reason) for name, reason in missing.items()})
