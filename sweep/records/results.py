"""The results of a run as pandas tables."""

import json
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from sweep.errors import SweepError
from sweep.machine.checked_files import RESTORE, read_json, read_table
from sweep.records.folder import RunFolder
from sweep.study.objectives import Costs, Direction, Objectives, non_dominated_fronts
from sweep.study.parameter_cells import cell_of
from sweep.tasks.kinds import TaskKind, recorded_kind

PARAMETER_PREFIX = "params_"
ATTRIBUTE_PREFIX = "user_attrs_"
PARAMS = "params"
"""The column with the parameters of a trial as JSON."""

CURVE_COLUMNS = {"trial": float, "replicate": float, "epoch": float, "metric": str, "value": float}


@dataclass(frozen=True)
class Results:
    """The results of a run.

    Attributes:
        trials: One row per trial, best first, with these columns.
            `trial`, `state`; a column `params_…` for each parameter and `user_attrs_…` for each user attribute.
            The validation metrics after the last epoch, as means over replicates: `val_top1`,
            `val_mean_class_accuracy`, `val_worst_class_accuracy`, `val_nll`, `val_ece` and the study's own; and the
            standard deviation over replicates, `val_top1_std`.
            The paired difference in top-1 to the baseline with its 95% interval: `top1_vs_baseline`, `…_low`,
            `…_high`. (Tasks of other kinds have the metrics that `sweep.tasks.kinds` names.)
            `train_loss`, `epochs`, `trainable_parameters`, `inference_seconds`, `seconds` (the trial's share of the
            wall time of its stacks), `lane`, `first_order` (its first data order), `seeds` (the number of replicates),
            `seed` (of the first replicate), `feasible`, `params` (the parameters exactly, as JSON), `lane_config` (what
            `suggest` returned, as JSON), `stopped`, `failure`. If ranks are learned, also `effective_rank`, the number
            of ranks that are left, as the mean over the modules. If lanes have several shapes, also `shape`, the shape
            of the trial's lane in words. With several objectives also `front`, which is 0 for the Pareto front.
        curves: One row per `trial`, `replicate`, `epoch` and `metric`, with its `value`.
        summary: The winner and the tuned linear probe on test data, and where the time went; empty if the run has not
            ended.
        config: What was run: the study's declarations, the options and the versions.
    """

    trials: pd.DataFrame
    curves: pd.DataFrame
    summary: dict[str, Any]
    config: dict[str, Any]

    @property
    def objectives(self) -> dict[str, Direction]:
        """The study's objectives in order: names of columns of `trials`, each with the direction that is better."""
        objectives: dict[str, Direction] = self.config["objectives"]
        return objectives

    @property
    def kind(self) -> TaskKind:
        """The kind of task."""
        return recorded_kind(self.config)


def load_results(run: str | Path) -> Results:
    """Read a run folder.

    Args:
        run: The folder that `sweep run` named at its end.

    Raises:
        UsageError: It is not a run folder.
        SweepError: One of its files is missing or damaged.
    """
    folder = RunFolder.open(Path(run))
    config = read_json(folder.config_path)
    objectives = recorded_objectives(folder, config)
    columns = trial_columns(recorded_kind(config)) | dict.fromkeys(objectives, float)
    if len(objectives) > 1:
        columns["front"] = float
    return Results(
        trials=read_table(folder.trials_path, columns),
        curves=read_table(folder.curves_path, CURVE_COLUMNS),
        summary=read_json(folder.summary_path) if folder.summary_path.is_file() else {},
        config=config,
    )


def recorded_objectives(folder: RunFolder, config: Mapping[str, Any]) -> dict[str, Direction]:
    """Return the objectives of a run, each with the direction that is better.

    Args:
        folder: The run's folder, for messages.
        config: The run's recorded configuration.

    Raises:
        SweepError: The record has no valid objectives.
    """
    objectives = config.get("objectives")
    if (
        not isinstance(objectives, dict)
        or not objectives
        or not all(direction in ("maximize", "minimize") for direction in objectives.values())
    ):
        raise SweepError(f"{folder.config_path} is damaged: its objectives are {str(objectives)[:40]}{RESTORE}")
    return objectives


def trial_columns(kind: TaskKind) -> dict[str, type]:
    """Return the columns that the table of trials must have for a kind of task, with their types."""
    metrics = (f"val_{name}" for name in kind.metrics)
    numbers = ("trial", "trainable_parameters", kind.std_column, *kind.paired_columns, *metrics)
    return {**dict.fromkeys(numbers, float), **dict.fromkeys(("state", "failure", "stopped"), str)}


def parameter_columns(trials: pd.DataFrame) -> list[str]:
    """Return the columns with Optuna's parameters."""
    return [name for name in map(str, trials.columns) if name.startswith(PARAMETER_PREFIX)]


def table_for_csv(trials: pd.DataFrame) -> pd.DataFrame:
    """The trials with every parameter as the cell that `--enqueue` reads back as the same value; a gap stays empty."""
    if PARAMS not in trials:  # of version 0.3.0
        return trials
    table = trials.drop(columns=PARAMS)
    params = [json.loads(text) for text in trials[PARAMS]]
    for column in parameter_columns(trials):
        name = column.removeprefix(PARAMETER_PREFIX)
        cells = [cell_of(values[name]) if name in values else None for values in params]
        table[column] = pd.Series(cells, index=table.index, dtype=object)
    return table


def rank_trials(trials: pd.DataFrame, objectives: Objectives) -> pd.DataFrame:
    """Sort trials best first, by their values after the last epoch, never by their best epoch.

    Complete trials come first (feasible before infeasible), then pruned trials (the longest trained first), then all
    others. Within each of these, trials are sorted by Pareto front (column `front`, if there are several objectives),
    then by the objectives in order, then by the objectives' `tie`, then by number.
    """
    keys = pd.DataFrame(
        {
            "state": trials["state"].map({"COMPLETE": 0, "PRUNED": 1}).fillna(2),
            "infeasible": ~trials["feasible"],
            "epochs": -trials["epochs"],
        }
    )
    if len(objectives.names) > 1:
        trials = trials.assign(front=_fronts(trials, objectives))
        keys["front"] = trials["front"]
    costs = pd.DataFrame(_costs(trials, objectives), index=keys.index)
    keys = pd.concat([keys, costs, trials[[objectives.tie, "trial"]]], axis=1)
    return trials.loc[keys.sort_values(list(keys.columns)).index].reset_index(drop=True)


def _fronts(trials: pd.DataFrame, objectives: Objectives) -> pd.Series:
    """Return the front of every complete, feasible trial; NaN for all others."""
    fronts = pd.Series(np.nan, index=trials.index)
    ranked = trials[(trials["state"] == "COMPLETE") & trials["feasible"]]
    if len(ranked):
        fronts[ranked.index] = non_dominated_fronts(_costs(ranked, objectives))
    return fronts


def _costs(trials: pd.DataFrame, objectives: Objectives) -> Costs:
    rows = zip(*(trials[name] for name in objectives.names), strict=True)
    return np.array([objectives.costs(dict(zip(objectives.names, row, strict=True))) for row in rows], dtype=np.float64)
