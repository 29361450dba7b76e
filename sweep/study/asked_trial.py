"""The trial that a study's `suggest` gets: Optuna's trial, which also accepts values that Optuna cannot store."""

from collections.abc import Callable, Mapping, Sequence
from typing import TYPE_CHECKING, Any, NoReturn, cast

from sweep.errors import UsageError
from sweep.study.class_weights import of_lane
from sweep.study.stored_values import RESERVED, plain, same_value, stored_attribute, stored_parameter

if TYPE_CHECKING:
    import optuna


Naming = Callable[[str, Sequence[Any]], Any]
"""For a parameter and its choices, none of which is a value of the fixed declaration: the choice that suggest gets."""


class AskedTrial:
    """An Optuna trial, wrapped for `suggest`.

    All attributes except the methods below are those of Optuna's trial.

    Args:
        trial: Optuna's trial.
        fixed: Values of declarations that hold for every trial, by name; see `sweep.study.fixed`. A parameter of such
            a name has this one value, if it is of the parameter's kind.
        takes: Whether a study can declare this value by that name.
        naming: If given, a parameter that chooses among names has the fixed value too, and `suggest` gets the name that
            `naming` chooses. Otherwise it stays free, as in version 0.11.2 and earlier.
        as_in_0_11: Whether only a choice among values of the very same type has the fixed value. So it was in versions
            0.11.0 and 0.11.1: numbers from a range, and lists, stayed free.
    """

    def __init__(
        self,
        trial: "optuna.Trial | optuna.trial.FixedTrial",
        fixed: Mapping[str, Any] | None = None,
        takes: Callable[[str, Any], bool] = lambda name, value: True,
        *,
        naming: Naming | None = None,
        as_in_0_11: bool = False,
    ):
        self._trial, self._fixed, self._takes = trial, fixed or {}, takes
        self._naming, self._as_in_0_11 = naming, as_in_0_11

    def __getattr__(self, name: str) -> Any:
        return getattr(self._trial, name)

    def as_in_0_11(self) -> "AskedTrial":
        """The same trial, whose parameters have fixed values as in versions 0.11.0 and 0.11.1."""
        return AskedTrial(self._trial, self._fixed, as_in_0_11=True)

    def with_names(self, naming: Naming) -> "AskedTrial":
        """The same trial, whose parameters that choose among names have fixed values too."""
        return AskedTrial(self._trial, self._fixed, self._takes, naming=naming)

    def suggest_categorical(self, name: str, choices: Sequence[Any]) -> Any:
        """Like Optuna's method. Choices may also be lists, tuples and mappings, which are stored as JSON text.

        Raises:
            UsageError: A choice cannot be stored, or two choices are stored alike.
        """
        if self._is_fixed(name, choices):
            return self._fixed_value(name)
        if self._chooses_name(name):
            return self._name(name, choices)
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
            return self._fixed_value(name)
        if self._chooses_name(name):
            return self._name(name, range(low, high + 1))
        return self._trial.suggest_int(name, low, high, *args, **options)

    def suggest_float(self, name: str, low: float, high: float, *args: Any, **options: Any) -> Any:
        """Like Optuna's method; for a fixed parameter like `suggest_int`."""
        if not self._as_in_0_11 and self._is_fixed(name, (low, high)):
            return self._fixed_value(name)
        if self._chooses_name(name):
            return self._name(name, (low, high))
        return self._trial.suggest_float(name, low, high, *args, **options)

    def _is_fixed(self, name: str, choices: Sequence[Any]) -> bool:
        """Whether a parameter chooses among values of a fixed declaration."""
        if name not in self._fixed:
            return False
        value, choices = self._fixed[name], [plain(choice) for choice in choices]
        if self._as_in_0_11:
            return all(type(choice) is type(value) for choice in choices)
        if self._naming is not None and isinstance(value, str | Mapping):
            return value in choices or any(self._takes(name, choice) for choice in choices)
        return any(_kind(choice) is _kind(value) for choice in choices)

    def _fixed_value(self, name: str) -> Any:
        value = self._fixed[name]
        self._trial.suggest_categorical(name, [stored_parameter(name, value)])
        return of_lane(value) if isinstance(value, Mapping) else value

    def _chooses_name(self, name: str) -> bool:
        return self._naming is not None and name in self._fixed

    def _name(self, name: str, choices: Sequence[Any]) -> Any:
        self._fixed_value(name)
        return cast("Naming", self._naming)(name, choices)

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
