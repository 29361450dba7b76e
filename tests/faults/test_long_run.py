"""Two thousand short trials through 64 lanes, as in a run of a whole night."""

import subprocess
import sys
import time
from dataclasses import replace
from pathlib import Path

import pytest
from victim import STUDIES

from sweep.records.reporter import Reporter, SearchProgress
from sweep.running.runner import run_study
from sweep.study.finding import LoadedStudy

N_TRIALS, N_LANES = 2000, 64


def resident_bytes() -> int:
    """Return the resident memory of this process in bytes."""
    line = next(line for line in Path("/proc/self/status").read_text().splitlines() if line.startswith("VmRSS:"))
    return 1024 * int(line.split()[1])


class _Memory(Reporter):
    """Records memory against the number of trials that have ended."""

    def __init__(self) -> None:
        self.samples: list[tuple[int, int]] = []

    def epoch_ended(self, progress: SearchProgress) -> None:
        self.samples.append((progress.n_complete + progress.n_pruned + progress.n_failed, resident_bytes()))


@pytest.mark.slow
@pytest.mark.skipif(not Path("/proc/self/status").exists(), reason="memory is read from /proc")
def test_two_thousand_trials(tmp_path: Path, drawn_images: Path, capsys: pytest.CaptureFixture[str]) -> None:
    study = replace(STUDIES["rungs and refill"](str(drawn_images)), trials=N_TRIALS, epochs=3)
    memory, started = _Memory(), time.perf_counter()
    folder = run_study(
        LoadedStudy("long", Path("long.py"), study),
        n_parallel=N_LANES,
        out=tmp_path / "run",
        storage_url=None,
        device_name="cpu",
        cache_dir=tmp_path / "cache",
        reporter=memory,
    )
    wall_seconds = time.perf_counter() - started

    quarters = [next(used for ended, used in memory.samples if 4 * ended >= k * N_TRIALS) for k in (1, 2, 3)]
    quarters.append(memory.samples[-1][1])
    n_files = sum(path.is_file() for path in folder.path.rglob("*"))
    started = time.perf_counter()
    subprocess.run([sys.executable, "-m", "sweep", "results", str(folder.path)], check=True, capture_output=True)
    results_seconds = time.perf_counter() - started
    with capsys.disabled():
        print(
            f"{N_TRIALS} trials in {wall_seconds:.0f} s; memory after each quarter of them "
            f"{', '.join(f'{used / 2**20:.0f}' for used in quarters)} MiB; {n_files} files; "
            f"sweep results in {results_seconds:.1f} s"
        )
    assert quarters[-1] - quarters[0] < 100 * 2**20, "each trial adds its record and its curve, in sweep and in Optuna"
    assert n_files < 20
