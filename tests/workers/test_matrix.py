"""All studies, on all numbers of workers and with all kinds of storage, give the tables of a run without workers."""

from collections.abc import Iterator
from pathlib import Path

import pytest
from in_process_pool import InProcessPool, plenty
from optuna.storages import BaseStorage
from postgresql_server import INITDB, Server, connections_closed, running_server
from small_searches import STUDIES, assert_same, result_of, search_of, settings_of

from sweep.records.folder import RunFolder
from sweep.search.data_base import open_data_base
from sweep.search.optuna_storage import open_storage
from sweep.workers.local_pool import LocalPool
from sweep.workers.patience import Patience
from sweep.workers.pool import WorkerPool
from sweep.workers.training import TrainingOnWorkers

pytestmark = pytest.mark.slow


@pytest.fixture(scope="module")
def server() -> Iterator[Server | None]:
    if INITDB is None:
        yield None
        return
    with running_server() as server:
        yield server


def storage_of(kind: str, name: str, folder: Path, server: Server | None) -> BaseStorage:
    if kind == "journal":
        (folder / name).mkdir()
        return open_storage(None, RunFolder(folder / name))
    if kind == "SQLite":
        return open_data_base(f"sqlite:///{folder / name}.db")
    if server is None:
        pytest.skip("PostgreSQL is not installed (Debian's package postgresql)")
    server.sql(f'CREATE DATABASE "{name}"')
    return open_data_base(server.url(name))


def assert_tables_are_the_same(study: str, pool: WorkerPool | None, storage: BaseStorage) -> None:
    alone = search_of(STUDIES[study])
    alone.run()
    trainer = pool and TrainingOnWorkers(
        settings_of(STUDIES[study]), pool, plenty(), patience=Patience(600.0), on_message=lambda text: None
    )
    search = search_of(STUDIES[study], trainer, storage)
    search.run()
    assert_same(result_of(search), result_of(alone))


@pytest.mark.parametrize("kind", ["journal", "SQLite", "PostgreSQL"])
@pytest.mark.parametrize("n_workers", [0, 1, 2, 3, 4])
@pytest.mark.parametrize("study", STUDIES)
def test_workers_of_this_process(study: str, n_workers: int, kind: str, tmp_path: Path, server: Server | None) -> None:
    with connections_closed():
        storage = storage_of(kind, f"{study} {n_workers}".replace(" ", "_"), tmp_path, server)
        pool = InProcessPool(n_workers, {}) if n_workers else None
        assert_tables_are_the_same(study, pool, storage)


@pytest.mark.parametrize("kind", ["journal", "SQLite", "PostgreSQL"])
@pytest.mark.parametrize("n_workers", [1, 2, 3, 4])
@pytest.mark.parametrize("study", STUDIES)
def test_worker_processes(study: str, n_workers: int, kind: str, tmp_path: Path, server: Server | None) -> None:
    pool = LocalPool(["cpu"] * n_workers, 1)
    try:
        with connections_closed():
            storage = storage_of(kind, f"{study} on {n_workers}".replace(" ", "_"), tmp_path, server)
            assert_tables_are_the_same(study, pool, storage)
    finally:
        pool.close()
