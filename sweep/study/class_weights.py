"""Class weights: how much the images of each class count in the loss."""

from collections.abc import Mapping, Sequence

from sweep.errors import UsageError

BALANCED, UNWEIGHTED = "balanced", "none"  # as in sweep.tasks.class_weights, which imports PyTorch
ClassWeights = str | Mapping[str, float] | None
"""A study's: `"balanced"`, `"none"`, or a number by the name of a class or label."""
LaneWeights = str | tuple[float, ...] | None
"""A lane's: the same, with numbers in the order of the classes."""


def checked(declared: object) -> ClassWeights:
    """Check what a study declares as `class_weights`.

    Raises:
        UsageError: It is neither of the two words, nor maps names to numbers of at least 0.
    """
    if declared is None or declared in (BALANCED, UNWEIGHTED):
        return declared
    if not isinstance(declared, Mapping) or not declared or not all(map(_is_weight, declared.values())):
        raise UsageError(
            f"class_weights must be 'balanced', 'none', or map names of classes to numbers of at least 0, not "
            f"{str(declared)[:60]!r} (--class-weights, or the study file)"
        )
    return {str(name): float(weight) for name, weight in declared.items()}


def checked_lane(weights: object) -> LaneWeights:
    """Check what a lane has as `class_weights`.

    Raises:
        UsageError: It is neither of the two words, nor numbers of at least 0.
    """
    if weights is None or weights in (BALANCED, UNWEIGHTED):
        return weights
    if isinstance(weights, str) or not isinstance(weights, Sequence) or not all(map(_is_weight, weights)):
        raise UsageError(
            f"LaneConfig.class_weights must be 'balanced', 'none', or numbers of at least 0, one for each class in "
            f"order; the study's suggest gave {str(weights)[:60]!r}"
        )
    return tuple(map(float, weights))


def completed(declared: ClassWeights, class_names: Sequence[str]) -> ClassWeights:
    """Give classes that a study does not name the weight 1, and put all in the order of the labels.

    Args:
        declared: The study's class weights.
        class_names: Names of the classes of the data, in the order of the labels.

    Raises:
        UsageError: A class is named that the data do not have.
    """
    if not isinstance(declared, Mapping):
        return declared
    if unknown := [name for name in declared if name not in class_names]:
        raise UsageError(
            f"class_weights names {unknown[0]!r}, but the classes of the data are {', '.join(class_names)[:200]}; "
            f"use these names"
        )
    return {name: declared.get(name, 1.0) for name in class_names}


def of_lane(declared: ClassWeights) -> LaneWeights:
    """The class weights that a lane gets from its study, after `completed`."""
    return tuple(declared.values()) if isinstance(declared, Mapping) else declared


def _is_weight(value: object) -> bool:
    if not isinstance(value, int | float) or isinstance(value, bool):
        return False
    return 0 <= value <= 1e6  # not infinite, and no NaN
