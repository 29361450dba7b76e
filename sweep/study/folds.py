"""Cross-validation as a study declares it: how many lanes a trial has, and which fold each of them is measured on."""

import math
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

from sweep.errors import SweepError, UsageError

if TYPE_CHECKING:
    from sweep.study.declaration import Study

UNDECLARED: Mapping[str, Any] = {"folds": 0, "repeats": 1}
"""What runs of versions without cross-validation had, whose records do not say it."""

MOST_FOLDS = 10_000
"""More lanes of one trial would not fit anywhere, and records may come from anybody."""


def lanes_per_trial(seeds: int, folds: int, repeats: int) -> int:
    """Number of lanes that train one configuration.

    Args:
        seeds: How often every fold is trained, from different initial weights.
        folds: Number of folds; 0 without cross-validation.
        repeats: How often the images are divided into folds.
    """
    return seeds * max(1, folds) * repeats


def fold_of(replicate: int, folds: int, repeats: int) -> int | None:
    """The fold that a lane of a trial is measured on, counted through all repeats; None without cross-validation.

    Args:
        replicate: Number of the lane in its trial: the folds of the first repeat, those of the second, and so on; then
            all of them with the next seed.
        folds: Number of folds of a repeat.
        repeats: How often the images are divided into folds.
    """
    return replicate % (folds * repeats) if folds else None


def recorded_folds(config: Mapping[str, Any]) -> tuple[int, int]:
    """Folds and repeats of a run by its record; none if the record does not say it.

    Raises:
        SweepError: The record is damaged.
    """
    folds, repeats = (config.get(name, default) for name, default in UNDECLARED.items())
    if not _is_number_of(folds, least=0) or not _is_number_of(repeats, least=1) or folds == 1:
        shown = f"{str(folds)[:40]} folds and {str(repeats)[:40]} repeats"
        raise SweepError(f"the run's config.json is damaged: it has {shown}; run the study again")
    return folds, repeats


def _is_number_of(value: object, least: int) -> bool:
    return isinstance(value, int) and not isinstance(value, bool) and least <= value <= MOST_FOLDS


def standard_error(std: float, folds: int) -> float:
    """Standard error of the mean over folds.

    More repeats do not make it smaller, since all of them measure the same images.

    Args:
        std: Standard deviation of the score over the lanes of a trial.
        folds: Number of folds of a repeat.
    """
    return std / math.sqrt(folds)


def check_folds(study: "Study") -> None:
    """Check the declarations of cross-validation.

    Raises:
        UsageError: There is one fold only, or repeats without folds.
    """
    for name, least in (("folds", 0), ("repeats", 1)):
        value = getattr(study, name)
        if not _is_number_of(value, least):
            raise UsageError(
                f"{name} must be a whole number from {least} to {MOST_FOLDS}, not {value!r} (--{name}, or the study "
                f"file)"
            )
    if study.folds == 1:
        raise UsageError("folds must be at least 2, or 0 for no cross-validation, not 1 (--folds, or the study file)")
    if study.repeats > 1 and not study.folds:
        raise UsageError(
            f"repeats is {study.repeats} without folds; give --folds 5 too, or --seeds {study.repeats} to train every "
            f"trial from several initial weights"
        )
