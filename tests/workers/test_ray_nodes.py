"""A Ray cluster that a second node joins, and leaves, while a run goes on. Both nodes are on this machine."""

import time
from collections.abc import Iterator
from contextlib import ExitStack
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import pytest
from cache_apart import Apart
from ray_cluster import another_node, running_cluster
from worker_runs import STUDY, Watching, assert_same_tables, linux_only, loaded, run

from sweep import load_results
from sweep.records.reporter import Reporter
from sweep.records.worker_log import read_worker_log
from sweep.running.resume import resume_run
from sweep.running.runner import run_study
from sweep.study.finding import load_study
from sweep.workers.request import WorkersAsked

pytestmark = [
    linux_only,
    pytest.mark.slow,
    pytest.mark.skipif(find_spec("ray") is None, reason="the extra cluster is not installed"),
]


class StoppedError(Exception):
    pass


@pytest.fixture
def cluster() -> Iterator[dict[str, str]]:
    with running_cluster() as addresses:
        yield addresses


@pytest.fixture
def apart(cluster: dict[str, str], monkeypatch: pytest.MonkeyPatch) -> Apart:
    return Apart(Path(cluster["cache"]), monkeypatch)


def test_a_second_node_joins_and_trains_and_is_lost_after_a_resume(
    cluster: dict[str, str], drawn_images: Path, apart: Apart, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The run is stopped some epochs after the second node has joined. Each node has a cache folder of its own.

    The second node is lost while the resumed run trains on both.
    """
    (tmp_path / "helper_of_mine.py").write_text("scale = 3.0\n")
    (tmp_path / "mine.py").write_text(STUDY.replace("SIDE_NETWORK", '"last"'))
    expected = run(tmp_path, "mine.py", drawn_images, WorkersAsked(), Reporter())
    monkeypatch.setattr("sweep.records.worker_log.SECONDS_BETWEEN_WRITES", 0.0)
    watching, resumed, until = Watching(), Watching(), time.monotonic() + 600
    options: dict[str, Any] = {"storage_url": None, "cache_dir": tmp_path / "cache"}
    with ExitStack() as nodes:

        def join_and_stop(number: int) -> None:
            (pool,) = apart.pools
            if number == 1:
                assert pool.ready == [0]
                nodes.enter_context(another_node(cluster["within"], tmp_path / "second"))
                while len(pool.cluster.resources()) < 2:
                    assert time.monotonic() < until
                    time.sleep(0.1)
            if number == 2 and pool.n_starting:
                assert pool._arrived(pool._starting, until)
            if number == 5:
                raise StoppedError

        def lose_node(number: int) -> None:
            if number == 2:
                assert_both_have_trained(watching)
                nodes.close()

        watching.on_epoch = join_and_stop  # type: ignore[method-assign]
        with pytest.raises(StoppedError):
            run_study(
                loaded(tmp_path, "mine.py", drawn_images),
                n_parallel=5,
                out=tmp_path / "run",
                device_name="cpu",
                workers=WorkersAsked(0, cluster["within"]),
                reporter=watching,
                **options,
            )
        assert "worker 1 takes part" in watching.messages
        assert_both_have_trained(watching)
        for cache in (apart.cache, tmp_path / "second"):
            apart.check_cache(cache, tmp_path / "cache")
        assert set(apart.received.values()) == {2}, "each node has received each part once"
        resumed.on_epoch = lose_node  # type: ignore[method-assign]
        study = load_study(str(tmp_path / "mine.py"))
        resume_run(tmp_path / "run", study, cluster=cluster["within"], reporter=resumed, **options)
    assert set(apart.received.values()) == {2}, "both nodes had the features already"
    assert any("trials in training continue on other workers" in message for message in resumed.messages)
    assert_same_tables(load_results(tmp_path / "run"), expected)


def assert_both_have_trained(watching: Watching) -> None:
    """Assert that the first two workers of the run's latest process have trained."""
    log = read_worker_log(watching.folder)
    assert log is not None
    assert min(log.busy_seconds[worker] for worker in (0, 1)) > 0
