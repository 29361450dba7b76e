"""Trials in PostgreSQL, on a real server that the tests start as an unprivileged user."""

import json
import random
import threading
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import optuna
import pandas as pd
import psycopg
import pytest
from conftest import RecordingReporter, Search, search_in
from optuna.storages import JournalStorage
from optuna.storages.journal import JournalFileBackend
from optuna_dashboard import get_note
from postgresql_server import PASSWORD, Server, connections_closed, needs_server, running_server
from sqlalchemy.dialects.postgresql.psycopg import PGDialect_psycopg

import sweep.search.lasting_storage
from sweep import Halving, Results, Study, SweepError, UsageError, load_results
from sweep.cli.dashboard import dashboard
from sweep.running.resume import resume_run
from sweep.search.data_base import open_data_base
from sweep.search.lasting_storage import LastingStorage
from sweep.search.storage_url import shown_url
from sweep.study.finding import LoadedStudy

pytestmark = needs_server


@pytest.fixture(autouse=True)
def connections() -> Iterator[None]:
    with connections_closed():
        yield


@pytest.fixture(scope="module")
def server() -> Iterator[Server]:
    with running_server() as server:
        yield server


@pytest.fixture
def data_base(server: Server) -> Iterator[str]:
    """The URL of an empty data base."""
    server.sql("CREATE DATABASE trials")
    yield server.url("trials")
    server.sql("DROP DATABASE trials WITH (FORCE)")


@pytest.fixture(scope="module")
def study(small_study: Study) -> Study:
    return replace(small_study, trials=6, epochs=4, halving=Halving(eta=2))


@pytest.fixture(scope="module")
def journal(study: Study, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The folder of a run with a journal, which tests only read."""
    root = tmp_path_factory.mktemp("journal")
    search_in(root, study)
    return root / "run"


def tables(results: Results) -> list[pd.DataFrame]:
    return [results.trials.drop(columns="seconds"), results.curves]


def assert_same_tables(results: Results, expected: Results) -> None:
    for table, other in zip(tables(results), tables(expected), strict=True):
        pd.testing.assert_frame_equal(table, other, check_exact=True)


def test_a_run_ends_with_the_tables_of_a_run_with_a_journal(
    study: Study, search: Search, server: Server, data_base: str, journal: Path, tmp_path: Path
) -> None:
    """The server restarts twice: once between two epochs, once more slowly. Another run begins and ends meanwhile."""
    expected = load_results(journal)
    reporter = RecordingReporter()
    others: list[Results] = []

    def restart(epoch: int) -> None:
        if epoch == 3:
            others.append(search(study, out=tmp_path / "second", storage_url=data_base))
        if epoch in (2, 4):
            server.stop()
        if epoch == 2:
            server.start()
        if epoch == 4:
            threading.Timer(1.0, server.start).start()

    reporter.on_epoch = restart
    results = search(study, out=tmp_path / "first", storage_url=data_base, reporter=reporter)
    assert_same_tables(results, expected)
    assert_same_tables(others[0], expected)
    assert sorted(optuna.study.get_all_study_names(open_data_base(data_base))) == ["first", "second"]


def test_a_server_that_stays_down_ends_the_run_which_can_be_resumed(
    study: Study,
    search: Search,
    server: Server,
    data_base: str,
    journal: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    expected = load_results(journal)
    monkeypatch.setattr(sweep.search.lasting_storage, "PATIENCE_SECONDS", 0.2)
    reporter = RecordingReporter()
    reporter.on_epoch = lambda epoch: server.stop() if epoch == 3 else None
    with pytest.raises(SweepError, match=r"the Optuna storage postgresql://\S+ failed: .*sweep resume") as caught:
        search(study, out=tmp_path / "run", storage_url=data_base, reporter=reporter)
    assert len(str(caught.value).splitlines()) == 1
    server.start()
    loaded = LoadedStudy("small", Path("small.py"), study)
    where: dict[str, Any] = {"cache_dir": tmp_path / "cache", "reporter": RecordingReporter()}
    resume_run(tmp_path / "run", loaded, storage_url=data_base, **where)
    assert_same_tables(load_results(tmp_path / "run"), expected)


def test_each_failure_gives_one_line_with_the_remedy(server: Server, data_base: str) -> None:
    cases = {
        data_base.replace("/trials", "/nowhere"): rf"createdb -h {server.folder} -U owner nowhere",
        data_base.replace(str(server.folder), "/tmp/no-such-folder"): r"pg_isready -h /tmp/no-such-folder",
        "postgresql://owner@127.0.0.1:1/trials": r"pg_isready -h 127\.0\.0\.1 -p 1 ",
        data_base.replace("owner@", "nobody_there@"): rf"createuser -h {server.folder} nobody_there",
        data_base.replace("owner@", "locked:wrong-one@"): r"PGPASSWORD .* ~/\.pgpass",
        data_base.replace("owner@", "locked@"): r"PGPASSWORD .* ~/\.pgpass",
        "postgresql:/nonsense": r"sqlite:///trials\.db or postgresql://",
    }
    for url, remedy in cases.items():
        with pytest.raises(UsageError, match=remedy) as caught:
            open_data_base(url)
        assert str(caught.value).startswith("--storage ")
        assert len(str(caught.value).splitlines()) == 1
        assert "wrong-one" not in str(caught.value)


@pytest.mark.parametrize("place", ["locked:{}@", "?password={}&"])
def test_a_password_in_the_url_works_and_is_written_nowhere(
    study: Study, search: Search, server: Server, data_base: str, tmp_path: Path, place: str, monkeypatch: Any
) -> None:
    server.sql("ALTER DATABASE trials OWNER TO locked")
    user, query = ("locked@", place.format(PASSWORD)) if "?" in place else (place.format(PASSWORD), "?")
    url = f"postgresql://{user}/trials{query}host={server.folder}"
    assert PASSWORD not in shown_url(url)
    monkeypatch.setattr("sys.argv", ["sweep", "run", f"--storage={url}"])
    reporter = RecordingReporter()
    search(replace(study, trials=2, halving=None), storage_url=url, reporter=reporter)
    assert all(PASSWORD not in message for message in reporter.messages)
    files = [path for path in (tmp_path / "run").rglob("*") if path.is_file()]
    assert files
    assert [path for path in files if PASSWORD.encode() in path.read_bytes()] == []
    assert "***" in json.loads((tmp_path / "run" / "config.json").read_text())["storage"]


def test_the_dashboard_shows_a_run(
    study: Study, search: Search, data_base: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    results = search(replace(study, trials=2, halving=None), storage_url=data_base)
    shown: list[optuna.storages.BaseStorage] = []
    monkeypatch.setattr("optuna_dashboard.run_server", lambda storage, **_: shown.append(storage))
    dashboard(tmp_path / "run", storage=data_base)
    (storage,) = shown
    (listed,) = storage.get_all_studies()
    values = [trial.value for trial in storage.get_all_trials(listed._study_id)]
    (objective,) = results.objectives
    assert values == results.trials[objective].tolist()
    assert "winner, trial" in get_note(optuna.load_study(study_name="run", storage=storage))


def test_a_password_is_taken_from_the_environment(
    server: Server, data_base: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    server.sql("ALTER DATABASE trials OWNER TO locked")
    url = data_base.replace("owner@", "locked@")
    (tmp_path / "pgpass").write_text(f"*:*:trials:locked:{PASSWORD}\n")
    (tmp_path / "pgpass").chmod(0o600)
    for name, value in (("PGPASSWORD", PASSWORD), ("PGPASSFILE", str(tmp_path / "pgpass"))):
        with monkeypatch.context() as context:
            context.setenv(name, value)
            assert optuna.study.get_all_study_names(open_data_base(url)) == []


def test_a_run_outlives_cuts_of_its_connections_at_random_instants(
    study: Study,
    search: Search,
    server: Server,
    data_base: str,
    journal: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    expected = load_results(journal)
    over, n_cut = threading.Event(), [0]

    def cut() -> None:
        others = "pid <> pg_backend_pid() AND datname = 'trials'"
        with psycopg.connect(server.url("postgres"), autocommit=True) as connection:
            while not over.wait(random.random() / 5):
                n_cut[0] += len(
                    connection.execute(
                        f"SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE {others}"
                    ).fetchall()
                )

    cutter, reporter = threading.Thread(target=cut), RecordingReporter()
    reporter.on_epoch = lambda epoch: cutter.start() if epoch == 1 else None
    monkeypatch.setattr(sweep.search.lasting_storage, "SECONDS_BETWEEN_TRIES", 0.01)
    try:
        results = search(study, out=tmp_path / "run", storage_url=data_base, reporter=reporter)
    finally:
        over.set()
        cutter.join()
    assert n_cut[0]
    assert_same_tables(results, expected)
    assert_same_trials(data_base, journal)


@pytest.mark.parametrize("is_written", [pytest.param(False, marks=pytest.mark.slow), True])
def test_a_run_outlives_cuts_while_it_commits(
    study: Study,
    search: Search,
    data_base: str,
    journal: Path,
    tmp_path: Path,
    is_written: bool,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """Every seventh time, the connection is cut before the server has written, or after that and before it says so."""
    expected = load_results(journal)
    commit, begin, n_commits, opening = PGDialect_psycopg.do_commit, LastingStorage.__init__, [0], list[str]()

    def open_quietly(storage: LastingStorage, address: str) -> None:
        opening.append(address)
        begin(storage, address)
        opening.clear()

    def cut_now_and_then(dialect: Any, connection: Any) -> None:
        n_commits[0] += not opening
        if opening or n_commits[0] % 7:
            commit(dialect, connection)
            return
        if is_written:
            commit(dialect, connection)
        connection.dbapi_connection.close()
        raise psycopg.OperationalError("server closed the connection unexpectedly")

    monkeypatch.setattr(LastingStorage, "__init__", open_quietly)
    monkeypatch.setattr(PGDialect_psycopg, "do_commit", cut_now_and_then)
    monkeypatch.setattr(sweep.search.lasting_storage, "SECONDS_BETWEEN_TRIES", 0.01)
    results = search(study, out=tmp_path / "run", storage_url=data_base)
    assert n_commits[0] > 100
    assert_same_tables(results, expected)
    monkeypatch.undo()
    assert_same_trials(data_base, journal)


def assert_same_trials(data_base: str, journal: Path) -> None:
    """Assert that Optuna has the same trials in the data base and in a run's journal."""
    storages = (open_data_base(data_base), JournalStorage(JournalFileBackend(str(journal / "optuna.journal"))))
    trials = [
        [
            (t.number, t.state, t.values, t.params, sorted(t.user_attrs), t.intermediate_values)
            for t in study.get_trials()
        ]
        for study in (optuna.load_study(study_name=None, storage=storage) for storage in storages)
    ]
    assert trials[0] == trials[1]
