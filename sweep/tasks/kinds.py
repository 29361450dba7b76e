"""What a task asks of an image: its class, which labels it has, or numbers. All of it that can be said without PyTorch.

Losses, metrics and the order of trials follow from the kind; `sweep.tasks.targets` has what is computed.
"""

import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

from sweep.errors import SweepError


@dataclass(frozen=True, eq=False)
class TaskKind:
    """A kind of task; there is one object of each.

    Attributes:
        name: As `--task` takes it.
        outputs: What the outputs of a side-network stand for, in the plural.
        losses: Kinds of loss that fit, the default first.
        metrics: What every lane is measured by on val: heading by name.
        shown: Those of them that a terminal's table shows; the first, more is better, ranks trials unless a study says
            otherwise.
        tie: The metric that breaks ties, less is better.
        tie_heading: The same in words.
        paired: What an image's answer is worth, the mean of which is compared with the baseline's.
        paired_heading: The same in words.
    """

    name: str
    outputs: str
    losses: tuple[str, ...]
    metrics: Mapping[str, str]
    shown: tuple[str, ...]
    tie: str
    tie_heading: str
    paired: str
    paired_heading: str

    def __reduce__(self) -> "tuple[Callable[[str], TaskKind], tuple[str]]":
        """Pickle by name, because code asks which kind it has by identity, in other processes too."""
        return _kind_named, (self.name,)

    @property
    def score(self) -> str:
        """The metric that ranks trials unless a study says otherwise."""
        return self.shown[0]

    @property
    def std_column(self) -> str:
        """Of the trials table: the deviation of the score over replicates."""
        return f"val_{self.score}_std"

    @property
    def paired_columns(self) -> tuple[str, str, str]:
        """Of the trials table: the difference to the baseline, and the ends of its interval."""
        return (f"{self.paired}_vs_baseline", f"{self.paired}_vs_baseline_low", f"{self.paired}_vs_baseline_high")

    def standard_error(self, metrics: Mapping[str, float], n_images: int) -> float:
        """Of the score over images: binomial for classes, else as it was bootstrapped; NaN where it was not.

        Args:
            metrics: As measured; `…_error` beside the score where it was bootstrapped.
            n_images: Measured on so many.
        """
        if self is not CLASSES:
            return metrics.get(f"{self.score}_error", math.nan)
        top1 = metrics[self.score]
        return math.sqrt(top1 * (1 - top1) / n_images) if 0 <= top1 <= 1 and n_images > 0 else math.nan

    def with_error(self, metrics: Mapping[str, float], n_images: int) -> str:
        """The score and its standard error, where it has one, for the user."""
        error = self.standard_error(metrics, n_images)
        return f"{metrics[self.score]:.3f}" + ("" if math.isnan(error) else f" ± {error:.3f}")


CLASSES = TaskKind(
    name="classes",
    outputs="classes",
    losses=("cross_entropy", "focal", "logit_adjusted", "bce"),
    metrics={
        "top1": "top-1",
        "mean_class_accuracy": "class acc.",
        "worst_class_accuracy": "worst class acc.",
        "nll": "NLL",
        "ece": "ECE",
    },
    shown=("top1", "mean_class_accuracy", "nll", "ece"),
    tie="nll",
    tie_heading="negative log-likelihood",
    paired="top1",
    paired_heading="top-1",
)
MULTI_LABEL = TaskKind(
    name="multi-label",
    outputs="labels",
    losses=("bce", "asymmetric"),
    metrics={
        "map": "mAP",
        "micro_f1": "micro F1",
        "macro_f1": "macro F1",
        "label_accuracy": "label acc.",
        "bce": "BCE",
    },
    shown=("map", "micro_f1", "macro_f1", "bce"),
    tie="bce",
    tie_heading="binary cross-entropy",
    paired="label_accuracy",
    paired_heading="the share of labels answered rightly",
)
REGRESSION = TaskKind(
    name="regression",
    outputs="targets",
    losses=("mse", "huber"),
    metrics={"r2": "R²", "rmse": "RMSE", "mae": "MAE"},
    shown=("r2", "rmse", "mae"),
    tie="rmse",
    tie_heading="root mean squared error",
    paired="squared_error",
    paired_heading="the squared error, in variances of train, less is better,",
)
LARGEST_TARGET = 1e30
"""Of a regression, in absolute value: single precision, in which models answer, ends at 3e38."""

TASK_KINDS = {kind.name: kind for kind in (CLASSES, MULTI_LABEL, REGRESSION)}


def _kind_named(name: str) -> TaskKind:
    return TASK_KINDS[name]


def recorded_kind(config: Mapping[str, Any]) -> TaskKind:
    """The kind of task of a run's record; records from before there were several are of classes.

    Raises:
        SweepError: The record names another.
    """
    name = config.get("task", CLASSES.name)
    if not isinstance(name, str) or name not in TASK_KINDS:
        raise SweepError(f"the run's config.json is damaged: its task is {str(name)[:40]!r}; run the study again")
    return TASK_KINDS[name]
