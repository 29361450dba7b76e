"""Values as Optuna's storages, JSON and tables can hold them, whatever a study hands over."""

import json
from collections.abc import Mapping
from typing import Any

import numpy as np

from sweep.errors import UsageError

RESERVED = "sweep:"
"""How the names of sweep's own user attributes begin; a study cannot set such a name."""

SCALARS = (bool, int, float, str)


def plain(value: Any) -> Any:
    """The value with NumPy's scalars and arrays as Python has them, also inside lists, tuples and mappings."""
    if isinstance(value, np.generic):
        return value.item()
    if isinstance(value, np.ndarray):
        return value.tolist()
    if isinstance(value, Mapping):
        return {plain(key): plain(inner) for key, inner in value.items()}
    if type(value) in (list, tuple):
        return type(value)(map(plain, value))
    return value


def stored_parameter(name: str, value: Any) -> Any:
    """A parameter's value as it is stored: None, bool, int, float or str; a list, tuple or mapping as JSON text.

    Args:
        name: The parameter's, for the message.
        value: A choice of `suggest_categorical`, or a value of the baseline, of a grid or of an enqueued trial.

    Raises:
        UsageError: It is of another kind, which has no text that another process would read back.
    """
    value = plain(value)
    if value is None or isinstance(value, SCALARS):
        return value
    if isinstance(value, list | tuple | Mapping):
        try:
            return json.dumps(value)
        except (TypeError, ValueError):
            pass
    raise UsageError(
        f"the parameter {name} has the value {str(value)[:60]}, a {type(value).__name__}, which cannot be stored; let "
        f"suggest choose a name for it, as in CHOICES[trial.suggest_categorical({name!r}, list(CHOICES))]"
    )


def stored_parameters(params: Mapping[str, Any]) -> dict[str, Any]:
    """All parameters of a trial as they are stored; raises as `stored_parameter`."""
    return {name: stored_parameter(name, value) for name, value in params.items()}


def stored_attribute(value: Any) -> Any:
    """A user attribute as JSON holds it; what JSON does not know becomes text."""
    try:
        value = plain(value)
        return value if value is None or type(value) in SCALARS else json.loads(json.dumps(value))
    except (TypeError, ValueError, RecursionError):
        return str(value)


def same_value(one: Any, other: Any) -> bool:
    """Whether two values of a parameter are the same; NaN is the same as NaN."""
    return bool(one == other) or (one != one and other != other)  # noqa: PLR0124 - only NaN is not equal to itself
