"""A Ray cluster that exists: how to connect to it, and how many workers it has room for."""

import os
import re
import secrets
import signal
import socket
import threading
import warnings
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from importlib.util import find_spec
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

from sweep.errors import UsageError
from sweep.workers.request import WorkersAsked

REACHABLE_SECONDS = 10.0
"""Time to open a connection to the cluster. Ray itself would try for two minutes."""


class Cluster:
    """A Ray cluster that this process is connected to.

    Args:
        asked: The workers that the user asks for.
        on_gpus: Whether a worker has a GPU.

    Attributes:
        ray: The module.
    """

    def __init__(self, ray: Any, asked: WorkersAsked, *, on_gpus: bool):
        self.ray, self.asked, self.on_gpus = ray, asked, on_gpus

    def resources(self) -> list[Mapping[str, float]]:
        """What each of the nodes has that are alive and can have a worker."""
        kind = "GPU" if self.on_gpus else "CPU"
        alive = [node["Resources"] for node in self.ray.nodes() if node["Alive"]]
        return [resources for resources in alive if resources.get(kind, 0) >= 1]

    def threads(self) -> int:
        """Threads of each worker of a new run, so that all workers find room on the nodes that there are now."""
        nodes = self.resources()
        cpus = [int(node.get("CPU", 0)) for node in nodes]
        if self.on_gpus:
            return max(1, min([int(node.get("CPU", 0) // node["GPU"]) for node in nodes], default=1))
        if not self.asked.number:
            return min(cpus, default=1)
        fitting = (n for n in range(max(cpus, default=1), 0, -1) if _slots(cpus, n) >= self.asked.number)
        return next(fitting, 1)

    def cpus_each(self, n_threads: int) -> int:
        """CPUs that Ray keeps for each worker: one for each thread, but no more than the nodes have.

        A resumed run has as many threads as before, also if a node has fewer CPUs. They share the CPUs then.

        Args:
            n_threads: Threads of each worker.
        """
        if self.on_gpus or self.asked.number:
            return min(n_threads, self.threads())
        return min(n_threads, max((int(node["CPU"]) for node in self.resources()), default=n_threads))

    def n_workers(self, cpus_each: int) -> int:
        """Workers to have now: as many as were asked for, else as many as the nodes have room for, at least one.

        Args:
            cpus_each: See `cpus_each`.
        """
        if self.asked.number:
            return self.asked.number
        nodes = self.resources()
        if self.on_gpus:
            return max(1, sum(int(node["GPU"]) for node in nodes))
        return max(1, _slots([int(node["CPU"]) for node in nodes], cpus_each))

    def unused_gpus(self) -> int:
        """Number of GPUs that the cluster has and the run does not use."""
        return 0 if self.on_gpus else int(self.ray.cluster_resources().get("GPU", 0))

    def room(self) -> str:
        """What the cluster has, in words."""
        all_of_it = self.ray.cluster_resources()
        return f"{all_of_it.get('CPU', 0):.0f} CPUs and {all_of_it.get('GPU', 0):.0f} GPUs"


def _slots(cpus: Sequence[int], cpus_each: int) -> int:
    return sum(count // cpus_each for count in cpus)


@contextmanager
def connected(asked: WorkersAsked, *, on_gpus: bool) -> Iterator[Cluster | None]:
    """Yield the cluster that was asked for, if one was; and leave it afterwards.

    Raises:
        UsageError: Ray is not installed, or there is no cluster at this address.
    """
    asked.check()
    if asked.cluster is None:
        yield None
        return
    if find_spec("ray") is None:
        raise UsageError('--cluster needs the package ray; install it: python -m pip install -e ".[cluster]"')
    os.environ.setdefault("RAY_USAGE_STATS_ENABLED", "0")
    os.environ.setdefault("RAY_ACCEL_ENV_VAR_OVERRIDE_ON_ZERO", "0")  # else it prints advice
    _require_reachable(asked.cluster)
    import ray

    was_connected = ray.is_initialized()
    if not was_connected:
        _connect(ray, asked.cluster)
    try:
        yield Cluster(ray, asked, on_gpus=on_gpus)
    finally:
        if not was_connected:
            ray.shutdown()


@contextmanager
def marker_file(folder: Path) -> Iterator[Path]:
    """Yield a file that only machines see that share a folder with this one, and remove it afterwards."""
    folder.mkdir(parents=True, exist_ok=True)
    marker = folder.absolute() / f".shared-{secrets.token_hex(8)}"
    marker.touch()
    try:
        yield marker
    finally:
        marker.unlink(missing_ok=True)


def _connect(ray: Any, address: str) -> None:
    """Connect this process to a cluster, without Ray's messages.

    The command line, which may have the password of a data base, is not given to Ray. It would show it to all users.

    Raises:
        UsageError: With Ray's reason why it is not possible.
    """
    import ray._private.utils
    import ray._private.worker

    ray._private.utils.get_entrypoint_name = lambda: "sweep"
    # Ray prints the death of an actor to standard output, where the results belong. The run tells it itself.
    if hasattr(ray._private.worker, "listen_error_messages"):
        ray._private.worker.listen_error_messages = lambda worker, stopped: None
    main = threading.current_thread() is threading.main_thread()
    before = signal.getsignal(signal.SIGTERM) if main else None
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            ray.init(address=address, log_to_driver=False, logging_level="error", namespace=f"sweep-{os.getpid()}")
    except (Exception, SystemExit) as error:
        raise cannot_connect(address, error) from error
    finally:
        if before is not None:
            signal.signal(signal.SIGTERM, before)


def cannot_connect(address: str, error: BaseException) -> UsageError:
    """The error of a cluster to which Ray cannot connect, with what to do."""
    if "find any running Ray instance" in str(error):
        return UsageError(
            f"--cluster {address}: no Ray cluster runs on this machine; start one with ray start --head "
            f"--disable-usage-stats --include-dashboard=false, or give the address of one that runs elsewhere: "
            f"--cluster HOST:6379, or --cluster ray://HOST:10001"
        )
    if "multiple active Ray instances" in str(error):
        addresses = ", ".join(sorted(re.findall(r"[\w.\[\]:-]+:\d+", str(error))))
        return UsageError(
            f"--cluster {address}: several Ray clusters run on this machine; name one of them with --cluster: "
            f"{addresses}"
        )
    if "Proxy failed to Connect to backend" in str(error):
        return UsageError(
            f"--cluster {address}: the head of the Ray cluster did not start a process for this run in time. It may be "
            f"too busy: try again, start it with RAY_CLIENT_SERVER_CHECK_CHANNEL_TIMEOUT_S=300 (seconds) in its "
            f"environment, or use --cluster HOST:6379 within its network. The reason may also be in the files "
            f"ray_client_server*.err of its folder /tmp/ray/session_latest/logs"
        )
    return UsageError(
        f"cannot connect to the Ray cluster --cluster {address}: {reason_of(error)}. Look at it with ray status; "
        f"its versions of Python and Ray must be those of this process"
    )


def _require_reachable(address: str) -> None:
    """Raise `UsageError` if nobody listens at an address."""
    if address == "auto":
        return
    parts = urlsplit(address if "//" in address else f"//{address}")
    try:
        socket.create_connection((parts.hostname, parts.port), REACHABLE_SECONDS).close()
    except (OSError, ValueError) as error:
        raise UsageError(
            f"nobody answers at --cluster {address} ({error}); start a cluster with ray start --head, or correct the "
            f"address"
        ) from error


def reason_of(error: BaseException) -> str:
    """The line of Ray's message that says what went wrong: the last one with an exception."""
    lines = [line.strip() for line in str(error).splitlines() if line.strip()]
    named = [line for line in lines if "Error: " in line]
    return (named or lines or [type(error).__name__])[-1].rstrip(".")
