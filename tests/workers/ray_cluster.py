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

    Its token is needed to use it. Ray reads the token when it is imported, so no module may import Ray earlier.
    """
    root, port, client_port = Path(__file__).parents[2], free_port(), free_port()
    own = {
        "PYTHONPATH": os.pathsep.join([str(root), str(root / "tests" / "workers")]),
        "RAY_AUTH_MODE": "token",
        "RAY_AUTH_TOKEN": secrets.token_hex(32),
        "RAY_USAGE_STATS_ENABLED": "0",
        "RAY_worker_niceness": "0",  # otherwise actors would wait for all other processes of a busy machine
        "RAY_gcs_server_request_timeout_seconds": "600",  # on a busy machine, Ray's own processes are slow to start
        "OMP_NUM_THREADS": "1",
    }
    # Sockets need short paths, so pytest's folder cannot be used.
    with pytest.MonkeyPatch.context() as patch, tempfile.TemporaryDirectory(prefix="ray") as short:
        for name, value in {**own, "RAY_TMPDIR": short}.items():
            patch.setenv(name, value)
        options = ["--head", "--block", "--num-cpus=2", "--object-store-memory=100000000", "--include-dashboard=false"]
        options += [f"--port={port}", f"--ray-client-server-port={client_port}", "--disable-usage-stats"]
        head = subprocess.Popen(
            [sys.executable, "-m", "ray.scripts.scripts", "start", *options],
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            start_new_session=True,
            env={**os.environ, "SWEEP_CACHE_DIR": f"{short}/cache"},
        )
        try:
            for waiting in (port, client_port):
                deadline = time.monotonic() + 600
                while not answers(waiting):
                    assert head.poll() is None, head.communicate()
                    assert time.monotonic() < deadline
                    time.sleep(0.1)
            addresses = {"within": f"127.0.0.1:{port}", "elsewhere": f"ray://127.0.0.1:{client_port}"}
            yield {**addresses, "cache": f"{short}/cache"}
        finally:
            has_ended = head.poll() is not None  # because Ray did not start; then its output has been read
            with suppress(ProcessLookupError):
                os.killpg(head.pid, signal.SIGKILL)
            if not has_ended:
                head.communicate()
