"""A run that is killed again and again ends with the same tables as one that is not."""

import random
import shutil
import signal
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from optuna.study import get_all_study_names
from postgresql_server import connections_closed, needs_server, running_server
from victim import FAILED_HONESTLY, INTERRUPTED, STUDIES, Fault, Victim, assert_same, random_fault

from sweep import UsageError
from sweep.records.folder import RunFolder
from sweep.records.reporter import Reporter
from sweep.running.resume import resume_run
from sweep.search.optuna_storage import open_storage
from sweep.study.finding import LoadedStudy

KILLED_ALWAYS = "rungs and refill"
"""The study that is killed in every run of the tests; the others only with `-m slow`."""

N_WRITES = {
    "rungs and refill": 100,
    "several objectives and replicates": 110,
    "exhausted": 90,
    "many shapes": 190,
    "grid": 90,
}
"""Approximate number of flushes and renames of a run with a journal. Those of a data base itself are not counted."""

WALL_SECONDS, WALL_SECONDS_SQLITE, N_WRITES_SQLITE = 1.0, 2.0, 40


@pytest.fixture(scope="module")
def untouched(drawn_images: Path, tmp_path_factory: pytest.TempPathFactory) -> Callable[[str], dict[str, Any]]:
    """Return a function that gives the result of a study without any kill."""
    results: dict[str, dict[str, Any]] = {}

    def result(name: str) -> dict[str, Any]:
        if name not in results:
            run = Victim(tmp_path_factory.mktemp("untouched") / "victim", drawn_images, name)
            run.finish()
            results[name] = run.result()
        return results[name]

    return result


def kill_often(run: Victim, rng: random.Random, n_kills: int, early: float = 1.0) -> int:
    """Kill a run up to `n_kills` times, or until it has ended.

    Args:
        run: The run.
        rng: Chooses the instants.
        n_kills: Upper limit on the number of kills.
        early: Kills come within this share of the run's length.

    Returns:
        How often the run was killed before it had ended.
    """
    hits = 0
    wall_seconds = early * (WALL_SECONDS_SQLITE if run.storage else WALL_SECONDS)
    n_writes = round(early * (N_WRITES_SQLITE if run.storage else N_WRITES[run.name]))
    for _ in range(n_kills):
        code = run.go_on(random_fault(rng, wall_seconds, n_writes))
        assert code in (0, -signal.SIGKILL, INTERRUPTED), run.messages
        if code == 0:
            break
        hits += 1
    return hits


@pytest.mark.parametrize(
    ("name", "sqlite"),
    [
        (KILLED_ALWAYS, False),
        *(pytest.param(name, False, marks=pytest.mark.slow) for name in STUDIES if name != KILLED_ALWAYS),
        pytest.param(KILLED_ALWAYS, True, marks=pytest.mark.slow),
    ],
)
def test_killed_runs_end_as_if_not_killed(
    tmp_path: Path, drawn_images: Path, untouched: Callable[[str], dict[str, Any]], name: str, sqlite: bool
) -> None:
    n_kills, n_runs, rng = 0, 0, random.Random(f"{name} {sqlite}")
    while n_kills < 4:
        run = Victim(tmp_path / f"victim{n_runs}", drawn_images, name, sqlite=sqlite)
        n_kills += kill_often(run, rng, 4 - n_kills, early=0.5)
        run.finish()
        assert_same(run.result(), untouched(name))
        n_runs += 1


@pytest.mark.slow
@needs_server
def test_killed_runs_with_trials_in_postgresql_end_as_if_not_killed(
    tmp_path: Path, drawn_images: Path, untouched: Callable[[str], dict[str, Any]]
) -> None:
    n_kills, n_runs, rng = 0, 0, random.Random(0)
    with running_server() as server, connections_closed():
        while n_kills < 4:
            server.sql(f"CREATE DATABASE trials{n_runs}")
            run = Victim(tmp_path / f"victim{n_runs}", drawn_images, KILLED_ALWAYS)
            run.storage = server.url(f"trials{n_runs}")
            n_kills += kill_often(run, rng, 4 - n_kills, early=0.5)
            run.finish()
            assert_same(run.result(), untouched(KILLED_ALWAYS))
            n_runs += 1


@pytest.mark.slow
def test_hundreds_of_kills(
    tmp_path: Path, drawn_images: Path, untouched: Callable[[str], dict[str, Any]], capsys: pytest.CaptureFixture[str]
) -> None:
    n_kills, n_runs, rng = 0, 0, random.Random(0)
    while n_kills < 240:
        name = rng.choice(list(STUDIES))
        run = Victim(tmp_path / f"victim{n_runs}", drawn_images, name, sqlite=rng.random() < 0.2)
        n_kills += kill_often(run, rng, rng.randint(1, 8))
        run.finish()
        assert_same(run.result(), untouched(name))
        n_runs += 1
    with capsys.disabled():
        print(f"{n_kills} kills of {n_runs} runs")


def full_disk(run: Victim, number: int) -> bool:
    """Let the disk be full at write `number` of a run. Return whether the run got that far."""
    code = run.go_on(Fault(full_at_write=number))
    assert code in (0, FAILED_HONESTLY), run.messages
    if code == FAILED_HONESTLY:
        assert "No space left" in run.messages[-1]
    return code == FAILED_HONESTLY


@pytest.mark.parametrize("number", [1, *(pytest.param(n, marks=pytest.mark.slow) for n in (8, 30)), 70])
def test_full_disk_is_reported_as_such(
    tmp_path: Path, drawn_images: Path, untouched: Callable[[str], dict[str, Any]], number: int
) -> None:
    run = Victim(tmp_path / "victim", drawn_images, "grid")
    assert full_disk(run, number)
    run.finish()
    assert_same(run.result(), untouched("grid"))


@pytest.mark.slow
@pytest.mark.parametrize("first", [1, 2, 3])
def test_disk_full_at_every_write(
    tmp_path: Path,
    drawn_images: Path,
    untouched: Callable[[str], dict[str, Any]],
    first: int,
    capsys: pytest.CaptureFixture[str],
) -> None:
    """Test every third write, starting at the first, second or third.

    These are three tests that can run in parallel.
    """
    number = first
    while full_disk(run := Victim(tmp_path / f"victim{number}", drawn_images, "grid"), number):
        run.finish()
        assert_same(run.result(), untouched("grid"))
        number += 3
    with capsys.disabled():
        print(f"{(number - first) // 3} full disks")
    assert number > 60


@pytest.fixture(scope="module")
def killed_late(drawn_images: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The folder of a run that was killed when it had two snapshots."""
    run = Victim(tmp_path_factory.mktemp("killed") / "victim", drawn_images, "rungs and refill")
    assert run.go_on(Fault(at_write=100, snapshots_often=True)) == -signal.SIGKILL
    return run.out.parent


@pytest.mark.parametrize("damage", ["cut the newest", "flip a bit of the newest", "flip a bit of both", "remove both"])
def test_damaged_snapshots_do_not_change_the_result(
    tmp_path: Path,
    drawn_images: Path,
    untouched: Callable[[str], dict[str, Any]],
    killed_late: Path,
    damage: str,
) -> None:
    name = "rungs and refill"
    run = Victim(tmp_path / "victim", drawn_images, name)
    shutil.copytree(killed_late, run.out.parent, symlinks=True, dirs_exist_ok=True)
    snapshots = sorted((run.out / "snapshots").glob("snapshot-*"))
    assert len(snapshots) == 2
    for path in snapshots if "both" in damage else snapshots[-1:]:
        content = bytearray(path.read_bytes())
        content[len(content) // 2] ^= 1
        if "cut" in damage:
            content = content[: len(content) // 2]
        path.write_bytes(content)
        if "remove" in damage:
            path.unlink()
    with (run.out / "optuna.journal").open("a") as journal:
        journal.write('{"op_code": 8, "wor')  # an unfinished line, as after a power cut
    run.finish()
    told = [message for message in run.messages if "is damaged; continuing from the one before" in message]
    assert len(told) == {"cut the newest": 1, "flip a bit of the newest": 1, "flip a bit of both": 2}.get(damage, 0)
    assert_same(run.result(), untouched(name))


@pytest.mark.parametrize("sqlite", [False, pytest.param(True, marks=pytest.mark.slow)])
def test_storage_that_fails_on_tell(
    tmp_path: Path, drawn_images: Path, untouched: Callable[[str], dict[str, Any]], sqlite: bool
) -> None:
    name = "rungs and refill"
    run = Victim(tmp_path / "victim", drawn_images, name, sqlite=sqlite)
    for number in (1, 2):
        assert run.go_on(Fault(at_tell=number)) == FAILED_HONESTLY
        assert "the data base is gone" in run.messages[-1]
        assert "sweep resume" in run.messages[-1]
    run.finish()
    assert_same(run.result(), untouched(name))


def test_storage_that_hangs_and_a_second_process(
    tmp_path: Path, drawn_images: Path, untouched: Callable[[str], dict[str, Any]]
) -> None:
    name = "rungs and refill"
    run = Victim(tmp_path / "victim", drawn_images, name)
    process, receiver = run.start(Fault(at_tell=2, hangs=True))
    while not receiver.recv().startswith("plan"):
        pass
    study = LoadedStudy(name, Path("victim.py"), STUDIES[name](str(drawn_images)))
    with pytest.raises(UsageError, match="another process is working on"):
        resume_run(run.out, study, storage_url=None, cache_dir=tmp_path, reporter=Reporter())
    process.kill()
    process.join()
    run.finish()
    assert_same(run.result(), untouched(name))


def test_wall_clock_does_not_affect_the_result(
    tmp_path: Path, drawn_images: Path, untouched: Callable[[str], dict[str, Any]]
) -> None:
    run = Victim(tmp_path / "victim", drawn_images, "rungs and refill")
    assert run.go_on(Fault(at_write=55, clock_jumps=True)) == -signal.SIGKILL
    assert run.go_on(Fault(clock_jumps=True)) == 0, run.messages
    assert_same(run.result(), untouched("rungs and refill"))


@pytest.mark.parametrize("copied", [pytest.param(False, marks=pytest.mark.slow), True])
def test_a_killed_run_can_be_resumed_in_a_folder_of_another_name(
    tmp_path: Path, drawn_images: Path, untouched: Callable[[str], dict[str, Any]], copied: bool
) -> None:
    name = "rungs and refill"
    run = Victim(tmp_path / "victim", drawn_images, name)
    assert run.go_on(Fault(at_write=55, snapshots_often=True)) == -signal.SIGKILL
    begun, run.out = run.out, run.out.with_name("another")
    if copied:
        shutil.copytree(begun, run.out, symlinks=True)
    else:
        begun.rename(run.out)
    assert run.go_on(Fault(at_write=30, snapshots_often=True)) == -signal.SIGKILL
    run.finish()
    for out in (run.out, begun) if copied else (run.out,):
        run.out = out
        run.finish()  # both copies can be continued independently
        assert_same(run.result(), untouched(name))
        assert get_all_study_names(open_storage(None, RunFolder(out))) == ["run"]
