"""Writes a parameter's value as a cell of a CSV table, and reads it back exactly, for all values that Optuna allows."""

import json
from typing import TYPE_CHECKING, Any

from sweep.errors import UsageError
from sweep.study.stored_values import same_value

if TYPE_CHECKING:
    from optuna.distributions import BaseDistribution

CONSTANTS = ("None", "True", "False")


class Cell(str):
    """The text of a cell. Only the parameter's distribution decides which value it means."""

    __slots__ = ()


def cell_of(value: Any) -> str:
    """A value as the text of a cell. Strings that could be read as another type are in double quotes, as in JSON."""
    if isinstance(value, str):
        return value if _is_plain_text(value) else json.dumps(value)
    return repr(value) if isinstance(value, float) else str(value)


def value_of(name: str, text: str, distribution: "BaseDistribution") -> Any:
    """The value that a cell means.

    Args:
        name: Name of the parameter, for the error message.
        text: Text of the cell.
        distribution: The parameter's distribution.

    Raises:
        UsageError: The text is not a value of this distribution.
    """
    from optuna.distributions import CategoricalDistribution, FloatDistribution

    if isinstance(distribution, CategoricalDistribution):
        return _choice_of(name, text, distribution)
    try:
        number = float(text)
        if isinstance(distribution, FloatDistribution):
            return number
        if text.strip().lstrip("+-").isdecimal():
            return int(text)
        if number.is_integer():
            return int(number)
    except (ValueError, OverflowError):
        pass
    raise UsageError(f"{name} = {text!r} is not a number; suggest asks for {range_text(distribution)}")


def _choice_of(name: str, text: str, distribution: Any) -> Any:
    """The choice that is written exactly like that, or else the only choice that a person may have meant."""
    exact = [choice for choice in distribution.choices if cell_of(choice) == text]
    if exact:
        return exact[0]
    alike = [choice for choice in distribution.choices if str(choice) == text]
    if not alike:
        numbers = [c for c in distribution.choices if isinstance(c, int | float) and not isinstance(c, bool)]
        alike = [choice for choice in numbers if same_value(choice, _number(text))]
    if len(alike) == 1:
        return alike[0]
    raise UsageError(f"{name} = {text!r} is none of the choices; suggest asks for {range_text(distribution)}")


def range_text(distribution: "BaseDistribution") -> str:
    """A parameter's range in words."""
    from optuna.distributions import CategoricalDistribution, FloatDistribution, IntDistribution

    if isinstance(distribution, CategoricalDistribution):
        return f"one of {', '.join(map(cell_of, distribution.choices))}"
    if isinstance(distribution, FloatDistribution | IntDistribution):
        kind = "a whole number" if isinstance(distribution, IntDistribution) else "a number"
        step = distribution.step
        steps = f" in steps of {step}" if step not in (None, 1) else ""
        return f"{kind} from {distribution.low} to {distribution.high}{steps}"
    return str(distribution)


def _is_plain_text(text: str) -> bool:
    """Whether the text can only be read as a string."""
    if not text or text.startswith('"') or text in CONSTANTS or text != text.strip() or not text.isprintable():
        return False
    return _number(text) is None


def _number(text: str) -> float | None:
    try:
        return float(text)
    except ValueError:
        return None
