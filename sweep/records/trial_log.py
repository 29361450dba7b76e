"""The record of every trial: full learning curves and final numbers. The tables are written from it."""

import json
import math
import statistics
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import pandas as pd

from sweep.records.columns import text_of, uniform_columns
from sweep.records.curves import Curves
from sweep.records.paired import Difference
from sweep.records.results import ATTRIBUTE_PREFIX, PARAMETER_PREFIX, rank_trials
from sweep.study.objectives import Objectives
from sweep.study.stored_values import RESERVED
from sweep.tasks.kinds import CLASSES, TaskKind


@dataclass
class TrialRecord:
    """The record of one trial.

    Attributes:
        trial: Optuna's number of the trial.
        params: Optuna's parameters.
        user_attrs: The attributes that the study's `suggest` has set.
        feasible: Whether the trial meets the constraints that `suggest` has set.
        lane_config: All fields of the `LaneConfig` that `suggest` returned.
        seeds: The seed of each replicate, for its initial weights and its dropout.
        trainable_parameters: The number of trained parameters, without padding.
        inference_seconds: Seconds of the side-network for one image; NaN if the study does not ask for it.
        lane: The lane of its first replicate.
        first_order: The data order of its first epoch; later epochs follow the next orders.
        state: `RUNNING`, `COMPLETE`, `PRUNED` or `FAIL`.
        failure: Why it failed; empty if it did not.
        stopped: Why it was pruned; empty if it was not.
        epochs: The number of epochs after which it was measured.
        metrics: The metrics after the last of these epochs, as means over replicates: `train_loss`, one `val_…` for
            each metric, and if ranks are learned `effective_rank`.
        score_std: Standard deviation of the task's score over replicates; NaN for a single replicate.
        vs_baseline: Paired difference to the baseline after as many epochs, in top-1 for classes.
        seconds: The trial's share of the wall time of its stacks.
        shape: The shape of its lane in words, as far as it differs within the study; empty if there is only one shape.
    """

    trial: int
    params: dict[str, Any]
    seeds: list[int]
    trainable_parameters: int
    user_attrs: dict[str, Any] = field(default_factory=dict)
    feasible: bool = True
    lane_config: dict[str, Any] = field(default_factory=dict)
    inference_seconds: float = math.nan
    lane: int = 0
    first_order: int = 1
    state: str = "RUNNING"
    failure: str = ""
    stopped: str = ""
    epochs: int = 0
    metrics: dict[str, float] = field(default_factory=dict)
    score_std: float = math.nan
    vs_baseline: Difference | None = None
    seconds: float = 0.0
    shape: str = ""

    def measured(self) -> dict[str, float]:
        """Return every value that an objective can name."""
        return {
            **self.metrics,
            "trainable_parameters": self.trainable_parameters,
            "inference_seconds": self.inference_seconds,
        }


class TrialLog:
    """The records of a run.

    Args:
        objectives: The objectives that rank the trials.
        kind: The kind of task.

    Attributes:
        records: One a trial, in the order in which they entered.
        curves: The learning curves.
        attributes_as_text: Columns of user attributes whose values are of several types, and are text in the table.
    """

    def __init__(self, objectives: Objectives, kind: TaskKind = CLASSES) -> None:
        self.objectives, self.kind = objectives, kind
        self.records: list[TrialRecord] = []
        self.curves = Curves()
        self.attributes_as_text: set[str] = set()

    def measured(
        self, record: TrialRecord, epoch: int, replicates: Sequence[Mapping[str, float]], seconds: float
    ) -> None:
        """Add an epoch to a trial: its metrics, one mapping for each replicate, and its share of the wall time."""
        record.epochs = epoch
        record.metrics = {name: statistics.fmean([m[name] for m in replicates]) for name in replicates[0]}
        if len(replicates) > 1:
            scores = [m[f"val_{self.kind.score}"] for m in replicates]
            record.score_std = float(np.std(scores, ddof=1))  # NaN if a score is NaN
        record.seconds += seconds
        for replicate, metrics in enumerate(replicates):
            self.curves.add(record.trial, replicate, epoch, metrics)

    def restart(self, record: TrialRecord) -> None:
        """Forget the measurements of a trial that trains again from its first step."""
        record.epochs, record.metrics, record.seconds = 0, {}, 0.0
        record.score_std, record.vs_baseline = math.nan, None
        self.curves.forget(record.trial)

    def trials_table(self) -> pd.DataFrame:
        """Return one row per trial, best first, with the columns of `sweep.Results`."""
        own_metrics = dict.fromkeys(name for record in self.records for name in record.metrics)
        metrics = [f"val_{name}" for name in self.kind.metrics]
        metrics += [name for name in own_metrics if name.startswith("val_")]
        rows = [_row(record, list(dict.fromkeys(metrics)), self.kind) for record in self.records]
        names = list(dict.fromkeys(name for row in rows for name in row))
        own = [name for prefix in (PARAMETER_PREFIX, ATTRIBUTE_PREFIX) for name in names if name.startswith(prefix)]
        columns, made_text = uniform_columns(rows, own)
        self.attributes_as_text |= {name for name in made_text if name.startswith(ATTRIBUTE_PREFIX)}
        table = pd.DataFrame([{name: value for name, value in row.items() if name not in columns} for row in rows])
        if all(not record.shape for record in self.records):
            table = table.drop(columns="shape")
        if all("effective_rank" not in record.metrics for record in self.records):
            table = table.drop(columns="effective_rank")
        others = list(table)
        return rank_trials(table.assign(**columns)[[*others[:2], *own, *others[2:]]], self.objectives)

    def curves_table(self) -> pd.DataFrame:
        """Return one row per trial, replicate, epoch and metric."""
        return self.curves.table()


def _row(record: TrialRecord, metrics: Sequence[str], kind: TaskKind) -> dict[str, Any]:
    difference = record.vs_baseline or Difference(math.nan, math.nan, math.nan)
    ends = (difference.mean, difference.low, difference.high)
    return {
        "trial": record.trial,
        "state": record.state,
        **{PARAMETER_PREFIX + text_of(name): value for name, value in record.params.items()},
        **{_attribute_column(name): value for name, value in record.user_attrs.items()},
        **{name: record.metrics.get(name, math.nan) for name in metrics},
        kind.std_column: record.score_std,
        **dict(zip(kind.paired_columns, ends, strict=True)),
        "train_loss": record.metrics.get("train_loss", math.nan),
        "effective_rank": record.metrics.get("effective_rank", math.nan),
        "epochs": record.epochs,
        "trainable_parameters": record.trainable_parameters,
        "inference_seconds": record.inference_seconds,
        "seconds": record.seconds,
        "lane": record.lane,
        "first_order": record.first_order,
        "seeds": len(record.seeds),
        "seed": record.seeds[0],
        "feasible": record.feasible,
        "params": json.dumps(record.params),
        "lane_config": json.dumps(record.lane_config),
        "shape": record.shape,
        "stopped": record.stopped,
        "failure": record.failure,
    }


def _attribute_column(name: str) -> str:
    """The column of an attribute: sweep's own stand under their own names, such as `clone_of`."""
    return name.removeprefix(RESERVED) if name.startswith(RESERVED) else ATTRIBUTE_PREFIX + text_of(name)
