"""Asks a run in another process to stop a trial, or to train a variation of one."""

from collections.abc import Mapping
from typing import Any

from optuna.distributions import BaseDistribution
from optuna.trial import FrozenTrial

from sweep.errors import UsageError
from sweep.records.folder import RunFolder
from sweep.search.optuna_storage import load_optuna_study
from sweep.search.own_attributes import DUPLICATE, OwnAttributes
from sweep.search.requests import Request, send
from sweep.study.parameter_cells import range_text, value_of


def ask_to_stop(folder: RunFolder, trial: int, *, storage_url: str | None) -> None:
    """Ask a run to stop a trial after the current epoch. Its lane is then given to the next trial.

    Args:
        folder: The run folder.
        trial: The trial's number.
        storage_url: URL of the Optuna storage, if the run was given one.

    Raises:
        UsageError: The run or the trial has ended, there is no such trial, or it is the baseline.
        SweepError: The storage cannot be read, or the folder cannot be written to.
    """
    known = _trials_of(folder, trial, storage_url, f"sweep stop {folder.path} --trial {trial}")[trial]
    if known.state.is_finished():
        raise UsageError(f"trial {trial} is not in training: it is {known.state.name}")
    if trial == 0:
        raise UsageError("trial 0 is the baseline that all others are compared with; it cannot be stopped")
    send(folder, Request("stop", trial))


def ask_to_clone(
    folder: RunFolder, trial: int, changes: Mapping[str, str], *, storage_url: str | None
) -> dict[str, Any]:
    """Ask a run to train a trial's configuration with some of its parameters changed, in the next lane that is free.

    Args:
        folder: The run folder.
        trial: Number of the trial to vary.
        changes: New values by parameter, as text from the command line.
        storage_url: URL of the Optuna storage, if the run was given one.

    Returns:
        All parameters of the new trial.

    Raises:
        UsageError: The run has ended, there is no such trial, nothing changes, or a value lies outside its range.
        SweepError: The storage cannot be read, or the folder cannot be written to.
    """
    trials = _trials_of(folder, trial, storage_url, f"sweep clone {folder.path} --trial {trial}")
    known = trials[trial]
    asked_for = {name: of for other in trials.values() for name, of in other.distributions.items()}
    distributions = {**asked_for, **known.distributions}
    values = {name: _value(name, text, distributions) for name, text in changes.items()}
    params = {**known.params, **values}
    if params == known.params:
        raise UsageError(f"the clone would be trial {trial} again; change a parameter, for example with --set lr=3e-4")
    send(folder, Request("clone", trial, params))
    return params


def _trials_of(folder: RunFolder, number: int, storage_url: str | None, command: str) -> dict[int, FrozenTrial]:
    """The trials of a running run, by number; `number` is among them."""
    if folder.summary_path.is_file():
        raise UsageError(
            f"the run in {folder.path} has ended, so none of its trials can be stopped or cloned; to train given "
            f"trials, start a new run with --enqueue trials.csv"
        )
    if not folder.is_worked_on():
        raise UsageError(f"no process works on {folder.path}; continue it with sweep resume {folder.path}")
    study = load_optuna_study(folder, storage_url, command)
    own, trials = OwnAttributes.of(study), study.get_trials(deepcopy=False)
    by_number = {trial.number: trial for trial in trials if not own.has(trial, DUPLICATE)}
    if number not in by_number:
        known = f"0 to {max(by_number)}" if by_number else "none yet"
        raise UsageError(f"the run in {folder.path} has no trial {number}; it has {known}")
    return by_number


def _value(name: str, text: str, distributions: Mapping[str, BaseDistribution]) -> Any:
    """A parameter's value, as the study's `suggest` would get it.

    Raises:
        UsageError: The study has no such parameter, or the parameter cannot have this value.
    """
    if name not in distributions:
        raise UsageError(f"--set {name}={text}: the study has no parameter {name}; it has {', '.join(distributions)}")
    distribution = distributions[name]
    try:
        value = value_of(name, text, distribution)
        if not distribution._contains(distribution.to_internal_repr(value)):
            raise UsageError(f"{name} = {text} lies outside its range; suggest asks for {range_text(distribution)}")
    except UsageError as error:
        raise UsageError(f"--set {name}={text}: {error}") from error
    return value
