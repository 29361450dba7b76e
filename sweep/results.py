"""The answer of a run as pandas tables."""

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pandas as pd

from sweep.run_folder import RunFolder, read_json, read_table

PARAMETER_PREFIX = "params_"
VAL_METRICS = ("val_top1", "val_mean_class_accuracy", "val_nll", "val_ece")
TRIAL_COLUMNS = {"trial": float, "state": str, "failure": str, "trainable_parameters": float} | dict.fromkeys(
    VAL_METRICS, float
)
CURVE_COLUMNS = {"trial": float, "epoch": float, "metric": str, "value": float}


@dataclass(frozen=True)
class Results:
    """What a run found.

    Attributes:
        trials: One row a trial, best first: `trial`, `state`, one `params_…` column a parameter, the metrics on val at
            the last epoch (`val_top1`, `val_mean_class_accuracy`, `val_nll`, `val_ece`), `train_loss`, `epochs`,
            `trainable_parameters`, `seconds` (the trial's share of its stack's wall time), `stack_number`, `seed`,
            `failure`.
        curves: One row a `trial`, `epoch` and `metric`, with its `value`.
        summary: The winner on test, the tuned linear probe, and where the time went; empty if the run did not end.
        config: What was run: the study's declarations, options, versions.
    """

    trials: pd.DataFrame
    curves: pd.DataFrame
    summary: dict[str, Any]
    config: dict[str, Any]


def load_results(run: str | Path) -> Results:
    """Read a run folder.

    Args:
        run: The folder that `sweep run` named at its end.

    Raises:
        UsageError: The folder is not a run's.
        SweepError: One of its files is missing or damaged.
    """
    folder = RunFolder.open(Path(run))
    return Results(
        trials=read_table(folder.trials_path, TRIAL_COLUMNS),
        curves=read_table(folder.curves_path, CURVE_COLUMNS),
        summary=read_json(folder.summary_path) if folder.summary_path.is_file() else {},
        config=read_json(folder.config_path),
    )


def parameter_columns(trials: pd.DataFrame) -> list[str]:
    """The columns that hold Optuna's parameters."""
    return [name for name in map(str, trials.columns) if name.startswith(PARAMETER_PREFIX)]


def rank_trials(trials: pd.DataFrame) -> pd.DataFrame:
    """Sort trials best first: complete ones by val top-1, ties by val NLL, then by number; then all others.

    The order is that of the last epoch. No trial is ranked by the best of its epochs.
    """
    unfinished = trials["state"] != "COMPLETE"
    keys = trials.assign(unfinished=unfinished, error=-trials["val_top1"])
    return trials.loc[keys.sort_values(["unfinished", "error", "val_nll", "trial"]).index].reset_index(drop=True)
