"""Runs on a real Ray cluster give the same tables as runs without it, even if an actor or the run is killed."""

import os
import signal
from collections.abc import Iterator
from functools import cache
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import pytest
from cache_apart import Apart
from in_process_pool import plenty
from ray_cluster import running_cluster
from small_passes import BATCH_SIZE, assert_same_entry, drawn_split, entry_of, on_workers
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

from backbones import load_backbone
from sweep import SweepError, UsageError, load_results
from sweep.features.cache import compute_features
from sweep.records.reporter import Reporter
from sweep.running.resume import resume_run
from sweep.running.runner import run_study
from sweep.study.finding import load_study
from sweep.workers.cluster import connected
from sweep.workers.messages import WorkerLost
from sweep.workers.packing import packed
from sweep.workers.patience import Patience
from sweep.workers.ray_pool import RayPool
from sweep.workers.request import WorkersAsked
from sweep.workers.training import TrainingOnWorkers

pytestmark = [linux_only, pytest.mark.skipif(find_spec("ray") is None, reason="the extra cluster is not installed")]


SLOW_PASSES = [("within", True), ("elsewhere", False)]


@pytest.fixture(scope="module")
def cluster() -> Iterator[dict[str, str]]:
    with running_cluster() as addresses:
        yield addresses


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


@pytest.mark.parametrize(
    ("address", "sees_cache"),
    [("within", False), *(pytest.param(*case, marks=pytest.mark.slow) for case in SLOW_PASSES)],
)
def test_actors_share_the_feature_pass_and_one_is_killed(
    cluster: dict[str, str], tmp_path: Path, address: str, sees_cache: bool
) -> None:
    split, messages, told = drawn_split(tmp_path / "images"), list[str](), list[int]()
    backbone = load_backbone("tiny-untrained", group_size=2, cache_dir=tmp_path)
    with connected(WorkersAsked(2, cluster[address]), on_gpus=False) as found:
        assert found is not None
        pool = RayPool(found, 1, messages.append, tmp_path / ("images/0.png" if sees_cache else "not there"))
        try:
            while pool.n_starting:
                assert pool.welcome(120.0)

            def kill(n_done: int, n_images: int) -> None:
                if not told:
                    os.kill(process_ids(pool)[0], signal.SIGKILL)
                told.append(n_done)

            passed = on_workers(pool, backbone, split, tmp_path / "together", messages, on_progress=kill)
            assert len(pool.apart) == (0 if sees_cache else len(pool.ready))
        finally:
            pool.close()
    alone = compute_features(backbone, split, cache_dir=tmp_path / "alone", batch_size=BATCH_SIZE)
    assert_same_entry(entry_of(tmp_path / "together", passed), entry_of(tmp_path / "alone", alone))
    assert sum("has died; its images are computed again" in message for message in messages) == 1


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
                settings_of(study), pool, plenty(), patience=Patience(120.0), on_message=messages.append
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


@pytest.mark.parametrize("address", ["within", pytest.param("elsewhere", marks=pytest.mark.slow)])
def test_ray_is_not_told_the_command_line(
    cluster: dict[str, str], address: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("sys.argv", ["sweep", "run", "--storage", "postgresql://me:correct-horse@host/trials"])
    with connected(WorkersAsked(1, cluster[address]), on_gpus=False) as found:
        assert found is not None
        from ray._raylet import GcsClient  # no module may import Ray before the cluster's token is set

        jobs = [job for job in GcsClient(address=cluster["within"]).get_all_job_info().values() if not job.is_dead]
        assert jobs
        assert not any("correct-horse" in str(job) for job in jobs)
        if address == "within":
            assert [job.entrypoint for job in jobs] == ["sweep"]


def test_auto_finds_no_cluster(cluster: dict[str, str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Ray finds clusters by a file and by their processes. Here, it sees neither."""
    monkeypatch.setenv("RAY_TMPDIR", str(tmp_path))
    monkeypatch.setattr("ray._private.services.find_gcs_addresses", cache(set[str]))
    with (
        pytest.raises(UsageError, match=r"--cluster auto: no Ray cluster runs on this machine; start one with ray st"),
        connected(WorkersAsked(1, "auto"), on_gpus=False),
    ):
        pass


@pytest.mark.slow
def test_auto_is_the_cluster_of_this_machine(cluster: dict[str, str], folder: Path, drawn_images: Path) -> None:
    expected = run(folder, "mine.py", drawn_images, WorkersAsked(), Reporter())
    results = run(folder, "mine.py", drawn_images, WorkersAsked(0, "auto"), Watching())
    assert_same_tables(results, expected)
    assert results.config["cluster"] == "auto"


def test_a_run_ends_in_time_if_its_actors_find_no_room(cluster: dict[str, str]) -> None:
    study, messages = STUDIES["lr and rank"], list[str]()
    with connected(WorkersAsked(1, cluster["within"]), on_gpus=False) as found:
        assert found is not None
        others = RayPool(found, 2, messages.append)  # has all CPUs
        pool = RayPool(found, 2, messages.append)
        trainer = TrainingOnWorkers(
            settings_of(study), pool, plenty(), patience=Patience(0.5), on_message=messages.append
        )
        try:
            with pytest.raises(SweepError, match=r"no worker was ready within 0.5 s, which --worker-timeout sets"):
                search_of(study, trainer).run()
        finally:
            pool.close()
            others.close()


@pytest.mark.slow
@pytest.mark.parametrize("number", [signal.SIGKILL, signal.SIGINT])
@pytest.mark.parametrize("address", ["within", "elsewhere"])
def test_a_killed_run_leaves_no_actor_and_can_be_resumed_without_the_cluster(
    cluster: dict[str, str], folder: Path, drawn_images: Path, tmp_path: Path, address: str, number: signal.Signals
) -> None:
    where = ["--epochs", "40", "--workers", "2", "--cluster", cluster[address]]
    process = command(folder, drawn_images, tmp_path / "run", *where)
    until_it_trains(process, tmp_path / "run")
    actors = [
        int(path.parent.name) for path in Path("/proc").glob("[0-9]*/cmdline") if b"ray::RayWorker" in _content(path)
    ]
    assert len(actors) == 2
    process.send_signal(number)
    process.communicate(timeout=300)
    assert process.returncode == (130 if number == signal.SIGINT else -signal.SIGKILL)
    until_gone(actors, 60 if address == "within" else 180)
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
