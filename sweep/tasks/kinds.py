"""The kinds of task: classification, multi-label classification, regression, segmentation, and detection.

Losses, metrics and the ranking of trials follow from the kind. This module only has names, so that it does not import
PyTorch; `sweep.tasks.targets` has the computations.
"""

import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

from sweep.errors import SweepError


@dataclass(frozen=True, eq=False)
class TaskKind:
    """A kind of task. Each kind has one object.

    Attributes:
        name: The name that `--task` takes.
        outputs: What the outputs of a side-network stand for, as a plural noun.
        losses: Names of the losses that fit, the default first.
        metrics: Metrics of every lane on the validation set: their headings by name.
        shown: Metrics that a table in the terminal shows. The first one (higher is better) ranks trials, unless a study
            declares other objectives.
        tie: The metric that breaks ties; lower is better.
        tie_heading: The heading of `tie`.
        paired: The score of a single image; its mean is compared with the baseline's.
        paired_heading: The heading of `paired`.
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
        """The metric that ranks trials, unless a study declares other objectives."""
        return self.shown[0]

    @property
    def std_column(self) -> str:
        """The column of the trials table with the standard deviation of the score over replicates."""
        return f"val_{self.score}_std"

    @property
    def paired_columns(self) -> tuple[str, str, str]:
        """The columns of the trials table with the difference to the baseline and the ends of its interval."""
        return (f"{self.paired}_vs_baseline", f"{self.paired}_vs_baseline_low", f"{self.paired}_vs_baseline_high")

    def standard_error(self, metrics: Mapping[str, float], n_images: int) -> float:
        """Standard error of the score: the measured one if there is one, else binomial for classes, else NaN.

        Args:
            metrics: Metrics by name. A measured standard error, bootstrapped or over folds, has the score's name with
                `_error` appended.
            n_images: Number of images that the score was measured on.
        """
        if self is not CLASSES or f"{self.score}_error" in metrics:
            return metrics.get(f"{self.score}_error", math.nan)
        top1 = metrics[self.score]
        return math.sqrt(top1 * (1 - top1) / n_images) if 0 <= top1 <= 1 and n_images > 0 else math.nan

    def with_error(self, metrics: Mapping[str, float], n_images: int) -> str:
        """The score as text, with its standard error if there is one."""
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
    paired_heading="the share of labels answered correctly",
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
    paired_heading="the squared error, in units of the training set's variance, lower is better,",
)
SEGMENTATION = TaskKind(
    name="segmentation",
    outputs="classes",
    losses=("cross_entropy", "dice"),
    metrics={"miou": "mIoU", "worst_iou": "worst IoU", "pixel_accuracy": "pixel acc.", "nll": "NLL"},
    shown=("miou", "worst_iou", "pixel_accuracy", "nll"),
    tie="nll",
    tie_heading="negative log-likelihood",
    paired="pixel_accuracy",
    paired_heading="pixel accuracy",
)
DETECTION = TaskKind(
    name="detection",
    outputs="classes",
    losses=("focal_giou",),
    metrics={"ap": "AP", "ap50": "AP50", "ar": "AR", "missed": "missed"},
    shown=("ap", "ap50", "ar", "missed"),
    tie="missed",
    tie_heading="share of boxes that no detection finds",
    paired="image_ap50",
    paired_heading="the mean AP50 of single images",
)
LARGEST_TARGET = 1e30
"""Largest absolute value of a regression's target. Models compute in single precision, which ends at 3e38."""

TASK_KINDS = {kind.name: kind for kind in (CLASSES, MULTI_LABEL, REGRESSION, SEGMENTATION, DETECTION)}


def _kind_named(name: str) -> TaskKind:
    return TASK_KINDS[name]


def recorded_kind(config: Mapping[str, Any]) -> TaskKind:
    """The kind of task in a run's record. Records without one are of classes.

    Raises:
        SweepError: The record names an unknown kind.
    """
    name = config.get("task", CLASSES.name)
    if not isinstance(name, str) or name not in TASK_KINDS:
        raise SweepError(f"the run's config.json is damaged: its task is {str(name)[:40]!r}; run the study again")
    return TASK_KINDS[name]
