"""Optuna's side of a run: its storage and its study."""

import optuna
from optuna.storages import BaseStorage, JournalStorage
from optuna.storages.journal import JournalFileBackend

from sweep.errors import SweepError, UsageError
from sweep.run_folder import RunFolder
from sweep.seeds import derive_seed


def open_storage(url: str | None, folder: RunFolder) -> str | BaseStorage:
    """The storage of a run: the URL if one was given, else the journal in the run folder."""
    return url or JournalStorage(JournalFileBackend(str(folder.journal_path)))


def load_optuna_study(folder: RunFolder, url: str | None) -> optuna.Study:
    """The Optuna study of a run that was made before.

    Args:
        folder: The run folder; its name is the study's, unless it was moved.
        url: The storage of the run's record; the run's own journal if not given.

    Raises:
        SweepError: The storage cannot be opened, or no longer holds the study.
    """
    where = url or folder.journal_path
    try:
        storage = optuna.storages.get_storage(open_storage(url, folder))
        names = optuna.study.get_all_study_names(storage)
        name = folder.path.resolve().name if url else names[0]
        return optuna.load_study(study_name=name, storage=storage)
    except Exception as error:
        raise SweepError(f"the Optuna storage {where} cannot be read: {error or type(error).__name__}") from error


def create_optuna_study(name: str, url: str | None, folder: RunFolder, seed: int) -> optuna.Study:
    """Make the Optuna study of a run.

    Args:
        name: Its name in the storage.
        url: An Optuna storage; the run's own journal if not given.
        folder: The run folder.
        seed: The study's seed.

    Raises:
        UsageError: The storage cannot be opened, or already holds a study of that name.
    """
    optuna.logging.set_verbosity(optuna.logging.WARNING)
    sampler = optuna.samplers.TPESampler(seed=derive_seed(seed, "sampler") % 2**32)
    try:
        return optuna.create_study(
            study_name=name, storage=open_storage(url, folder), sampler=sampler, direction="maximize"
        )
    except optuna.exceptions.DuplicatedStudyError as error:
        raise UsageError(f"--storage {url} already holds a study named {name}; choose another --out") from error
    except Exception as error:
        if url is None:
            raise
        reason = str(error).splitlines()[0]
        raise UsageError(
            f"--storage {url} cannot be opened: {reason}. Give a URL such as sqlite:///trials.db"
        ) from error
