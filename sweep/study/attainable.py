"""Checks that a target can be reached, since most metrics have limits."""

import math
from collections.abc import Mapping

from sweep.errors import UsageError
from sweep.study.budget import Budget
from sweep.study.objectives import Objectives

SHARES = (
    *("top1", "mean_class_accuracy", "worst_class_accuracy", "ece"),
    *("map", "micro_f1", "macro_f1", "label_accuracy"),
)
LIMITS: Mapping[str, tuple[float, float]] = {
    **{f"val_{name}": (0.0, 1.0) for name in SHARES},
    **dict.fromkeys(("val_nll", "val_bce", "val_rmse", "val_mae", "train_loss"), (0.0, math.inf)),
    **dict.fromkeys(("trainable_parameters", "inference_seconds"), (0.0, math.inf)),
    "val_r2": (-math.inf, 1.0),
}
"""The smallest and the largest possible value of each objective. The limits of a study's own metrics are unknown."""


def require_attainable(budget: Budget, objectives: Objectives) -> None:
    """Raise an error if no trial can reach the target.

    Raises:
        UsageError: The target lies beyond the limit of the first objective.
    """
    name, target = objectives.first, budget.target
    if target is None or name not in LIMITS:
        return
    least, most = LIMITS[name]
    upwards = objectives.directions[name] == "maximize"
    if (target > most) if upwards else (target < least):
        bound = f"at most {most:g}" if upwards else f"at least {least:g}"
        remedy = f"; for {target:g} % give {target / 100:g}" if upwards and 1 < target <= 100 else ""
        raise UsageError(f"--target {target:g} cannot be reached: {name} is {bound}{remedy}")
