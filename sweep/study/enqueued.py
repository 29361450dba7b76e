"""Trials whose parameters the user gives: rows of a CSV file, or mappings."""

import csv
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from sweep.errors import UsageError
from sweep.study.declaration import Study
from sweep.study.fixed import of_fixed
from sweep.study.parameter_cells import Cell, value_of
from sweep.study.stored_values import stored_parameters

if TYPE_CHECKING:
    import optuna

PARAMETER_PREFIX = "params_"


def read_enqueued(path: Path) -> list[dict[str, Any]]:
    """Read a CSV file: the cells of every row, by parameter. The sampler chooses the parameters of empty cells.

    The table that `sweep results --format csv` prints may be given unchanged: only its parameter columns are read.

    Raises:
        UsageError: The file cannot be read as a table, or has no row.
    """
    try:
        with path.open(newline="", encoding="utf-8-sig") as file:
            rows = list(csv.DictReader(file))
    except OSError as error:
        raise UsageError(f"--enqueue {path} cannot be read: {error.strerror}") from error
    except (ValueError, csv.Error) as error:
        raise UsageError(f"--enqueue {path} cannot be read as a CSV table: {error}") from error
    if not rows:
        raise UsageError(f"--enqueue {path} has no rows; give one column per parameter and one row per trial")
    if any(None in row for row in rows):
        raise UsageError(f"--enqueue {path} has a row with more cells than the first line has names")
    prefixed = [name for name in rows[0] if name.startswith(PARAMETER_PREFIX)]
    names = {name: name.removeprefix(PARAMETER_PREFIX) for name in prefixed or rows[0]}
    return [{short: Cell(row[name]) for name, short in names.items() if row[name]} for row in rows]


def settled(study: Study, enqueued: Sequence[Mapping[str, Any]]) -> list[dict[str, Any]]:
    """The parameters of the trials to train first, with the values that the study's `suggest` will get.

    Args:
        study: The study; the distributions in its `suggest` decide how a cell is read.
        enqueued: Parameters by name, or the result of `read_enqueued`.

    Raises:
        UsageError: A cell is not a value of its parameter, or a value cannot be stored.
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
        raise UsageError(f"{whose}: {error}{of_fixed(study) if cells.keys() & set(study.fixed) else ''}") from error
    return {**values, **{name: read.get(name, str(text)) for name, text in cells.items()}}


def _ranges(
    study: Study, cells: Mapping[str, str], whose: str
) -> "Mapping[str, optuna.distributions.BaseDistribution]":
    """The distribution of every parameter that `suggest` asks for when it gets the values of the cells."""
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
