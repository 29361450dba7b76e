"""A real PostgreSQL server, which tests start as an unprivileged user."""

import os
import pwd
import shutil
import subprocess
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest
from sqlalchemy import event
from sqlalchemy.pool import Pool

FOLDERS = sorted(Path("/usr/lib/postgresql").glob("*/bin"), reverse=True)
INITDB = shutil.which("initdb", path=os.pathsep.join([os.environ["PATH"], *map(str, FOLDERS)]))
needs_server = pytest.mark.skipif(INITDB is None, reason="PostgreSQL is not installed (Debian's package postgresql)")

PASSWORD = "correct-horse"


@contextmanager
def connections_closed() -> Iterator[None]:
    """Close connections that are still open at the end. An engine would keep them until the process ends."""
    connections: list[Any] = []

    def remember(connection: Any, record: object) -> None:
        connections.append(connection)

    event.listen(Pool, "connect", remember)
    try:
        yield
    finally:
        event.remove(Pool, "connect", remember)
        for connection in connections:
            connection.close()


class Server:
    """A server on a Unix socket.

    Attributes:
        folder: Folder of its data and its socket.
    """

    def __init__(self, folder: Path):
        self.folder = folder
        names = {user.pw_name for user in pwd.getpwall()}
        self._user: dict[str, Any] = {}
        if os.getuid() == 0:  # PostgreSQL refuses to run as root
            user = pwd.getpwnam("postgres" if "postgres" in names else "nobody")
            os.chown(folder, user.pw_uid, user.pw_gid)
            self._user = {"user": user.pw_uid, "group": user.pw_gid, "extra_groups": []}
        self._run("initdb", "--auth=trust", "--username=owner", "--no-sync")
        rules = (folder / "data" / "pg_hba.conf").read_text()
        (folder / "data" / "pg_hba.conf").write_text(f"local all locked scram-sha-256\n{rules}")
        self.start()
        self.sql(f"CREATE ROLE locked LOGIN PASSWORD '{PASSWORD}'")

    def _run(self, program: str, *arguments: str) -> None:
        path = Path(INITDB or "").with_name(program)
        subprocess.run(
            [path, "-D", str(self.folder / "data"), *arguments],
            check=True,
            cwd=self.folder,
            stdin=subprocess.DEVNULL,
            stdout=subprocess.DEVNULL,
            env={"PATH": os.environ["PATH"], "LC_ALL": "C.UTF-8"},
            **self._user,
        )

    def start(self) -> None:
        options = f"-c listen_addresses='' -c unix_socket_directories='{self.folder}' -c fsync=off"
        self._run("pg_ctl", "-w", "-l", str(self.folder / "log"), "-o", options, "start")

    def stop(self) -> None:
        self._run("pg_ctl", "-w", "-m", "fast", "stop")

    def url(self, data_base: str, user: str = "owner") -> str:
        return f"postgresql://{user}@/{data_base}?host={self.folder}"

    def sql(self, command: str) -> None:
        import psycopg

        with psycopg.connect(self.url("postgres"), autocommit=True) as connection:
            connection.execute(command)


@contextmanager
def running_server() -> Iterator[Server]:
    """Start a server, and stop it afterwards."""
    # a socket's path must be short, and other users must be able to enter the folder
    folder = Path(tempfile.mkdtemp(prefix="pg-"))
    server = Server(folder)
    try:
        yield server
    finally:
        server.stop()
        shutil.rmtree(folder)
