"""The learning curves of a run, held as columns: a long search has millions of rows."""

from array import array
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import numpy.typing as npt
import pandas as pd


class Curves:
    """One row per trial, replicate, epoch and metric.

    Attributes:
        metrics: Names of the metrics, in the order in which they were first measured.
    """

    def __init__(self) -> None:
        self.metrics: list[str] = []
        self._numbers: dict[str, int] = {}
        self._where = array("i")
        self._values = array("d")

    @classmethod
    def of(cls, metrics: Sequence[str], where: npt.NDArray[np.int32], values: npt.NDArray[np.float64]) -> "Curves":
        """The curves of which these are `metrics`, `where` and `values`.

        Raises:
            ValueError: They do not fit each other.
        """
        if where.shape != (len(values), 4) or not ((where[:, 3] >= 0) & (where[:, 3] < len(metrics))).all():
            raise ValueError("the learning curves do not fit their metrics")
        curves = cls()
        for metric in metrics:
            curves._number(metric)
        curves._where.frombytes(where.astype(np.int32).tobytes())
        curves._values.frombytes(values.astype(np.float64).tobytes())
        return curves

    @property
    def where(self) -> npt.NDArray[np.int32]:
        """Trial, replicate, epoch and number of the metric of every row, `(rows, 4)`."""
        return np.array(self._where, dtype=np.int32).reshape(-1, 4)

    @property
    def values(self) -> npt.NDArray[np.float64]:
        """Value of every row, `(rows,)`."""
        return np.array(self._values, dtype=np.float64)

    def add(self, trial: int, replicate: int, epoch: int, measured: Mapping[str, float]) -> None:
        """Add an epoch of a replicate."""
        for metric, value in measured.items():
            self._where.extend((trial, replicate, epoch, self._number(metric)))
            self._values.append(value)

    def forget(self, trial: int) -> None:
        """Remove all rows of a trial."""
        where, values = self.where, self.values
        kept = where[:, 0] != trial
        self._where, self._values = array("i", where[kept].tobytes()), array("d", values[kept].tobytes())

    def table(self) -> pd.DataFrame:
        """The rows as a table."""
        trials, replicates, epochs, metrics = self.where.T
        names = np.array([*self.metrics, ""], dtype=object)[metrics]
        columns: dict[str, tuple[Any, type]] = {
            "trial": (trials, int),
            "replicate": (replicates, int),
            "epoch": (epochs, int),
            "metric": (names, str),
            "value": (self.values, float),
        }
        table = pd.DataFrame({name: column for name, (column, _) in columns.items()})
        return table.astype({name: kind for name, (_, kind) in columns.items()})

    def _number(self, metric: str) -> int:
        if metric not in self._numbers:
            self._numbers[metric] = len(self.metrics)
            self.metrics.append(metric)
        return self._numbers[metric]
