"""Optuna's side of a run: its storage and its study."""

import optuna
from optuna.samplers import BaseSampler
from optuna.storages import BaseStorage, JournalStorage
from optuna.storages.journal import JournalFileBackend

from sweep.errors import SweepError, UsageError
from sweep.objectives import Objectives
from sweep.run_folder import RESTORE, RunFolder
from sweep.samplers import experiments_allowed


def open_storage(url: str | None, folder: RunFolder) -> BaseStorage:
    """The storage of a run: the URL if one was given, else the journal in the run folder.

    A journal is lines of JSON; reading one executes nothing, whoever wrote it. A URL may load a database driver and
    reach any host, so it comes from the user, never out of a run folder.

    Raises:
        UsageError: The URL cannot be opened.
        SweepError: The journal is damaged, or cannot be read.
    """
    if url is not None:
        try:
            return optuna.storages.get_storage(url)
        except Exception as error:  # SQLAlchemy, a driver, or the network
            reason = (str(error).splitlines() or [type(error).__name__])[0].replace(url, shown_url(url))
            raise UsageError(
                f"--storage {shown_url(url)} cannot be opened: {reason}. Give a URL such as sqlite:///trials.db"
            ) from error
    try:
        return JournalStorage(JournalFileBackend(str(folder.journal_path)))
    except OSError as error:
        raise SweepError(f"cannot open Optuna's journal {folder.journal_path}: {error.strerror}") from error
    except Exception as error:  # a line that is no JSON, or no entry of a journal
        raise SweepError(
            f"Optuna's journal {folder.journal_path} is damaged: {type(error).__name__}: {error}{RESTORE}; "
            f"its tables are read without it, by sweep results {folder.path}"
        ) from error


def shown_url(url: str) -> str:
    """The URL of a storage as it may be printed and recorded: without its password."""
    from sqlalchemy.engine import make_url
    from sqlalchemy.exc import ArgumentError

    try:
        return make_url(url).render_as_string(hide_password=True)
    except (ArgumentError, ValueError):
        return url


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
    storage = open_storage(url, folder)
    try:
        study = optuna.create_study(study_name=name, storage=storage, sampler=sampler, directions=directions)
        with experiments_allowed():
            study.set_metric_names(objectives.names)
        return study
    except optuna.exceptions.DuplicatedStudyError as error:
        where = f"--storage {shown_url(url)}" if url else folder.journal_path
        raise UsageError(f"{where} already holds a study named {name}; choose another --out") from error
