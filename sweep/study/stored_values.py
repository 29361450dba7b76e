"""Converts a study's values to types that Optuna's storages, JSON and tables can hold."""

import json
from collections.abc import Mapping
from typing import Any

import numpy as np

from sweep.errors import UsageError

RESERVED = "sweep:"
"""Prefix of the names of sweep's own user attributes. A study cannot set attributes with this prefix."""

SCALARS = (bool, int, float, str)
PLAIN = frozenset({*SCALARS, type(None)})


def plain(value: Any) -> Any:
    """The value with NumPy's scalars and arrays converted to Python's, also inside lists, tuples and mappings."""
    if type(value) in PLAIN:  # nearly all values are, and the questions below take longer
        return value
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
        name: Name of the parameter, for the error message.
        value: A choice of `suggest_categorical`, or a value of the baseline, of a grid or of an enqueued trial.

    Raises:
        UsageError: The value has another type, so another process could not read it back.
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
    """All parameters of a trial as they are stored; errors as `stored_parameter`."""
    return {name: stored_parameter(name, value) for name, value in params.items()}


def stored_attribute(value: Any) -> Any:
    """A user attribute as JSON holds it. Types that JSON lacks become text."""
    try:
        value = plain(value)
        return value if value is None or type(value) in SCALARS else json.loads(json.dumps(value))
    except (TypeError, ValueError, RecursionError):
        return str(value)


def same_value(one: Any, other: Any) -> bool:
    """Whether two values of a parameter are the same; NaN is the same as NaN."""
    return bool(one == other) or (one != one and other != other)  # noqa: PLR0124 - only NaN is not equal to itself
