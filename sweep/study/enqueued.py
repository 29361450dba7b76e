"""Trials that the user has fixed: rows of a CSV file, or mappings of parameters."""

import csv
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from sweep.errors import UsageError
from sweep.study.declaration import Study
from sweep.study.parameter_cells import Cell, value_of
from sweep.study.stored_values import stored_parameters

if TYPE_CHECKING:
    import optuna

PARAMETER_PREFIX = "params_"


def read_enqueued(path: Path) -> list[dict[str, Any]]:
    """The cells of every row, by parameter; an empty cell leaves the parameter to the sampler.

    A table of `sweep results --format csv` may be given as it is: of its columns only those of parameters are read.

    Raises:
        UsageError: The file cannot be read as a table, or has no row.
    """
    try:
        with path.open(newline="", encoding="utf-8-sig") as file:
            rows = list(csv.DictReader(file))
    except (OSError, ValueError, csv.Error) as error:
        raise UsageError(f"--enqueue {path} cannot be read as a CSV table: {error}") from error
    if not rows:
        raise UsageError(f"--enqueue {path} has no rows; give one column a parameter and one row a trial")
    if any(None in row for row in rows):
        raise UsageError(f"--enqueue {path} has a row of more cells than the first line has names")
    prefixed = [name for name in rows[0] if name.startswith(PARAMETER_PREFIX)]
    names = {name: name.removeprefix(PARAMETER_PREFIX) for name in prefixed or rows[0]}
    return [{short: Cell(row[name]) for name, short in names.items() if row[name]} for row in rows]


def settled(study: Study, enqueued: Sequence[Mapping[str, Any]]) -> list[dict[str, Any]]:
    """The parameters of trials to train first, each as the study's `suggest` gets it.

    Args:
        study: Its `suggest` says which values a cell may stand for.
        enqueued: Parameters by name, or what `read_enqueued` gave.

    Raises:
        UsageError: A cell stands for no value, or a value cannot be stored.
    """
    return [_settled(study, row, f"enqueued trial {number}") for number, row in enumerate(enqueued, start=1)]


def _settled(study: Study, row: Mapping[str, Any], whose: str) -> dict[str, Any]:
    cells = {name: text for name, text in row.items() if isinstance(text, Cell)}
    values = stored_parameters({name: value for name, value in row.items() if name not in cells})
    if not cells:
        return values
    ranges = _ranges(study, cells, whose)
    try:
        read = {name: value_of(name, text, ranges[name]) for name, text in cells.items() if name in ranges}
    except UsageError as error:
        raise UsageError(f"{whose}: {error}") from error
    return {**values, **{name: read.get(name, str(text)) for name, text in cells.items()}}


def _ranges(
    study: Study, cells: Mapping[str, str], whose: str
) -> "Mapping[str, optuna.distributions.BaseDistribution]":
    """The range of every parameter that `suggest` asks for, where it gets what the cells stand for."""
    import optuna

    class FromCells(optuna.samplers.RandomSampler):
        def sample_independent(
            self,
            study: optuna.Study,
            trial: optuna.trial.FrozenTrial,
            param_name: str,
            param_distribution: optuna.distributions.BaseDistribution,
        ) -> Any:
            if param_name in cells:
                return value_of(param_name, cells[param_name], param_distribution)
            return super().sample_independent(study, trial, param_name, param_distribution)

    optuna.logging.set_verbosity(optuna.logging.WARNING)
    trial = optuna.create_study(sampler=FromCells(seed=0)).ask()
    try:
        study.lane_config(trial)
    except UsageError as error:
        raise UsageError(f"{whose}: {error}") from error
    return trial.distributions
