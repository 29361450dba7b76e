"""Optuna's side of a run: its storage and its study."""

import optuna
from optuna.samplers import BaseSampler
from optuna.storages import BaseStorage, JournalStorage
from optuna.storages.journal import JournalFileBackend

from sweep.errors import UsageError
from sweep.objectives import Objectives
from sweep.run_folder import RunFolder
from sweep.samplers import experiments_allowed


def open_storage(url: str | None, folder: RunFolder) -> str | BaseStorage:
    """The storage of a run: the URL if one was given, else the journal in the run folder."""
    return url or JournalStorage(JournalFileBackend(str(folder.journal_path)))


def create_optuna_study(
    name: str, url: str | None, folder: RunFolder, *, objectives: Objectives, sampler: BaseSampler
) -> optuna.Study:
    """Make the Optuna study of a run.

    Args:
        name: Its name in the storage.
        url: An Optuna storage; the run's own journal if not given.
        folder: The run folder.
        objectives: What trials are told with; the dashboard shows their names.
        sampler: Proposes trials.

    Raises:
        UsageError: The storage cannot be opened, or already holds a study of that name.
    """
    optuna.logging.set_verbosity(optuna.logging.WARNING)
    directions = list(objectives.directions.values())
    try:
        study = optuna.create_study(
            study_name=name, storage=open_storage(url, folder), sampler=sampler, directions=directions
        )
        with experiments_allowed():
            study.set_metric_names(objectives.names)
        return study
    except optuna.exceptions.DuplicatedStudyError as error:
        raise UsageError(f"--storage {url} already holds a study named {name}; choose another --out") from error
    except Exception as error:
        if url is None:
            raise
        reason = str(error).splitlines()[0]
        raise UsageError(
            f"--storage {url} cannot be opened: {reason}. Give a URL such as sqlite:///trials.db"
        ) from error
