"""Our own record of every trial: full curves and final numbers, from which the tables are written."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

import pandas as pd

from sweep.metrics import METRICS
from sweep.results import PARAMETER_PREFIX, parameter_columns, rank_trials


@dataclass
class TrialRecord:
    """One trial.

    Attributes:
        trial: Optuna's number.
        params: Optuna's parameters.
        seed: Of the lane's initialisation.
        stack: Number of the stack it was trained in, from 0.
        trainable_parameters: Of the module at its own rank, padding not counted.
        state: `RUNNING`, `COMPLETE` or `FAIL`.
        failure: Why it failed; empty if it did not.
        epochs: Epochs it was measured after.
        metrics: Of the last of these epochs: `train_loss` and one `val_…` a metric.
        seconds: Its share of its stack's wall time.
    """

    trial: int
    params: dict[str, Any]
    seed: int
    stack: int
    trainable_parameters: int
    state: str = "RUNNING"
    failure: str = ""
    epochs: int = 0
    metrics: dict[str, float] = field(default_factory=dict)
    seconds: float = 0.0

    def order(self) -> tuple[float, float, int]:
        """Sorts complete trials best first: val top-1, then val NLL, then number."""
        return -self.metrics["val_top1"], self.metrics["val_nll"], self.trial


class TrialLog:
    """The records of a run."""

    def __init__(self) -> None:
        self.records: list[TrialRecord] = []
        self._curves: list[tuple[int, int, str, float]] = []

    def measured(self, record: TrialRecord, epoch: int, metrics: Mapping[str, float], seconds: float) -> None:
        """Add an epoch's measurements, by metric, and its share of wall time to a trial."""
        record.epochs = epoch
        record.metrics = dict(metrics)
        record.seconds += seconds
        self._curves.extend((record.trial, epoch, name, value) for name, value in metrics.items())

    def restart(self, record: TrialRecord) -> None:
        """Forget what was measured of a trial that trains again from its first step."""
        record.epochs, record.metrics, record.seconds = 0, {}, 0.0
        self._curves = [row for row in self._curves if row[0] != record.trial]

    def trials_table(self) -> pd.DataFrame:
        """One row a trial, best first; columns as in `sweep.Results`."""
        rows = [
            {
                "trial": record.trial,
                "state": record.state,
                **{PARAMETER_PREFIX + name: value for name, value in record.params.items()},
                **{f"val_{name}": record.metrics.get(f"val_{name}", float("nan")) for name in METRICS},
                "train_loss": record.metrics.get("train_loss", float("nan")),
                "epochs": record.epochs,
                "trainable_parameters": record.trainable_parameters,
                "seconds": record.seconds,
                "stack_number": record.stack,
                "seed": record.seed,
                "failure": record.failure,
            }
            for record in self.records
        ]
        table = pd.DataFrame(rows)
        parameters = parameter_columns(table)
        for name in parameters:
            if table[name].dropna().map(type).nunique() > 1:  # a categorical such as [1, "auto"]
                table[name] = table[name].map(str, na_action="ignore")
        others = [name for name in table if name not in parameters]
        return rank_trials(table[[*others[:2], *parameters, *others[2:]]])

    def curves_table(self) -> pd.DataFrame:
        """One row a trial, epoch and metric."""
        return pd.DataFrame(self._curves, columns=["trial", "epoch", "metric", "value"])
