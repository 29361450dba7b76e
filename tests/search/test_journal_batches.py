"""A journal that is written in batches holds what Optuna's own would, and lets others write in between."""

import json
from collections.abc import Callable
from pathlib import Path

import optuna
import pytest
from optuna.storages import JournalStorage
from optuna.storages.journal import JournalFileBackend

from sweep.records.folder import RunFolder
from sweep.search import journal
from sweep.search.journal import not_together, written_together
from sweep.search.optuna_storage import open_storage


def told(study: optuna.Study) -> None:
    trial = study.ask()
    trial.suggest_float("x", 0, 1)
    trial.set_user_attr("name", {"é": [1, None]})
    trial.report(0.5, 3)
    study.tell(trial, 0.25)


@pytest.fixture
def study(tmp_path: Path) -> optuna.Study:
    optuna.logging.set_verbosity(optuna.logging.WARNING)
    sampler = optuna.samplers.RandomSampler(seed=0)
    return optuna.create_study(storage=open_storage(None, RunFolder(tmp_path)), study_name="s", sampler=sampler)


@pytest.fixture
def other(study: optuna.Study, tmp_path: Path) -> optuna.Study:
    """The same study in another process, such as Optuna's dashboard."""
    path = str(RunFolder(tmp_path).journal_path)
    return optuna.load_study(study_name="s", storage=JournalStorage(JournalFileBackend(path)))


def entries(folder: Path) -> list[dict[str, object]]:
    """The journal without what differs from process to process."""
    lines = (json.loads(line) for line in RunFolder(folder).journal_path.read_text().splitlines())
    return [{name: x for name, x in line.items() if "datetime" not in name and name != "worker_id"} for line in lines]


def test_a_batch_is_written_at_its_end_with_what_optuna_would_write(
    study: optuna.Study, other: optuna.Study, tmp_path: Path
) -> None:
    n_before = len(entries(tmp_path))
    with written_together(study):
        with written_together(study):
            told(study)
        told(study)
        assert len(entries(tmp_path)) == n_before
        assert [trial.value for trial in study.get_trials()] == [0.25, 0.25]
    assert [trial.params for trial in other.get_trials()] == [trial.params for trial in study.get_trials()]
    in_a_batch = entries(tmp_path)
    (tmp_path / "plain").mkdir()
    plain = RunFolder(tmp_path / "plain").journal_path
    sampler = optuna.samplers.RandomSampler(seed=0)
    alone = optuna.create_study(storage=JournalStorage(JournalFileBackend(str(plain))), study_name="s", sampler=sampler)
    told(alone)
    told(alone)
    assert in_a_batch == entries(tmp_path / "plain")


@pytest.mark.parametrize("pause", [not_together, None])
def test_others_can_write_in_the_middle_of_a_long_batch(
    study: optuna.Study, other: optuna.Study, pause: Callable[..., object] | None, monkeypatch: pytest.MonkeyPatch
) -> None:
    with written_together(study):
        told(study)
        if pause is None:
            monkeypatch.setattr(journal, "MOST_SECONDS", -1.0)  # the next entry is too late for this batch
            begin = journal.BatchingJournal._begin

            def others_first(self: journal.BatchingJournal) -> None:
                monkeypatch.setattr(journal.BatchingJournal, "_begin", begin)
                told(other)
                begin(self)

            monkeypatch.setattr(journal.BatchingJournal, "_begin", others_first)
        else:
            with not_together(study):
                told(other)
        told(study)
    assert [trial.number for trial in study.get_trials()] == [0, 1, 2]
    assert [trial.params for trial in other.get_trials()] == [trial.params for trial in study.get_trials()]


def test_what_was_told_before_an_error_is_written(study: optuna.Study, other: optuna.Study) -> None:
    def interrupted() -> None:
        with written_together(study):
            told(study)
            raise RuntimeError("in the middle")

    with pytest.raises(RuntimeError, match="in the middle"):
        interrupted()
    assert len(other.get_trials()) == 1
    told(other)  # the lock is free
    told(study)
    assert len(other.get_trials()) == 3
