"""What a storage does if its connection is cut while it writes, and another program writes before it tries again.

The data base is SQLite, whose connections break here as those of a server do.
"""

import sqlite3
from collections.abc import Callable
from pathlib import Path
from typing import Any

import optuna
import pytest
from optuna.exceptions import DuplicatedStudyError
from optuna.storages import RDBStorage
from optuna.study import StudyDirection
from optuna.trial import TrialState, create_trial
from sqlalchemy.dialects.sqlite.pysqlite import SQLiteDialect_pysqlite

import sweep.search.lasting_storage
import sweep.search.optuna_storage
from sweep import UsageError
from sweep.records.folder import RunFolder
from sweep.search.lasting_storage import LastingStorage
from sweep.search.optuna_storage import create_optuna_study
from sweep.study.objectives import Objectives

MINIMIZE = [StudyDirection.MINIMIZE]
Cut = Callable[..., None]


@pytest.fixture
def url(tmp_path: Path) -> str:
    return f"sqlite:///{tmp_path}/trials.db"


@pytest.fixture
def storage(url: str) -> LastingStorage:
    return LastingStorage(url)


@pytest.fixture
def another(url: str, storage: LastingStorage) -> RDBStorage:
    """Another program's storage in the same data base."""
    return RDBStorage(url)


@pytest.fixture
def cut(monkeypatch: pytest.MonkeyPatch) -> Cut:
    """Return a function that has the next commit cut, before or after the data base has written."""
    commit: Callable[[Any, Any], None] = SQLiteDialect_pysqlite.do_commit

    def cut_next(*, is_written: bool, then: Callable[[], object]) -> None:
        def cut_once(dialect: Any, connection: Any) -> None:
            monkeypatch.setattr(SQLiteDialect_pysqlite, "do_commit", commit)
            if is_written:
                commit(dialect, connection)
            else:
                connection.rollback()
            then()
            raise sqlite3.ProgrammingError("Cannot operate on a closed database.")

        monkeypatch.setattr(SQLiteDialect_pysqlite, "do_commit", cut_once)

    monkeypatch.setattr(sweep.search.lasting_storage, "SECONDS_BETWEEN_TRIES", 0.0)
    return cut_next


@pytest.mark.parametrize("is_written", [True, False])
@pytest.mark.parametrize("is_enqueued", [True, False])
def test_a_trial_that_another_program_has_made_is_not_taken_for_ones_own(
    storage: LastingStorage, another: RDBStorage, cut: Cut, is_written: bool, is_enqueued: bool
) -> None:
    study = storage.create_new_study(MINIMIZE, "run")
    storage.create_new_trial(study)
    mine = create_trial(state=TrialState.WAITING, user_attrs={"mine": True}) if is_enqueued else None
    of_others: list[int] = []
    cut(is_written=is_written, then=lambda: of_others.append(another.create_new_trial(study)))
    made = storage.create_new_trial(study, mine)
    assert made not in of_others
    trials = storage.get_all_trials(study)
    assert [trial.number for trial in trials] == [0, 1, 2], "each was made once"
    assert trials[1 if is_written else 2]._trial_id == made
    assert storage.get_trial(made).state == (TrialState.WAITING if is_enqueued else TrialState.RUNNING)
    assert storage.get_trial(made).user_attrs == ({"mine": True} if is_enqueued else {})
    assert storage.create_new_trial(study) not in (made, *of_others), "the next call makes another one"


def test_a_study_that_was_written_before_the_cut_is_ones_own(
    storage: LastingStorage, another: RDBStorage, cut: Cut
) -> None:
    cut(is_written=True, then=lambda: another.create_new_study(MINIMIZE, "other"))
    study = storage.create_new_study(MINIMIZE, "run")
    assert storage.get_study_name_from_id(study) == "run"
    with pytest.raises(DuplicatedStudyError):
        storage.create_new_study(MINIMIZE, "run")


@pytest.mark.parametrize("kind", [RDBStorage, LastingStorage])
def test_a_study_that_another_program_has_made_is_not_taken_for_ones_own(
    storage: LastingStorage, url: str, cut: Cut, kind: type[RDBStorage]
) -> None:
    another = kind(url)
    cut(is_written=False, then=lambda: another.create_new_study(MINIMIZE, "run"))
    with pytest.raises(DuplicatedStudyError):
        storage.create_new_study(MINIMIZE, "run")
    cut(is_written=False, then=lambda: None)
    with pytest.raises(DuplicatedStudyError):
        another.create_new_study(MINIMIZE, "run")


def test_a_run_whose_study_another_program_has_made_is_refused(
    storage: LastingStorage, url: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    storage.create_new_study(MINIMIZE, "run")
    monkeypatch.setattr(sweep.search.optuna_storage, "open_data_base", lambda url: storage)
    with pytest.raises(UsageError, match=r"--storage sqlite.* already holds a study named run; choose another --out"):
        create_optuna_study(
            url,
            RunFolder(tmp_path / "run"),
            objectives=Objectives({"val_top1": "maximize"}, "val_nll"),
            sampler=optuna.samplers.RandomSampler(),
        )
