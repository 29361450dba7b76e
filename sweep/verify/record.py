"""A trial as a run recorded it: what is needed to train it again, and its results. No recorded code is executed."""

import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pandas as pd

from sweep.errors import SweepError, UsageError
from sweep.machine.checked_files import RESTORE, require_entries
from sweep.machine.seeds import derive_seed
from sweep.records.folder import RunFolder
from sweep.records.results import Results
from sweep.study.folds import fold_of, lanes_per_trial, recorded_folds
from sweep.study.lane_config import LaneConfig

CONFIG_ENTRIES = {
    **dict.fromkeys(("seed", "seeds", "epochs", "batch_size", "group_size", "modules_per_block"), int),
    "max_rank": int | None,
    **dict.fromkeys(("data", "backbone", "backbone_fingerprint", "precision", "device"), str),
    **{f"splits.{split}.fingerprint": str for split in ("train", "val")},
    **{"pool": str | None, "transform": dict, "classes": list, "versions": dict},
}
NUMBERS = ("seed", "epochs", "first_order")


@dataclass(frozen=True)
class RecordedTrial:
    """One trial of a run.

    Attributes:
        number: Optuna's number of the trial.
        config: Its hyperparameters.
        seeds: The seed of each replicate, for its initial weights and its dropout.
        folds: The fold of each replicate; None without cross-validation.
        epochs: The number of epochs after which it was measured.
        first_order: The data order of its first epoch; later epochs followed the next orders.
        metrics: The metrics after its last epoch, as means over replicates, by column of the table of trials.
        curves: The rows of the trial in the table of curves.
    """

    number: int
    config: LaneConfig
    seeds: list[int]
    folds: list[int | None]
    epochs: int
    first_order: int
    metrics: dict[str, float]
    curves: pd.DataFrame

    @property
    def orders(self) -> range:
        """The data orders that the trial followed."""
        return range(self.first_order, self.first_order + self.epochs)


def recorded_trial(results: Results, folder: RunFolder, number: int) -> RecordedTrial:
    """Find a trial in a run's tables.

    Raises:
        UsageError: The run has no such trial, or it did not train for an epoch.
        SweepError: The tables are damaged, or were written by a version that did not record lane configurations.
    """
    require_entries(folder.config_path, results.config, CONFIG_ENTRIES)
    rows: list[dict[Any, Any]] = results.trials[results.trials["trial"] == number].to_dict("records")
    if not rows:
        raise UsageError(f"{folder.path} has no trial {number}; sweep results {folder.path} lists those it has")
    row = rows[0]
    values = {name: _whole(row, name, folder.trials_path) for name in NUMBERS}
    n_epochs, n_seeds, study_seed = (results.config[name] for name in ("epochs", "seeds", "seed"))
    folds = recorded_folds(results.config)
    n_replicates = lanes_per_trial(n_seeds, *folds)
    if values["epochs"] == 0:
        raise UsageError(f"trial {number} ended before its first epoch, so there is nothing to compare")
    if values["epochs"] > n_epochs or values["first_order"] < 1:
        raise SweepError(
            f"{folder.trials_path} is damaged: trial {number} trained for {values['epochs']} epochs{RESTORE}"
        )
    curves = results.curves[results.curves["trial"] == number]
    expected = {"replicate": range(n_replicates), "epoch": range(1, values["epochs"] + 1)}
    if any(set(curves[name]) != set(those) for name, those in expected.items()):
        raise SweepError(f"{folder.curves_path} is damaged: the curve of trial {number} has gaps{RESTORE}")
    measured = set(curves["metric"])
    return RecordedTrial(
        number,
        _lane_config(row, number, folder.trials_path, results.config["max_rank"]),
        [values["seed"], *(derive_seed(study_seed, "initialisation", number, i) for i in range(1, n_replicates))],
        [fold_of(i, *folds) for i in range(n_replicates)],
        values["epochs"],
        values["first_order"],
        {str(name): value for name, value in row.items() if name in measured},
        curves,
    )


def _whole(row: dict[Any, Any], name: str, path: Path) -> int:
    value = row.get(name)
    if not isinstance(value, int) or value < 0:
        raise SweepError(f"{path} is damaged: its column {name} holds {str(value)[:40]!r}{RESTORE}")
    return value


def _lane_config(row: dict[Any, Any], number: int, path: Path, max_rank: int | None) -> LaneConfig:
    if "lane_config" not in row:
        raise SweepError(
            f"{path} has no column lane_config: it was written by an older version of sweep; run the study again"
        )
    try:
        config = LaneConfig(**json.loads(row["lane_config"]))
        if max_rank is not None and config.rank > max_rank:
            raise ValueError(f"rank {config.rank} is above the study's max_rank {max_rank}")
    except (TypeError, ValueError, RecursionError, UsageError) as error:
        raise SweepError(f"{path} is damaged: the lane_config of trial {number}: {error}{RESTORE}") from error
    return config
