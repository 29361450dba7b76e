"""A real Ray cluster, which tests start on this machine."""

import os
import secrets
import signal
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

import pytest

TOKEN = secrets.token_hex(32)
"""Of all clusters that a process of pytest starts, because Ray reads the token once."""


def free_port() -> int:
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        return int(taken.getsockname()[1])


def answers(port: int) -> bool:
    with socket.socket() as attempt:
        return attempt.connect_ex(("127.0.0.1", port)) == 0


@contextmanager
def running_cluster() -> Iterator[dict[str, str]]:
    """Yield the addresses of a cluster of two CPUs, for use from within and from elsewhere, and its cache folder.

    `TOKEN` is needed to use it. Ray reads it when it is imported, so no module may import Ray earlier.
    """
    root, port, client_port = Path(__file__).parents[2], free_port(), free_port()
    own = {
        "PYTHONPATH": os.pathsep.join([str(root), str(root / "tests" / "workers")]),
        "RAY_AUTH_MODE": "token",
        "RAY_AUTH_TOKEN": TOKEN,
        "RAY_USAGE_STATS_ENABLED": "0",
        "RAY_worker_niceness": "0",  # otherwise actors would wait for all other processes of a busy machine
        # On a busy machine, Ray's own processes are slow to start.
        "RAY_gcs_server_request_timeout_seconds": "600",
        "RAY_CLIENT_SERVER_CHECK_CHANNEL_TIMEOUT_S": "600",
        "OMP_NUM_THREADS": "1",
    }
    # Sockets need short paths, so pytest's folder cannot be used.
    with pytest.MonkeyPatch.context() as patch, tempfile.TemporaryDirectory(prefix="ray") as short:
        for name, value in {**own, "RAY_TMPDIR": short}.items():
            patch.setenv(name, value)
        options = ["--head", "--include-dashboard=false", "--disable-usage-stats"]
        options += [f"--port={port}", f"--ray-client-server-port={client_port}"]
        with _node(options, f"{short}/cache") as head:
            for waiting in (port, client_port):
                deadline = time.monotonic() + 600
                while not answers(waiting):
                    assert head.poll() is None, head.communicate()
                    assert time.monotonic() < deadline
                    time.sleep(0.1)
            addresses = {"within": f"127.0.0.1:{port}", "elsewhere": f"ray://127.0.0.1:{client_port}"}
            yield {**addresses, "cache": f"{short}/cache"}


@contextmanager
def another_node(address: str, cache: Path) -> Iterator[None]:
    """Let a node of two CPUs with a cache folder of its own join a cluster on this machine, and leave it afterwards.

    Args:
        address: Address of the cluster, for use from within.
        cache: Cache folder of the node.
    """
    with _node([f"--address={address}"], str(cache)):
        yield


@contextmanager
def _node(options: list[str], cache: str) -> Iterator["subprocess.Popen[bytes]"]:
    """Start a node of two CPUs, and kill it afterwards, with its actors."""
    always = ["--block", "--num-cpus=2", "--object-store-memory=100000000"]
    with subprocess.Popen(
        [sys.executable, "-m", "ray.scripts.scripts", "start", *always, *options],
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        start_new_session=True,
        env={**os.environ, "SWEEP_CACHE_DIR": cache},
    ) as node:
        try:
            yield node
        finally:
            for process_id in _session(node.pid):
                with suppress(ProcessLookupError):
                    os.kill(process_id, signal.SIGKILL)


def _session(leader: int) -> list[int]:
    """The processes of a session. The actors of a node are in its session, and not in its process group."""
    found = list[int]()
    for stat in Path("/proc").glob("[0-9]*/stat"):
        with suppress(OSError):
            if int(stat.read_text().rpartition(")")[2].split()[3]) == leader:
                found.append(int(stat.parent.name))
    return found
