"""What a study over several tasks left in its folder: one row a task, and what the rows are of."""

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

import pandas as pd

from sweep.errors import SweepError
from sweep.run_folder import read_json, read_table

TABLE, RECORD = "tasks.parquet", "suite.json"
METHODS = ("winner", "linear_probe")
COLUMNS: dict[str, type] = {
    "task": str,
    "group": str,
    "winner_trial": float,
    "winner_parameters": float,
    "n_train": float,
    "n_test": float,
    "winner_test_top1_std": float,
    "seconds": float,
    **{f"{method}_{split}_top1": float for method in METHODS for split in ("val", "test")},
}


@dataclass(frozen=True)
class SuiteResults:
    """What a study found on several tasks.

    Attributes:
        tasks: One row a task, in the suite's order: `task`, `group`, `winner_trial`, `winner_parameters`; top-1 of
            winner and tuned linear probe on val, trained on train, by which they were chosen (`winner_val_top1`,
            `linear_probe_val_top1`), and on test, trained on train and val (`winner_test_top1`, its deviation over
            replicates `winner_test_top1_std`, `linear_probe_test_top1`); `n_train` (val included), `n_test`, `seconds`.
        suite: Its name.
        missing: Tasks that were not here: why, by name.
    """

    tasks: pd.DataFrame
    suite: str
    missing: Mapping[str, str]

    def group_means(self, column: str) -> pd.Series:
        """Mean of a column over the tasks of every group, in the suite's order."""
        return self.tasks.groupby("group", sort=False)[column].mean()

    def means(self, column: str) -> tuple[float, float]:
        """The mean of the groups' means, and the flat mean over tasks."""
        return float(self.group_means(column).mean()), float(self.tasks[column].mean())


def is_suite(folder: Path) -> bool:
    """Whether a folder was made by `run_suite`."""
    return (folder / RECORD).is_file()


def load_suite(folder: Path) -> SuiteResults:
    """Read what `run_suite` left.

    Raises:
        SweepError: A file is missing or damaged.
    """
    record = read_json(folder / RECORD)
    suite, missing = record.get("suite"), record.get("missing")
    if not isinstance(suite, str) or not isinstance(missing, dict):
        raise SweepError(f"{folder / RECORD} is damaged: it does not say which suite it is of; run the study again")
    table = folder / TABLE
    tasks = read_table(table, COLUMNS) if table.is_file() else pd.DataFrame(columns=list(COLUMNS))
    return SuiteResults(tasks, suite, {str(name): str(reason) for name, reason in missing.items()})
