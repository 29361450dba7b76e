"""An Optuna storage in a data base whose connections may be cut at any time, because the server restarts.

Whatever was being read or written then is done again. Most writes may be done twice. For the others, it is looked up
whether the server has done them before the connection was cut: it may have done so and not have said it. Another
program may have written meanwhile. So new studies and trials are written together with a mark, an attribute of the
study that says which call of which storage has written them.
"""

import json
import logging
import time
import uuid
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Any, TypeVar

from optuna.exceptions import DuplicatedStudyError, StorageInternalError
from optuna.storages import RDBStorage
from optuna.study import StudyDirection
from optuna.trial import FrozenTrial, TrialState

from sweep.study.stored_values import RESERVED

if TYPE_CHECKING:
    from sqlalchemy.orm import Session

logger = logging.getLogger(__name__)

PATIENCE_SECONDS = 60.0
"""How long a run waits for a server that has answered before, and does not answer now."""

SECONDS_BETWEEN_TRIES = 0.5

REPEATABLE = (
    "set_study_user_attr",
    "set_study_system_attr",
    "get_study_id_from_name",
    "get_study_name_from_id",
    "get_study_directions",
    "get_study_user_attrs",
    "get_study_system_attrs",
    "get_all_studies",
    "get_trial_id_from_study_id_trial_number",
    "get_trial",
    "_get_trials",
    "_get_best_trial_id",
    "_set_trial_param",
    "set_trial_intermediate_value",
    "set_trial_user_attr",
    "set_trial_system_attr",
)
"""Methods of Optuna's storage that read, or that write the same if they are called twice."""

T = TypeVar("T")

# Optuna shows the whole of a failed query, and says that it tries another one. On a cut connection that is in vain.
logging.getLogger("optuna.storages._rdb.storage").addFilter(
    lambda record: not str(record.msg).startswith("Caught an error from sqlalchemy")
)


class LastingStorage(RDBStorage):
    """Trials in a data base, through restarts of its server that take `PATIENCE_SECONDS` at the most.

    Args:
        address: URL of the data base, which has to answer at once.
    """

    def __init__(self, address: str):
        super().__init__(address, engine_kwargs={"pool_pre_ping": True})
        from sqlalchemy import event

        self._mark = f"{RESERVED}written_by:{uuid.uuid4().hex}"  # name of the attribute
        self._n_calls = 0  # that have written a study or a trial; the number of a call marks what it has written
        self._gave_up = False  # whether the server was waited for in vain
        event.listen(self.engine, "do_connect", self._connect)
        event.listen(self.scoped_session, "before_flush", self._mark_studies)

    def _connect(self, dialect: Any, record: object, arguments: list[Any], options: dict[str, Any]) -> Any:
        """Connect, and try for `PATIENCE_SECONDS`; only once if that was in vain before."""
        deadline = time.monotonic() + (0.0 if self._gave_up else PATIENCE_SECONDS)
        told = self._gave_up
        while True:
            try:
                connection = dialect.connect(*arguments, **options)
            except dialect.loaded_dbapi.OperationalError:
                if time.monotonic() > deadline:
                    self._gave_up = True
                    raise
            else:
                self._gave_up = False
                return connection
            if not told:
                logger.warning("the data base does not answer; trying again for %.0f s", PATIENCE_SECONDS)
                told = True
            time.sleep(SECONDS_BETWEEN_TRIES)

    def create_new_study(self, directions: Sequence[StudyDirection], study_name: str | None = None) -> int:
        """See `RDBStorage`."""
        create = super().create_new_study
        self._n_calls += 1

        def again() -> int:
            try:
                return create(directions, study_name)
            except DuplicatedStudyError:
                if study_name is None:
                    raise
                study_id = self.get_study_id_from_name(study_name)
                if self.get_study_system_attrs(study_id).get(self._mark) != [self._n_calls, None]:
                    raise  # it is another program's
                return study_id

        return _lasting(lambda: create(directions, study_name), again)

    def _mark_studies(self, session: "Session", context: object, instances: object) -> None:
        """Mark new studies before they are written."""
        from optuna.storages._rdb.models import StudyModel, StudySystemAttributeModel

        value = json.dumps([self._n_calls, None])
        for new in [new for new in session.new if isinstance(new, StudyModel)]:
            session.add(StudySystemAttributeModel(study=new, key=self._mark, value_json=value))

    def set_trial_state_values(self, trial_id: int, state: TrialState, values: Sequence[float] | None = None) -> bool:
        """See `RDBStorage`."""
        write = super().set_trial_state_values

        def again() -> bool:
            is_written = self.get_trial(trial_id).state == state
            return is_written or write(trial_id, state, values)

        return _lasting(lambda: write(trial_id, state, values), again)

    def _create_new_trial(self, study_id: int, template_trial: FrozenTrial | None = None) -> FrozenTrial:
        """See `RDBStorage`, which tries this several times."""
        create = super()._create_new_trial
        self._n_calls += 1
        return _lasting(lambda: create(study_id, template_trial))

    def _get_prepared_new_trial(self, study_id: int, template_trial: FrozenTrial | None, session: "Session") -> Any:
        """See `RDBStorage`. It is called in a transaction in which nobody else adds trials to the study."""
        from optuna.storages._rdb.models import StudySystemAttributeModel, TrialModel

        mark = session.query(StudySystemAttributeModel).filter_by(study_id=study_id, key=self._mark).one_or_none()
        if mark is None:
            mark = StudySystemAttributeModel(study_id=study_id, key=self._mark)
            session.add(mark)
        elif (written := json.loads(str(mark.value_json)))[0] == self._n_calls:
            return session.get(TrialModel, written[1])
        trial: Any = super()._get_prepared_new_trial(study_id, template_trial, session)
        mark.value_json = json.dumps([self._n_calls, trial.trial_id])
        return trial


def _repeatable(name: str) -> Callable[..., Any]:
    once: Callable[..., Any] = getattr(RDBStorage, name)

    def method(self: LastingStorage, *arguments: Any, **options: Any) -> Any:
        return _lasting(lambda: once(self, *arguments, **options))

    return method


for _name in REPEATABLE:
    setattr(LastingStorage, _name, _repeatable(_name))


def _lasting(call: Callable[[], T], again: Callable[[], T] | None = None) -> T:
    """Call a function, and once more whenever its connection is cut, for `PATIENCE_SECONDS`.

    Args:
        call: The function.
        again: What is called from the second time on, if it is another function.
    """
    from sqlalchemy.exc import SQLAlchemyError

    deadline = time.monotonic() + PATIENCE_SECONDS
    while True:
        try:
            return call()
        except (StorageInternalError, SQLAlchemyError) as error:
            if not _was_cut(error) or time.monotonic() > deadline:
                raise
        call = again or call
        time.sleep(SECONDS_BETWEEN_TRIES)


def _was_cut(error: BaseException | None) -> bool:
    """Whether an error, or one that it was raised from, says that a connection broke which had been made."""
    while error is not None:
        if getattr(error, "connection_invalidated", False):
            return True
        error = error.__cause__ or error.__context__
    return False
