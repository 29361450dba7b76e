"""A run's Optuna storage and Optuna study."""

import optuna
from optuna.samplers import BaseSampler
from optuna.storages import BaseStorage, JournalStorage

from sweep.errors import SweepError, UsageError
from sweep.machine.checked_files import RESTORE, read_json
from sweep.records.folder import RunFolder
from sweep.search.data_base import cannot_open, first_reason, open_data_base
from sweep.search.journal import BatchingJournal
from sweep.search.journal_lock import JournalLock
from sweep.search.own_attributes import OwnAttributes
from sweep.search.samplers import experiments_allowed
from sweep.search.storage_url import shown_url
from sweep.study.objectives import Objectives


def open_storage(url: str | None, folder: RunFolder) -> BaseStorage:
    """The storage of a run: the URL if one was given, else the journal in the run folder.

    A journal is lines of JSON. Reading it executes no code, whoever wrote it. A URL may load a database driver and
    connect to any host, so it must come from the user and never from a run folder.

    Raises:
        UsageError: The URL cannot be opened.
        SweepError: The journal is damaged, or cannot be read.
    """
    if url is not None:
        return open_data_base(url)
    try:
        return JournalStorage(BatchingJournal(str(folder.journal_path), JournalLock(folder.journal_path)))
    except OSError as error:
        raise SweepError(f"cannot open Optuna's journal {folder.journal_path}: {error.strerror}") from error
    except Exception as error:  # a line that is not JSON, or not an entry of a journal
        raise SweepError(
            f"Optuna's journal {folder.journal_path} is damaged: {type(error).__name__}: {error}{RESTORE}; "
            f"sweep results {folder.path} shows the run's tables without it"
        ) from error


def mend_journal(folder: RunFolder) -> None:
    """Remove what a killed process may have left behind: half a line in the journal, and Optuna's lock.

    Otherwise Optuna waits half a minute for the lock. The caller must hold the run's own lock.

    Raises:
        SweepError: The file system refuses.
    """
    try:
        if folder.journal_path.is_file():
            with folder.journal_path.open("rb+") as file:
                file.truncate(file.read().rfind(b"\n") + 1)
        folder.journal_path.with_name(f"{folder.journal_path.name}.lock").unlink(missing_ok=True)
    except OSError as error:
        raise SweepError(f"cannot mend Optuna's journal {folder.journal_path}: {error.strerror}") from error


def open_recorded(folder: RunFolder, url: str | None, command: str) -> BaseStorage:
    """The storage of an existing run.

    Args:
        folder: The run folder.
        url: URL that the user gave. It is required if the run's record names one, since a run folder may come from
            anybody.
        command: The command to type, without the option, for the error message.

    Raises:
        UsageError: The record names a URL and none is given, or it cannot be opened.
        SweepError: The journal is missing or damaged.
    """
    require_recorded_url(folder, url, command)
    if url is None and not folder.journal_path.is_file():
        raise SweepError(f"{folder.journal_path} is missing; without it there is nothing to show")
    return open_storage(url, folder)


def require_recorded_url(folder: RunFolder, url: str | None, command: str) -> None:
    """Raise an error if a run's record names a storage and none is given; arguments and errors as `open_recorded`."""
    if url is None and (recorded := read_json(folder.config_path).get("storage")) is not None:
        raise UsageError(
            f"{folder.config_path} says that the trials are in the Optuna storage {recorded}. Run folders may come "
            f"from anybody, so it is opened only if you give it: {command} --storage URL"
        )


def check_storage_free(url: str, name: str) -> None:
    """Check that a storage can be opened and has no study of that name, before any file is made.

    Raises:
        UsageError: The storage cannot be opened, or has such a study.
    """
    storage = open_data_base(url)
    try:
        names = optuna.study.get_all_study_names(storage)
    except Exception as error:  # SQLAlchemy, a driver, or the network
        raise cannot_open(url, error) from error
    if name in names:
        raise _taken(url, name)


def _taken(url: str, name: str) -> UsageError:
    return UsageError(f"--storage {shown_url(url)} already holds a study named {name}; choose another --out")


def load_optuna_study(folder: RunFolder, url: str | None, command: str) -> optuna.Study:
    """The Optuna study of an existing run; arguments as `open_recorded`.

    Raises:
        UsageError: The record names a URL and none is given.
        SweepError: The storage cannot be opened, or no longer holds the study.
    """
    storage = open_recorded(folder, url, command)
    try:
        return optuna.load_study(study_name=_recorded_name(folder, storage, url), storage=storage)
    except Exception as error:
        where = shown_url(url) if url else folder.journal_path
        raise SweepError(f"the Optuna storage {where} cannot be read: {first_reason(error, url)}") from error


def _recorded_name(folder: RunFolder, storage: BaseStorage, url: str | None) -> str:
    """The name of a run's study in its storage; the folder may have been renamed or copied since."""
    if url is None and (names := optuna.study.get_all_study_names(storage)):
        return names[0]  # a journal has one study
    recorded = read_json(folder.config_path).get("optuna_study") if folder.config_path.is_file() else None
    return recorded if isinstance(recorded, str) else folder.path.resolve().name  # of version 0.3.0


def create_optuna_study(
    url: str | None,
    folder: RunFolder,
    *,
    objectives: Objectives,
    sampler: BaseSampler,
    goes_on: bool = False,
) -> optuna.Study:
    """Make the Optuna study of a run, or find it if the run is resumed.

    Args:
        url: URL of an Optuna storage; the run's own journal if not given.
        folder: The run folder.
        objectives: The objectives of the study; Optuna's dashboard shows their names.
        sampler: Proposes trials.
        goes_on: Whether the run is resumed, so that the study may exist already.

    Raises:
        UsageError: The storage cannot be opened, or it has a study of that name and the run is not resumed.
    """
    optuna.logging.set_verbosity(optuna.logging.WARNING)
    storage = open_storage(url, folder)
    name = _recorded_name(folder, storage, url)
    try:
        study = optuna.create_study(
            study_name=name,
            storage=storage,
            sampler=sampler,
            directions=list(objectives.directions.values()),
            load_if_exists=goes_on,
        )
    except optuna.exceptions.DuplicatedStudyError as error:  # another program has made it since `check_storage_free`
        raise _taken(url or str(folder.journal_path), name) from error
    OwnAttributes.mark(study)
    with experiments_allowed():
        study.set_metric_names(objectives.names)
    return study
