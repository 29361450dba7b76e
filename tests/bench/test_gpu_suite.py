"""The suite `gpu`, as far as a CPU can run it: what it compares and writes, and that it fails if a check fails."""

import itertools
import json
import math
import time
from collections.abc import Iterator
from dataclasses import dataclass, field, replace
from pathlib import Path

import pytest
import torch
from typer.testing import CliRunner

from sweep.bench import gpu, gpu_checks, gpu_speeds
from sweep.bench.gpu_checks import NO_TIME, Check, run_checks
from sweep.bench.gpu_speeds import BF16, Speeds
from sweep.bench.graphed import GRAPHS, GraphedRow
from sweep.bench.rows import ROWS, SweepRow
from sweep.bench.workload import LADDER_SIZES, Shape, Sizes, Workload
from sweep.cli import app

TINY = Sizes(backbone="tiny-untrained", image_size=None, n_parallel=2, batch_size=8, rank=4)


@dataclass(frozen=True)
class FewSizes(gpu.GpuSizes):
    speeds: dict[str, Sizes] = field(
        default_factory=lambda: {"last": TINY, "ladder": replace(TINY, **{**LADDER_SIZES, "group_size": 2})}
    )
    scaled: Sizes = TINY
    most_lanes: int = 4


@pytest.fixture(autouse=True)
def small(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(gpu, "GpuSizes", FewSizes)
    monkeypatch.setattr(gpu_checks, "SHAPE", Shape(n_stages=3, tokens=17, width=32))
    monkeypatch.setattr(gpu_checks, "MANY_LANES", 5)


AMONG = "2 lanes against the same ones among 5"
GRAPHED = "with CUDA graphs against without"
TIMED = {"sequential", "sequential_cached", "vmap_direct", "sweep", "lora"}
ALWAYS = time.perf_counter() + 1e6


def silent(line: str) -> None:
    pass


def measured(**sizes: object) -> tuple[gpu.GpuBenchmark, list[int]]:
    """What the suite measures, and how many checks, speeds and numbers of lanes each file that it saves has."""
    saved: list[int] = []

    def save(benchmark: gpu.GpuBenchmark) -> None:
        saved.append(len(benchmark.checks) + len(benchmark.speeds) + len(benchmark.scaling))

    return gpu.run_gpu_benchmark(FewSizes(device="cpu", **sizes), save, silent), saved  # type: ignore[arg-type]


@pytest.fixture
def no_checks(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(gpu, "run_checks", lambda device, until: iter(()))


@pytest.fixture
def no_speeds(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(gpu, "speeds_of", lambda *arguments: Speeds())


def test_checks_compare_the_same_lanes() -> None:
    checks = list(run_checks("cpu"))
    assert {check.side_network for check in checks} == {"last", "ladder"}
    assert {check.what for check in checks} == {"fp32 against a CPU", "the same run again", AMONG, GRAPHED}
    assert all(check.value == 0 for check in checks), "on a CPU, all of these give the same bits"


def test_a_check_finds_lanes_that_depend_on_others(monkeypatch: pytest.MonkeyPatch) -> None:
    class Leaking(SweepRow):
        def step(self) -> None:
            super().step()
            with torch.no_grad():
                torch._foreach_add_(list(self.stack.params.values()), 1e-4 * (self.n_lanes - gpu_checks.FEW_LANES))

    monkeypatch.setattr(gpu_checks, "SweepRow", Leaking)
    broken = [check for check in run_checks("cpu") if not check.kept]
    assert {check.what for check in broken} == {AMONG}


def test_weights_that_are_not_numbers_are_a_broken_check(monkeypatch: pytest.MonkeyPatch) -> None:
    class Diverging(SweepRow):
        def step(self) -> None:
            super().step()
            with torch.no_grad():
                next(iter(self.stack.params.values()))[1] = math.nan

    monkeypatch.setattr(gpu_checks, "SweepRow", Diverging)
    found = {check.what: check for check in run_checks("cpu") if check.side_network == "last"}
    assert not found["the same run again"].kept
    assert found["the same run again"].value is None


def test_a_comparison_that_fails_does_not_end_the_suite(monkeypatch: pytest.MonkeyPatch, no_speeds: None) -> None:
    def fail(row: GraphedRow) -> None:
        raise RuntimeError("operation not permitted when stream is capturing\nand a long explanation")

    monkeypatch.setattr(GraphedRow, "step", fail)
    benchmark, saved = measured()
    assert saved[:9] == list(range(9)), "the file is saved after each of the eight comparisons"
    broken = [check for check in benchmark.checks if not check.kept]
    assert [(check.side_network, check.what, check.value) for check in broken] == [
        ("last", GRAPHED, None),
        ("ladder", GRAPHED, None),
    ]
    reason = "RuntimeError: operation not permitted when stream is capturing"
    assert {check.error for check in broken} == {reason}
    assert benchmark.complaints[0] == f"not kept: last, {GRAPHED}: {reason}, NOT within 0"
    assert [scale.n_lanes for scale in benchmark.scaling] == [2, 4]


def test_checks_without_time_are_named_and_not_kept() -> None:
    checks = list(run_checks("cpu", until=0.0))
    assert len(checks) == 8
    assert {(check.value, check.error, check.kept) for check in checks} == {(None, NO_TIME, False)}


def test_rows_that_fail_are_named_and_the_others_are_timed(monkeypatch: pytest.MonkeyPatch) -> None:
    def fail(row: object) -> None:
        raise torch.OutOfMemoryError("CUDA out of memory")

    monkeypatch.setattr(GraphedRow, "step", fail)
    monkeypatch.setitem(ROWS, "sequential", ("", fail))
    said: list[str] = []
    found = gpu_speeds.speeds_of("last", TINY, ALWAYS, said.append)
    reason = "OutOfMemoryError: CUDA out of memory"
    assert found.failed[f"last, {GRAPHS}"] == reason
    assert found.failed.keys() == {f"last, {GRAPHS}", "last, sequential"}
    assert {speed.row for speed in found.speeds} == TIMED - {"sequential"}
    assert all(speed.ratio_to_sequential is None for speed in found.speeds)
    assert f"last, {GRAPHS} failed: {reason}" in said


def test_a_workload_and_a_scaling_that_fail_do_not_end_the_others(
    monkeypatch: pytest.MonkeyPatch, no_checks: None, tmp_path: Path
) -> None:
    speeds_of = gpu_speeds.speeds_of

    def fail_once(name: str, *arguments: object) -> Speeds:
        if name == "last":
            raise ValueError("no such backbone")
        return speeds_of(name, *arguments)  # type: ignore[arg-type]

    def fail(workload: object, n_lanes: int, device: torch.device) -> gpu.Scale:
        raise RuntimeError("an illegal memory access was encountered")

    monkeypatch.setattr(gpu, "speeds_of", fail_once)
    monkeypatch.setattr(gpu, "_scaled", fail)
    path = tmp_path / "gpu.json"
    result = CliRunner().invoke(app, ["bench", "--suite", "gpu", "--device", "cpu", "--json", str(path)])
    assert result.exit_code == 1
    assert "failed: last: ValueError: no such backbone" in result.output
    content = json.loads(path.read_text())
    assert content["failed"] == {
        "last": "ValueError: no such backbone",
        "scaling": "RuntimeError: an illegal memory access was encountered",
    }
    assert {speed["workload"] for speed in content["speeds"]} == {"ladder"}


def test_command_writes_one_file(tmp_path: Path) -> None:
    path = tmp_path / "gpu.json"
    result = CliRunner().invoke(app, ["bench", "--suite", "gpu", "--device", "cpu", "--json", str(path)])
    assert result.exit_code == 0, result.output
    content = json.loads(path.read_text())
    assert set(content) == {
        *("checks", "speeds", "not_timed", "failed", "scaling", "scaling_ended", "machine", "versions")
    }
    assert all(check["kept"] for check in content["checks"])
    assert {(speed["workload"], speed["row"]) for speed in content["speeds"]} == {
        (workload, row) for workload in ("last", "ladder") for row in (*TIMED, GRAPHS)
    }
    assert [scale["n_lanes"] for scale in content["scaling"]] == [2, 4]
    assert content["scaling_ended"] == "4 lanes are the most that are tried"


def test_bf16_is_timed_on_a_gpu_only(monkeypatch: pytest.MonkeyPatch) -> None:
    workload = Workload.of_backbone(TINY)
    on_cpu = gpu_speeds._makers(workload)
    assert on_cpu.keys() == {*TIMED, GRAPHS}
    row = gpu_speeds._in_bf16(workload)
    assert isinstance(row, SweepRow)
    assert (row.workload.spec.precision, row.n_lanes) == ("bf16", TINY.n_parallel)
    monkeypatch.setattr(Workload, "device", torch.device("cuda"))
    assert gpu_speeds._makers(workload).keys() == on_cpu.keys() | {BF16}


def test_command_fails_if_a_check_does(monkeypatch: pytest.MonkeyPatch, no_speeds: None) -> None:
    def broken(device: str, until: float) -> Iterator[Check]:
        yield Check("ladder", "the same run again", 0.5, 0.0)

    monkeypatch.setattr(gpu, "run_checks", broken)
    result = CliRunner().invoke(app, ["bench", "--suite", "gpu", "--device", "cpu"])
    assert result.exit_code == 1
    assert "not kept: ladder, the same run again: 0.5, NOT within 0" in result.output


def test_speeds_that_are_late_leave_time_for_the_scaling(no_checks: None) -> None:
    late, _ = measured(speeds_until_seconds=0.0, most_lanes=2)
    assert (late.not_timed, late.speeds, late.complaints) == (["last", "ladder"], [], [])
    assert [scale.n_lanes for scale in late.scaling] == [2]


def test_rows_that_are_late_are_named(monkeypatch: pytest.MonkeyPatch) -> None:
    clock = itertools.count()
    monkeypatch.setattr(gpu_speeds.time, "perf_counter", lambda: next(clock))
    found = gpu_speeds.speeds_of("last", TINY, 1.0, silent)
    assert [speed.row for speed in found.speeds] == ["sequential", "sweep"], "the most important rows come first"
    assert found.not_timed == [f"last, {row}" for row in (GRAPHS, "sequential_cached", "vmap_direct", "lora")]


def test_memory_that_runs_out_ends_the_scaling_alone(
    monkeypatch: pytest.MonkeyPatch, no_checks: None, no_speeds: None
) -> None:
    def too_much(workload: object, n_lanes: int, device: torch.device) -> gpu.Scale:
        if n_lanes > 2:
            raise torch.OutOfMemoryError
        return gpu.Scale(n_lanes, 0.1, 0)

    monkeypatch.setattr(gpu, "_scaled", too_much)
    benchmark, _ = measured()
    assert [scale.n_lanes for scale in benchmark.scaling] == [2]
    assert (benchmark.scaling_ended, benchmark.failed) == ("4 lanes do not fit in memory", {})


def test_scaling_that_would_take_too_long_ends_before(no_checks: None, no_speeds: None) -> None:
    benchmark, _ = measured(scaling_seconds=0.0)
    assert [scale.n_lanes for scale in benchmark.scaling] == [2]
    assert benchmark.scaling_ended == "4 lanes would have taken longer than 0 s in all"
