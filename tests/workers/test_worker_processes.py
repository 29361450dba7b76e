"""Runs on worker processes give the same tables as runs without, whatever is killed, and leave no process behind."""

import contextlib
import io
import os
import random
import re
import signal
import subprocess
import sys
import threading
from dataclasses import replace
from itertools import count
from pathlib import Path
from typing import Any

import pytest
from rich.console import Console
from worker_runs import (
    STUDY,
    Watching,
    assert_same_tables,
    command,
    goes_on,
    linux_only,
    loaded,
    resumed,
    run,
    until_gone,
    until_it_trains,
)

from sweep import SweepError, load_results
from sweep.records.reporter import Reporter
from sweep.records.worker_log import read_worker_log
from sweep.report import tables
from sweep.report.watch import Watcher
from sweep.running.resume import resume_run
from sweep.running.runner import run_study
from sweep.study.finding import load_study
from sweep.terminal.lanes_view import heading, view
from sweep.workers import local_pool
from sweep.workers.local_pool import LocalPool
from sweep.workers.messages import WorkerLost
from sweep.workers.request import WorkersAsked
from sweep.workers.shares import Shares
from sweep.workers.training import MOST_LOSSES


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A study file, one with its own side-network, and a module beside them that both import."""
    folder = tmp_path_factory.mktemp("mine")
    (folder / "helper_of_mine.py").write_text("scale = 3.0\n")
    (folder / "mine.py").write_text(STUDY.replace("SIDE_NETWORK", '"last"'))
    (folder / "own.py").write_text(STUDY.replace("SIDE_NETWORK", "Pooled"))
    return folder


@pytest.fixture
def pools(monkeypatch: pytest.MonkeyPatch) -> list[LocalPool]:
    """The pools that runs create."""
    made: list[LocalPool] = []
    init = LocalPool.__init__

    def remembering(self: LocalPool, *args: Any) -> None:
        init(self, *args)
        made.append(self)

    monkeypatch.setattr(LocalPool, "__init__", remembering)
    return made


@pytest.fixture
def slow_worker(monkeypatch: pytest.MonkeyPatch) -> None:
    """Worker 1 counts as one with a processor that is half as fast."""
    divide = Shares._divide

    def unequal(self: Shares) -> None:
        if 1 in self.measured:
            speed = max(own.speed for own in self.measured.values()) / 2
            self.measured[1] = replace(self.measured[1], processor="slow", speed=speed)
        divide(self)

    monkeypatch.setattr(Shares, "_divide", unequal)


@linux_only
@pytest.mark.usefixtures("slow_worker")
def test_worker_processes_give_the_same_tables_even_if_one_is_killed(
    folder: Path, drawn_images: Path, pools: list[LocalPool]
) -> None:
    expected = run(folder, "mine.py", drawn_images, WorkersAsked(), Reporter())
    watching, seen = Watching(), []

    def kill(number: int) -> None:
        seen.extend(pools[0].process_ids)
        watching.views.append(Watcher(watching.folder, None).look())
        if number == 2:
            victim = pools[0].process_ids[-1]
            threading.Timer(0.02, os.kill, (victim, signal.SIGKILL)).start()  # in the middle of the next epoch

    watching.on_epoch = kill  # type: ignore[method-assign]
    results = run(folder, "mine.py", drawn_images, WorkersAsked(2), watching)
    assert_same_tables(results, expected)
    assert any(re.fullmatch(r"worker 1 has died; \d trials in training continue .*", m) for m in watching.messages)
    assert len(set(seen)) >= 2
    assert not any(goes_on(process_id) for process_id in seen)
    assert results.config["workers"] == 2
    log = read_worker_log(watching.folder)
    assert log is not None
    assert {0, 1} <= set(log.busy_seconds)
    assert 0 < max(log.busy_seconds.values()) <= log.training_seconds
    assert "worker 0 was occupied" in tables.cost(results, log)
    assert watching.views[0].trials[0].worker == 0
    assert {trial.worker for trial in watching.views[0].trials if trial.in_training} == {0, 1}
    assert re.search(r"lanes occupied on 2 workers \(\d on worker 0, \d on worker 1\)", heading(watching.views[0]))
    of_workers = [message for message in watching.messages if message.startswith("lanes: ")]
    assert re.fullmatch(
        r"lanes: 4 \(at most \d+ at a time\) on worker 0, 1 \(at most \d+ at a time\) on worker 1", of_workers[0]
    )
    shown = Console(width=120, file=io.StringIO())
    shown.print(view(watching.views[0], shown))
    assert re.search(r"worker +trial", shown.file.getvalue())  # type: ignore[attr-defined]
    assert (expected.trials["val_spread"] > 0).all()


@pytest.mark.slow
def test_a_side_network_of_the_studys_own_on_workers(folder: Path, drawn_images: Path) -> None:
    expected = run(folder, "own.py", drawn_images, WorkersAsked(), Reporter())
    assert_same_tables(run(folder, "own.py", drawn_images, WorkersAsked(2), Reporter()), expected)


def children(process_id: int) -> list[int]:
    """Return the ids of the processes that a process has started."""
    found = []
    for stat in Path("/proc").glob("[0-9]*/stat"):
        try:
            fields = stat.read_text().rpartition(")")[2].split()
        except OSError:
            continue
        if int(fields[1]) == process_id and fields[0] != "Z":
            found.append(int(stat.parent.name))
    return found


@linux_only
@pytest.mark.parametrize(
    ("number", "n_workers"), [(signal.SIGKILL, 0), pytest.param(signal.SIGINT, 1, marks=pytest.mark.slow)]
)
def test_a_killed_run_leaves_no_worker_and_can_be_resumed_with_another_number(
    folder: Path, drawn_images: Path, tmp_path: Path, number: signal.Signals, n_workers: int
) -> None:
    process = command(folder, drawn_images, tmp_path / "run", "--epochs", "20", "--workers", "2")
    until_it_trains(process, tmp_path / "run")
    workers = children(process.pid)
    assert len(workers) == 2
    process.send_signal(number)
    process.communicate(timeout=300)
    assert process.returncode == (130 if number == signal.SIGINT else -signal.SIGKILL)
    until_gone(workers, 60)
    study = load_study(str(folder / "mine.py"))
    where: dict[str, Any] = {"storage_url": None, "cache_dir": folder / "cache", "reporter": Reporter()}
    resume_run(tmp_path / "run", study, **where, n_workers=n_workers)
    quiet = loaded(folder, "mine.py", drawn_images, epochs=20)
    run_study(quiet, n_parallel=5, out=tmp_path / "quiet", device_name="cpu", **where)
    assert_same_tables(load_results(tmp_path / "run"), load_results(tmp_path / "quiet"))


def test_workers_that_cannot_start_give_one_clear_error(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(local_pool.sys, "executable", "/bin/false")
    pool = LocalPool(["cpu"], 1)
    with pytest.raises(SweepError, match=r"3 workers in a row ended before they were ready, .* exit code"):
        pool.welcome(60.0)
    pool.close()


HANGS = """#!PYTHON
import sys, time
from multiprocessing.connection import Connection

connection = Connection(int(sys.argv[4]))
connection.send_bytes(b"ready")
time.sleep(600)
"""


@linux_only
def test_a_worker_that_hangs_is_ended_and_replaced(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    program = tmp_path / "hangs"
    program.write_text(HANGS.replace("PYTHON", sys.executable))
    program.chmod(0o700)
    monkeypatch.setattr(local_pool.sys, "executable", str(program))
    pool = LocalPool(["cpu"], 1)
    try:
        assert pool.welcome(60.0) == [0]
        (process_id,) = pool.process_ids
        assert dict(pool.call({0: b"a call"}, 0.2)) == {0: WorkerLost("did not answer for 0.2 s and was ended")}
        assert not goes_on(process_id)
        assert (pool.ready, pool.n_starting) == ([], 1)
    finally:
        pool.close()


def ready_ids(pool: LocalPool) -> list[int]:
    """Processes of workers that can be called."""
    return [pool._processes[worker].popen.pid for worker in list(pool.ready) if worker in pool._processes]


@pytest.mark.slow
def test_fifty_kills(folder: Path, drawn_images: Path, pools: list[LocalPool]) -> None:
    """Workers are killed at random moments of several runs, each fifth time one that may be starting.

    A run ends if five workers in a row die with the same trial. On a slow machine an epoch takes longer than the time
    between two kills, so the next kill waits for the end of an epoch after three.
    """
    expected = run(folder, "mine.py", drawn_images, WorkersAsked(), Reporter())
    rng, n_kills, since_epoch = random.Random(0), 0, list[int]()
    watching = Watching()
    watching.on_epoch = lambda number: since_epoch.clear()  # type: ignore[method-assign]

    def kill_now_and_then(stop: threading.Event) -> None:
        nonlocal n_kills
        while not stop.wait(rng.uniform(0.5, 4.0)):
            if len(since_epoch) >= MOST_LOSSES - 2:
                continue
            if pools and (ids := pools[-1].process_ids if n_kills % 5 == 4 else ready_ids(pools[-1])):
                with contextlib.suppress(ProcessLookupError):  # it may have ended since
                    os.kill(rng.choice(ids), signal.SIGKILL)
                    n_kills += 1
                    since_epoch.append(n_kills)

    while n_kills < 50:
        stop = threading.Event()
        killer = threading.Thread(target=kill_now_and_then, args=(stop,))
        killer.start()
        try:
            since_epoch.clear()
            results = run(folder, "mine.py", drawn_images, WorkersAsked(rng.randint(1, 3)), watching)
        finally:
            stop.set()
            killer.join()
        pools.clear()
        assert_same_tables(results, expected)


@pytest.mark.slow
@linux_only
def test_twenty_kills_of_the_run(folder: Path, drawn_images: Path, tmp_path: Path) -> None:
    """The run is killed at random moments, and each time resumed with another number of workers."""
    study = loaded(folder, "mine.py", drawn_images, epochs=40)
    where: dict[str, Any] = {"storage_url": None, "cache_dir": folder / "cache", "reporter": Reporter()}
    run_study(study, n_parallel=5, out=tmp_path / "quiet", device_name="cpu", **where)
    rng, kills = random.Random(0), 0
    for number in count():
        out = tmp_path / f"run-{number}"
        process = command(folder, drawn_images, out, "--epochs", "40", "--workers", "2")
        while until_it_trains(process, out) and kills < 20:
            with contextlib.suppress(subprocess.TimeoutExpired):
                process.wait(rng.uniform(0.0, 2.0))
                break
            workers = children(process.pid)
            process.kill()
            process.communicate()
            kills += 1
            until_gone(workers, 60)
            process = resumed(folder, out, rng.randint(0, 3))
        process.communicate()
        assert process.returncode == 0
        assert_same_tables(load_results(out), load_results(tmp_path / "quiet"))
        if kills == 20:
            return
