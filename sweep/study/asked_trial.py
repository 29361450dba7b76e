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
        fixed: Values of declarations that hold for every trial, by name; see `sweep.study.fixed`.
    """

    def __init__(self, trial: "optuna.Trial | optuna.trial.FixedTrial", fixed: Mapping[str, Any] | None = None):
        self._trial, self._fixed = trial, fixed or {}

    def __getattr__(self, name: str) -> Any:
        return getattr(self._trial, name)

    def suggest_categorical(self, name: str, choices: Sequence[Any]) -> Any:
        """Like Optuna's method. Choices may also be lists, tuples and mappings, which are stored as JSON text.

        A parameter with the name of a fixed declaration has one choice: the fixed value, if it has the choices' type.

        Raises:
            UsageError: A choice cannot be stored, or two choices are stored alike.
        """
        if name in self._fixed and all(type(plain(choice)) is type(self._fixed[name]) for choice in choices):
            choices = [self._fixed[name]]
        stored = [stored_parameter(name, choice) for choice in choices]
        taken = self._trial.suggest_categorical(name, stored)
        originals = [c for c, text in zip(choices, stored, strict=True) if same_value(text, taken)]
        compound = [c for c in originals if isinstance(c, list | tuple | dict)]
        if compound and len(originals) > 1:
            raise UsageError(f"two choices of the parameter {name} are both stored as {taken}; leave one out")
        return compound[0] if compound else taken

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
