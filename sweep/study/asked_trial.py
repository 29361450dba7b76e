"""The trial that a study's `suggest` gets: Optuna's trial, which also accepts values that Optuna cannot store."""

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any, NoReturn

from sweep.errors import UsageError
from sweep.study.stored_values import RESERVED, plain, same_value, stored_attribute, stored_parameter

if TYPE_CHECKING:
    import optuna


class AskedTrial:
    """An Optuna trial, wrapped for `suggest`.

    All attributes except the methods below are those of Optuna's trial.

    Args:
        trial: Optuna's trial.
        fixed: Values of declarations that hold for every trial, by name; see `sweep.study.fixed`. A parameter of such
            a name has this one value, if it is of the parameter's kind.
        as_in_0_11: Whether only a choice among values of the very same type has the fixed value. So it was in versions
            0.11.0 and 0.11.1: numbers from a range, and lists, stayed free.
    """

    def __init__(
        self,
        trial: "optuna.Trial | optuna.trial.FixedTrial",
        fixed: Mapping[str, Any] | None = None,
        *,
        as_in_0_11: bool = False,
    ):
        self._trial, self._fixed, self._as_in_0_11 = trial, fixed or {}, as_in_0_11

    def __getattr__(self, name: str) -> Any:
        return getattr(self._trial, name)

    def as_in_0_11(self) -> "AskedTrial":
        """The same trial, whose parameters have fixed values as in versions 0.11.0 and 0.11.1."""
        return AskedTrial(self._trial, self._fixed, as_in_0_11=True)

    def suggest_categorical(self, name: str, choices: Sequence[Any]) -> Any:
        """Like Optuna's method. Choices may also be lists, tuples and mappings, which are stored as JSON text.

        Raises:
            UsageError: A choice cannot be stored, or two choices are stored alike.
        """
        if self._is_fixed(name, choices):
            choices = [self._fixed[name]]
        stored = [stored_parameter(name, choice) for choice in choices]
        taken = self._trial.suggest_categorical(name, stored)
        originals = [c for c, text in zip(choices, stored, strict=True) if same_value(text, taken)]
        compound = [c for c in originals if isinstance(c, list | tuple | dict)]
        if compound and len(originals) > 1:
            raise UsageError(f"two choices of the parameter {name} are both stored as {taken}; leave one out")
        return compound[0] if compound else taken

    def suggest_int(self, name: str, low: int, high: int, *args: Any, **options: Any) -> Any:
        """Like Optuna's method. The one value of a fixed parameter may lie outside of the range."""
        if not self._as_in_0_11 and self._is_fixed(name, (low, high)):
            return self.suggest_categorical(name, [self._fixed[name]])
        return self._trial.suggest_int(name, low, high, *args, **options)

    def suggest_float(self, name: str, low: float, high: float, *args: Any, **options: Any) -> Any:
        """Like Optuna's method; for a fixed parameter like `suggest_int`."""
        if not self._as_in_0_11 and self._is_fixed(name, (low, high)):
            return self.suggest_categorical(name, [self._fixed[name]])
        return self._trial.suggest_float(name, low, high, *args, **options)

    def _is_fixed(self, name: str, choices: Sequence[Any]) -> bool:
        if name not in self._fixed:
            return False
        value = self._fixed[name]
        if self._as_in_0_11:
            return all(type(plain(choice)) is type(value) for choice in choices)
        return any(_kind(plain(choice)) is _kind(value) for choice in choices)

    def set_user_attr(self, key: str, value: Any) -> None:
        """Like Optuna's method. The value may have any type; types that JSON lacks are stored as text.

        Raises:
            UsageError: The name has the prefix of sweep's own attributes.
        """
        if str(key).startswith(RESERVED):
            raise UsageError(f"user attributes whose names begin with {RESERVED!r} are sweep's own; rename {key!r}")
        self._trial.set_user_attr(str(key), stored_attribute(value))

    def report(self, value: float, step: int) -> NoReturn:
        """Always raise an error, since `suggest` runs before the trial trains.

        Raises:
            UsageError: Always.
        """
        raise UsageError(
            "trial.report has no meaning in suggest, which is asked before the trial trains; sweep reports every epoch "
            "by itself, and halving=sweep.Halving() stops weak trials"
        )


def _kind(value: Any) -> type:
    """The type of a value. Numbers, lists of numbers and None are of one kind: `stages` may be any of them."""
    return int if value is None or isinstance(value, list | tuple | float) else type(value)
