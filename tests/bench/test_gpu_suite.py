"""The suite `gpu`, as far as a CPU can run it: what it compares and writes, and that it fails if a check fails."""

import json
from dataclasses import dataclass, field, replace
from pathlib import Path

import pytest
import torch
from typer.testing import CliRunner

from sweep.bench import gpu, gpu_checks
from sweep.bench.gpu_checks import Check, run_checks
from sweep.bench.graphed import GRAPHS, GraphedRow
from sweep.bench.rows import SweepRow
from sweep.bench.workload import LADDER_SIZES, Shape, Sizes
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


def test_checks_compare_the_same_lanes() -> None:
    said: list[str] = []
    checks = run_checks("cpu", said.append)
    assert {check.side_network for check in checks} == {"last", "ladder"}
    assert {check.what for check in checks} == {
        *("fp32 against a CPU", "the same run again", "2 lanes against the same ones among 5"),
        "with CUDA graphs against without",
    }
    assert all(check.value == 0 for check in checks), "on a CPU, all of these give the same bits"
    assert len(said) == len(checks)


def test_a_check_finds_lanes_that_depend_on_others(monkeypatch: pytest.MonkeyPatch) -> None:
    class Leaking(SweepRow):
        def step(self) -> None:
            super().step()
            with torch.no_grad():
                torch._foreach_add_(list(self.stack.params.values()), 1e-4 * (self.n_lanes - gpu_checks.FEW_LANES))

    monkeypatch.setattr(gpu_checks, "SweepRow", Leaking)
    broken = [check for check in run_checks("cpu", lambda line: None) if not check.kept]
    assert {check.what for check in broken} == {"2 lanes against the same ones among 5"}
    assert not Check("last", "", float("nan"), 1.0).kept


def test_graphs_that_cannot_be_recorded_are_a_broken_check_and_no_row(monkeypatch: pytest.MonkeyPatch) -> None:
    def fail(row: GraphedRow) -> None:
        raise RuntimeError("operation not permitted when stream is capturing")

    monkeypatch.setattr(GraphedRow, "step", fail)
    said: list[str] = []
    broken = [check for check in run_checks("cpu", said.append) if not check.kept]
    assert {check.what for check in broken} == {"with CUDA graphs against without"}
    assert GRAPHS not in {speed.row for speed in gpu._speeds("last", TINY, said.append)}
    assert "CUDA graphs cannot be measured: operation not permitted when stream is capturing" in said


def test_command_writes_one_file(tmp_path: Path) -> None:
    path = tmp_path / "gpu.json"
    result = CliRunner().invoke(app, ["bench", "--suite", "gpu", "--device", "cpu", "--json", str(path)])
    assert result.exit_code == 0, result.output
    content = json.loads(path.read_text())
    assert set(content) == {*("checks", "speeds", "not_timed", "scaling", "scaling_ended", "machine", "versions")}
    assert all(check["kept"] for check in content["checks"])
    assert {(speed["workload"], speed["row"]) for speed in content["speeds"]} == {
        (workload, row) for workload in ("last", "ladder") for row in (*gpu.TIMED, GRAPHS)
    }
    assert [scale["n_lanes"] for scale in content["scaling"]] == [2, 4]
    assert content["scaling_ended"] == "4 lanes are the most that are tried"


def test_command_fails_if_a_check_does(monkeypatch: pytest.MonkeyPatch) -> None:
    broken = Check("ladder", "the same run again", 0.5, 0.0)
    monkeypatch.setattr(gpu, "run_checks", lambda device, say: [broken])
    monkeypatch.setattr(gpu, "_speeds", lambda *args: [])
    result = CliRunner().invoke(app, ["bench", "--suite", "gpu", "--device", "cpu"])
    assert result.exit_code == 1
    assert "not kept: ladder, the same run again: 0.5, more than 0" in result.output


def test_speeds_that_are_late_leave_time_for_the_scaling(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(gpu, "run_checks", lambda device, say: [])
    late = gpu.run_gpu_benchmark(
        FewSizes(device="cpu", speeds_until_seconds=0.0, most_lanes=2), lambda benchmark: None, lambda line: None
    )
    assert (late.not_timed, late.speeds) == (["last", "ladder"], [])
    assert [scale.n_lanes for scale in late.scaling] == [2]


def test_memory_that_runs_out_ends_the_scaling_alone(monkeypatch: pytest.MonkeyPatch) -> None:
    def too_much(workload: object, n_lanes: int, device: torch.device) -> gpu.Scale:
        if n_lanes > 2:
            raise torch.OutOfMemoryError
        return gpu.Scale(n_lanes, 0.1, 0)

    monkeypatch.setattr(gpu, "_scaled", too_much)
    monkeypatch.setattr(gpu, "run_checks", lambda device, say: [])
    monkeypatch.setattr(gpu, "_speeds", lambda *args: [])
    benchmark = gpu.run_gpu_benchmark(FewSizes(device="cpu"), lambda benchmark: None, lambda line: None)
    assert [scale.n_lanes for scale in benchmark.scaling] == [2]
    assert benchmark.scaling_ended == "4 lanes do not fit in memory"
