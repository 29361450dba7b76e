"""Runs on a real Ray cluster give the same tables as runs without it, even if an actor or the run is killed."""

import os
import secrets
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from functools import partial
from importlib.util import find_spec
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from small_searches import STUDIES, assert_same, result_of, search_of, settings_of
from worker_runs import (
    STUDY,
    Watching,
    assert_same_tables,
    command,
    linux_only,
    loaded,
    run,
    until_gone,
    until_it_trains,
)

from sweep import SweepError, UsageError, load_results
from sweep.features.stored_batches import DATA_FILE
from sweep.records.reporter import Reporter
from sweep.running.resume import resume_run
from sweep.running.runner import run_study
from sweep.study.finding import load_study
from sweep.workers.cluster import Cluster, connected
from sweep.workers.messages import WorkerLost
from sweep.workers.packing import packed, unpacked
from sweep.workers.patience import Patience
from sweep.workers.ray_pool import RayPool
from sweep.workers.ray_worker import about_process
from sweep.workers.request import WorkersAsked
from sweep.workers.training import TrainingOnWorkers

pytestmark = [linux_only, pytest.mark.skipif(find_spec("ray") is None, reason="the extra cluster is not installed")]


PART_BYTES = 30_000


def free_port() -> int:
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        return int(taken.getsockname()[1])


def answers(port: int) -> bool:
    with socket.socket() as attempt:
        return attempt.connect_ex(("127.0.0.1", port)) == 0


@pytest.fixture(scope="module")
def cluster() -> Iterator[dict[str, str]]:
    """The addresses of a cluster of two CPUs, for use from within and from elsewhere, and its cache folder.

    Its token is needed to use it. Ray reads the token when it is imported, so no module may import Ray earlier.
    """
    root, port, client_port = Path(__file__).parents[2], free_port(), free_port()
    own = {
        "PYTHONPATH": os.pathsep.join([str(root), str(root / "tests" / "workers")]),
        "RAY_AUTH_MODE": "token",
        "RAY_AUTH_TOKEN": secrets.token_hex(32),
        "RAY_USAGE_STATS_ENABLED": "0",
        "RAY_worker_niceness": "0",  # otherwise actors would wait for all other processes of a busy machine
        "OMP_NUM_THREADS": "1",
    }
    # Sockets need short paths, so pytest's folder cannot be used.
    with pytest.MonkeyPatch.context() as patch, tempfile.TemporaryDirectory(prefix="ray") as short:
        for name, value in own.items():
            patch.setenv(name, value)
        options = ["--head", "--block", "--num-cpus=2", "--object-store-memory=100000000", "--include-dashboard=false"]
        options += [f"--port={port}", f"--ray-client-server-port={client_port}", "--disable-usage-stats"]
        options += [f"--temp-dir={short}"]
        head = subprocess.Popen(
            [sys.executable, "-m", "ray.scripts.scripts", "start", *options],
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            start_new_session=True,
            env={**os.environ, "SWEEP_CACHE_DIR": f"{short}/cache"},
        )
        try:
            for waiting in (port, client_port):
                deadline = time.monotonic() + 120
                while not answers(waiting):
                    assert head.poll() is None, head.communicate()
                    assert time.monotonic() < deadline
                    time.sleep(0.1)
            addresses = {"within": f"127.0.0.1:{port}", "elsewhere": f"ray://127.0.0.1:{client_port}"}
            yield {**addresses, "cache": f"{short}/cache"}
        finally:
            os.killpg(head.pid, signal.SIGKILL)
            head.communicate()


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A study file, and a module beside it that it imports."""
    folder = tmp_path_factory.mktemp("mine")
    (folder / "helper_of_mine.py").write_text("scale = 3.0\n")
    (folder / "mine.py").write_text(STUDY.replace("SIDE_NETWORK", '"last"'))
    return folder


@pytest.fixture
def pools(monkeypatch: pytest.MonkeyPatch) -> list[RayPool]:
    """The pools that runs create."""
    made: list[RayPool] = []
    init = RayPool.__init__

    def remembering(self: RayPool, *args: Any) -> None:
        init(self, *args)
        made.append(self)

    monkeypatch.setattr(RayPool, "__init__", remembering)
    return made


def process_ids(pool: RayPool) -> list[int]:
    return [about["process_id"] for about in pool.about.values()]


class Apart:
    """Lets actors not see the cache folder of the run, and counts what they receive. All have one cache folder.

    Attributes:
        received: How often each part was received, by its hash.
        killed_at: Number of the part whose receiver is killed when it has it; 0 for none.
    """

    def __init__(self, cache: Path, patch: pytest.MonkeyPatch):
        self.cache, self.received, self.killed_at = cache, Counter[int](), 0
        self._call = RayPool.call
        patch.setattr("sweep.running.trainers.marker_file", self.unseen)
        patch.setattr("sweep.features.copying.PART_BYTES", PART_BYTES)

        def call(pool: RayPool, calls: Mapping[int, bytes], timeout_seconds: float) -> Iterator[tuple[int, Any]]:
            return self.call(pool, calls, timeout_seconds)

        patch.setattr(RayPool, "call", call)
        shutil.rmtree(cache, ignore_errors=True)

    @staticmethod
    @contextmanager
    def unseen(cache: Path) -> Iterator[Path]:
        yield cache / "not there"

    def call(self, pool: RayPool, calls: Mapping[int, bytes], timeout_seconds: float) -> Iterator[tuple[int, Any]]:
        parts = {worker: hash(call) for worker, call in calls.items() if unpacked(call)[0] == "take_features"}
        for worker, answer in self._call(pool, calls, timeout_seconds):
            if worker in parts and not isinstance(answer, WorkerLost):
                self.received[parts[worker]] += 1
                if self.received.total() == self.killed_at:
                    os.kill(pool.about[worker]["process_id"], signal.SIGKILL)
            yield worker, answer

    def check(self, source: Path) -> None:
        """Assert that training and validation set were received once, and are complete."""
        entries = [path for path in (self.cache / "features").iterdir() if path.is_dir()]
        assert len(entries) == 2, "the test set is not sent"
        contents = [(path / DATA_FILE).read_bytes() for path in entries]
        assert contents == [(source / "features" / path.name / DATA_FILE).read_bytes() for path in entries]
        assert set(self.received.values()) == {1}
        assert len(self.received) == sum(-(-len(content) // PART_BYTES) for content in contents) > 2


@pytest.fixture
def apart(cluster: dict[str, str], monkeypatch: pytest.MonkeyPatch) -> Apart:
    return Apart(Path(cluster["cache"]), monkeypatch)


@pytest.mark.parametrize("sees_cache", [False, pytest.param(True, marks=pytest.mark.slow)])
def test_actors_give_the_same_tables_even_if_one_is_killed(
    cluster: dict[str, str],
    folder: Path,
    drawn_images: Path,
    pools: list[RayPool],
    capfd: pytest.CaptureFixture[str],
    request: pytest.FixtureRequest,
    sees_cache: bool,
) -> None:
    apart: Apart | None = None if sees_cache else request.getfixturevalue("apart")
    expected = run(folder, "mine.py", drawn_images, WorkersAsked(), Reporter())
    capfd.readouterr()
    watching, seen = Watching(), set()

    def kill(number: int) -> None:
        seen.update(process_ids(pools[0]))
        if number == 2:
            os.kill(process_ids(pools[0])[-1], signal.SIGKILL)

    watching.on_epoch = kill  # type: ignore[method-assign]
    results = run(folder, "mine.py", drawn_images, WorkersAsked(2, cluster["within"]), watching)
    assert_same_tables(results, expected)
    assert any("trials in training continue on other workers" in message for message in watching.messages)
    assert sum("does not see the cache folder" in message for message in watching.messages) == (not sees_cache)
    if apart is not None:
        apart.check(folder / "cache")
    assert len(seen) >= 2
    until_gone(list(seen), 30)
    assert results.config["cluster"] == cluster["within"]
    assert results.config["workers"] == 0
    printed = capfd.readouterr()
    assert "raylet" not in printed.out + printed.err


@pytest.mark.slow
@pytest.mark.parametrize(("address", "killed_at"), [("within", 1), ("elsewhere", 0)])
def test_an_actor_that_is_killed_while_it_receives_features_leaves_nothing_half(
    cluster: dict[str, str],
    folder: Path,
    drawn_images: Path,
    pools: list[RayPool],
    apart: Apart,
    address: str,
    killed_at: int,
) -> None:
    expected = run(folder, "mine.py", drawn_images, WorkersAsked(), Reporter())
    watching, apart.killed_at = Watching(), killed_at
    results = run(folder, "mine.py", drawn_images, WorkersAsked(2, cluster[address]), watching)
    assert_same_tables(results, expected)
    assert any("trials in training continue on other workers" in text for text in watching.messages) == bool(killed_at)
    apart.check(folder / "cache")


@pytest.mark.slow
@pytest.mark.parametrize("address", ["within", "elsewhere"])
def test_a_search_on_an_actor_which_is_ended_when_it_hangs(cluster: dict[str, str], address: str) -> None:
    study, messages = STUDIES["two shapes"], list[str]()
    with connected(WorkersAsked(1, cluster[address]), on_gpus=False) as found:
        assert found is not None
        assert found.threads() == 2
        pool = RayPool(found, 1, messages.append)
        try:
            trainer = TrainingOnWorkers(
                settings_of(study), pool, resident_bytes=0, patience=Patience(120.0), on_message=messages.append
            )
            search = search_of(study, trainer)
            search.run()
            (worker,) = pool.ready
            (process_id,) = process_ids(pool)
            os.kill(process_id, signal.SIGSTOP)
            lost = dict(pool.call({worker: packed(("states", ([],)))}, 1.0))
            assert lost == {worker: WorkerLost("did not answer for 1 s and was ended")}
            until_gone([process_id], 30)
            assert (pool.ready, pool.n_starting) == ([], 1)
        finally:
            pool.close()
    alone = search_of(study)
    alone.run()
    assert_same(result_of(search), result_of(alone))
    assert messages == []


def test_a_run_ends_in_time_if_its_actors_find_no_room(cluster: dict[str, str]) -> None:
    study, messages = STUDIES["lr and rank"], list[str]()
    with connected(WorkersAsked(1, cluster["within"]), on_gpus=False) as found:
        assert found is not None
        pool = RayPool(found, 64, messages.append)
        trainer = TrainingOnWorkers(
            settings_of(study), pool, resident_bytes=0, patience=Patience(0.5), on_message=messages.append
        )
        try:
            with pytest.raises(SweepError, match=r"no worker was ready within 0.5 s, which --worker-timeout sets"):
                search_of(study, trainer).run()
        finally:
            pool.close()


@pytest.mark.slow
@pytest.mark.parametrize("number", [signal.SIGKILL, signal.SIGINT])
def test_a_killed_run_leaves_no_actor_and_can_be_resumed_without_the_cluster(
    cluster: dict[str, str], folder: Path, drawn_images: Path, tmp_path: Path, number: signal.Signals
) -> None:
    where = ["--epochs", "40", "--workers", "2", "--cluster", cluster["within"]]
    process = command(folder, drawn_images, tmp_path / "run", *where)
    until_it_trains(process, tmp_path / "run")
    actors = [
        int(path.parent.name) for path in Path("/proc").glob("[0-9]*/cmdline") if b"ray::RayWorker" in _content(path)
    ]
    assert len(actors) == 2
    process.send_signal(number)
    process.communicate(timeout=300)
    assert process.returncode == (130 if number == signal.SIGINT else -signal.SIGKILL)
    until_gone(actors, 60)
    options: dict[str, Any] = {"storage_url": None, "cache_dir": folder / "cache", "reporter": Watching()}
    resume_run(tmp_path / "run", load_study(str(folder / "mine.py")), **options)
    assert any("began on a cluster" in message for message in options["reporter"].messages)
    quiet = loaded(folder, "mine.py", drawn_images, epochs=40)
    run_study(quiet, n_parallel=5, out=tmp_path / "quiet", device_name="cpu", **options)
    assert_same_tables(load_results(tmp_path / "run"), load_results(tmp_path / "quiet"))


def _content(path: Path) -> bytes:
    try:
        return path.read_bytes()
    except OSError:
        return b""


def test_an_address_that_does_not_answer_gives_one_clear_error() -> None:
    nowhere = f"127.0.0.1:{free_port()}"
    with (
        pytest.raises(UsageError, match=f"nobody answers at --cluster {nowhere} .*ray start --head"),
        connected(WorkersAsked(1, nowhere), on_gpus=False),
    ):
        pass


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

    def nodes(self) -> list[dict[str, Any]]:
        return [{"Alive": True, "Resources": node} for node in self.all] + [{"Alive": False, "Resources": {"CPU": 64}}]

    def remote(self, *_: object) -> Any:
        def answer() -> dict[str, Any]:
            return {**about_process("cpu"), "host": "elsewhere", "sees_cache": True, **self.about}

        actor = SimpleNamespace(about=SimpleNamespace(remote=lambda: partial(answer)))
        return SimpleNamespace(options=lambda **_: SimpleNamespace(remote=lambda *_: actor))

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
    assert (cluster.threads(), cluster.n_workers(3)) == (3, 6)
