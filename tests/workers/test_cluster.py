"""How a run connects to a cluster, and which workers it has there; on a stand-in for a cluster of several machines."""

import re
from collections import Counter
from functools import partial
from importlib.util import find_spec
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from ray_cluster import free_port
from worker_runs import Watching

from sweep import SweepError, UsageError
from sweep.running.trainers import Where, pool_of
from sweep.workers.cluster import Cluster, cannot_connect, connected
from sweep.workers.ray_pool import RayPool
from sweep.workers.ray_worker import about_process
from sweep.workers.request import WorkersAsked


@pytest.mark.skipif(find_spec("ray") is None, reason="the extra cluster is not installed")
def test_an_address_that_does_not_answer_gives_one_clear_error() -> None:
    nowhere = f"127.0.0.1:{free_port()}"
    with (
        pytest.raises(UsageError, match=f"nobody answers at --cluster {nowhere} .*ray start --head"),
        connected(WorkersAsked(1, nowhere), on_gpus=False),
    ):
        pass


@pytest.mark.parametrize(
    ("words", "remedy"),
    [
        (
            "Could not find any running Ray instance. Please specify the one to connect to by setting the `--address` "
            "flag or `RAY_ADDRESS` environment variable.",
            "no Ray cluster runs on this machine; start one with ray start --head .* --cluster HOST:6379",
        ),
        (
            "Found multiple active Ray instances: {'10.0.0.1:6380', '10.0.0.1:6379'}. Please specify the one to "
            "connect to by setting the `--address` flag or `RAY_ADDRESS` environment variable.",
            "name one of them with --cluster: 10.0.0.1:6379, 10.0.0.1:6380$",
        ),
        (
            "Proxy failed to Connect to backend! Check `ray_client_server.err` and `ray_client_server_23001.err` on "
            "the head node of the cluster for the relevant logs.",
            r"too busy: try again, .* ray_client_server\*\.err of its folder",
        ),
        ("Version mismatch: The cluster was started with Ray: 2.50", "Version mismatch: .* Look at it with ray status"),
    ],
)
def test_a_cluster_that_is_not_found_gives_the_right_remedy(words: str, remedy: str) -> None:
    message = str(cannot_connect("auto", ConnectionError(words)))
    assert re.search(remedy, message)
    assert "--cluster auto" in message
    assert "--address" not in message


def test_a_default_install_gets_one_line_that_says_what_to_install(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("sweep.workers.cluster.find_spec", lambda name: None)
    with (
        pytest.raises(
            UsageError, match=r'--cluster needs the package ray; install it: python -m pip install -e "\.\[clus'
        ),
        connected(WorkersAsked(1, "auto"), on_gpus=False),
    ):
        pass


class FakeRay:
    """A stand-in for a cluster of several machines.

    Args:
        nodes: The resources of each machine.
        about: What its workers report about themselves, if it differs from this process.
    """

    class exceptions:  # noqa: N801
        class RayError(Exception):
            pass

    def __init__(self, *nodes: dict[str, float], about: dict[str, Any] | None = None):
        self.all, self.about = nodes, about or {}
        self.asked: list[dict[str, Any]] = []  # what each actor needs

    def nodes(self) -> list[dict[str, Any]]:
        return [{"Alive": True, "Resources": node} for node in self.all] + [{"Alive": False, "Resources": {"CPU": 64}}]

    def remote(self, *_: object) -> Any:
        def answer() -> dict[str, Any]:
            return {**about_process("cpu"), "host": "elsewhere", "sees_cache": True, **self.about}

        actor = SimpleNamespace(about=SimpleNamespace(remote=lambda: partial(answer)))

        def options(**needs: Any) -> Any:
            return SimpleNamespace(remote=lambda *_: self.asked.append(needs) or actor)

        return SimpleNamespace(options=options)

    def cluster_resources(self) -> dict[str, float]:
        return dict(sum((Counter(node) for node in self.all), Counter[str]()))

    def kill(self, actor: Any) -> None:
        """Do nothing."""

    def wait(self, answers: list[Any], **_: object) -> tuple[list[Any], list[Any]]:
        return answers[:1], answers[1:]

    def get(self, answer: Any) -> Any:
        return answer()


def pool_on(ray: FakeRay, messages: list[str]) -> RayPool:
    return RayPool(Cluster(ray, WorkersAsked(2, "auto"), on_gpus=False), 1, messages.append, Path("/shared/.marker"))


def test_machines_that_differ_are_named() -> None:
    messages: list[str] = []
    pool = pool_on(FakeRay(about={"processor": "another kind"}), messages)
    assert pool.welcome(1.0) + pool.welcome(1.0) == [0, 1]
    (message,) = messages
    assert "worker 0 on elsewhere computes on another kind, and this process on" in message
    versions = {**about_process("cpu")["versions"], "torch": "1.0"}
    with pytest.raises(SweepError, match=r"elsewhere has torch 1.0, and this process has .* Install the same version"):
        pool_on(FakeRay(about={"versions": versions}), messages).welcome(1.0)
    messages.clear()
    pool = pool_on(FakeRay(about={"sees_cache": False, "cache_dir": "/local"}), messages)
    assert pool.welcome(1.0) + pool.welcome(1.0) == pool.apart == [0, 1]
    (message,) = messages
    assert "elsewhere does not see the cache folder /shared" in message
    assert "keeps them in /local" in message


def test_a_machine_that_joins_gets_a_worker() -> None:
    ray = FakeRay({"CPU": 2})
    pool = RayPool(Cluster(ray, WorkersAsked(0, "auto"), on_gpus=False), 2, [].append)
    assert pool.welcome(1.0) == [0]
    assert pool.welcome() == []
    ray.all = ({"CPU": 2}, {"CPU": 4})
    assert pool.welcome() + pool.welcome() == [1, 2]
    assert pool.ready == [0, 1, 2]


def test_a_cluster_that_goes_away_ends_the_run_with_one_error(monkeypatch: pytest.MonkeyPatch) -> None:
    def gone(*_: object, **options: object) -> Any:
        raise ConnectionError("the proxy has ended")

    pool = pool_on(FakeRay(), [])
    monkeypatch.setattr(FakeRay, "wait", gone)
    with pytest.raises(SweepError, match=r"the connection to the Ray cluster auto broke: .* with sweep resume"):
        pool.welcome(1.0)


@pytest.mark.parametrize(
    ("asked", "n_threads", "n_workers"), [(0, 4, 5), (1, 16, 1), (2, 8, 2), (5, 4, 5), (6, 3, 6), (99, 1, 99)]
)
def test_workers_share_the_cores_of_the_nodes(asked: int, n_threads: int, n_workers: int) -> None:
    cluster = Cluster(FakeRay({"CPU": 16}, {"CPU": 4}, {"memory": 1}), WorkersAsked(asked, "auto"), on_gpus=False)
    assert cluster.threads() == n_threads
    assert cluster.n_workers(n_threads) == n_workers


def test_every_gpu_of_the_nodes_gets_a_worker() -> None:
    nodes = FakeRay({"CPU": 16, "GPU": 4}, {"CPU": 64}, {"CPU": 6, "GPU": 2})
    cluster = Cluster(nodes, WorkersAsked(0, "auto"), on_gpus=True)
    assert (cluster.threads(), cluster.cpus_each(2), cluster.cpus_each(32), cluster.n_workers(3)) == (3, 2, 3, 6)


@pytest.mark.parametrize("n_gpus", [0, 2])
def test_gpus_that_are_not_used_are_named(n_gpus: int, tmp_path: Path) -> None:
    asked, watching = WorkersAsked(0, "auto"), Watching()
    cluster = Cluster(FakeRay({"CPU": 4, "GPU": n_gpus}), asked, on_gpus=False)
    with pool_of(torch.device("cpu"), tmp_path, watching, Where(asked, cluster, 4)):
        pass
    assert watching.messages[0] == f"workers: 1 on the cluster auto (4 CPUs and {n_gpus} GPUs), 4 threads each"
    notes = [message for message in watching.messages if "does not use the cluster's GPUs (2)" in message]
    assert len(notes) == len(watching.messages) - 1 == (n_gpus > 0)


@pytest.mark.parametrize(
    ("asked", "n_threads", "cpus"),
    [(0, 4, [4] * 5), (0, 16, [16]), (0, 32, [16]), (2, 32, [8] * 2), (99, 32, [1] * 99)],
)
def test_a_run_that_began_on_more_threads_than_the_nodes_have_cpus_finds_room(
    asked: int, n_threads: int, cpus: list[int]
) -> None:
    ray = FakeRay({"CPU": 16}, {"CPU": 4})
    pool = RayPool(Cluster(ray, WorkersAsked(asked, "auto"), on_gpus=False), n_threads, [].append)
    assert [needs["num_cpus"] for needs in ray.asked] == cpus
    assert pool.n_threads == n_threads
