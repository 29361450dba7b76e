"""What `sweep bench` claims: rows train the same weights, FLOPs and memory are counted right, JSON keys are stable."""

import importlib.metadata
import json
import time
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from torch import Tensor
from torch.utils.flop_counter import FlopCounterMode
from typer.testing import CliRunner

from sweep.bench import rows as rows_module
from sweep.bench.flops import last_step_flops, step_flops
from sweep.bench.measure import Spread
from sweep.bench.memory import peak_memory_bytes
from sweep.bench.profile import profile_step
from sweep.bench.report import write_plot
from sweep.bench.rows import SweepInParts, SweepRow
from sweep.bench.same_weights import LARGEST_DIFFERENCE, weight_difference
from sweep.bench.scaling import Point, memory_of_further_lanes
from sweep.bench.workload import Shape, Sizes, Workload
from sweep.cli import app
from sweep.errors import SweepError, UsageError
from sweep.side_networks.cpu.attention import MAX_UNROLLED_RANK
from sweep.side_networks.cpu.stream_trunk import FEWEST_RANKS

SIZES = Sizes(backbone="tiny-untrained", image_size=None, n_parallel=2, batch_size=8, rank=4)
SHAPE = Shape(n_stages=4, tokens=17, width=32)


@pytest.fixture(scope="module")
def workload() -> Workload:
    return Workload.of_backbone(SIZES)


def test_rows_train_the_same_weights(workload: Workload) -> None:
    assert weight_difference(workload) < LARGEST_DIFFERENCE


def test_a_row_that_trains_something_else_is_found(workload: Workload, monkeypatch: pytest.MonkeyPatch) -> None:
    class Forgetful(SweepRow):
        def step(self) -> None:
            super().step()
            self.optimizers.step({name: torch.zeros_like(p) for name, p in self.stack.params.items()}, self.factor)

    what, _ = rows_module.ROWS["sweep"]
    monkeypatch.setitem(rows_module.ROWS, "sweep", (what, Forgetful))
    assert weight_difference(workload) > LARGEST_DIFFERENCE


def test_useful_flops_are_those_of_the_direct_form() -> None:
    workload = Workload.of_random_features(SIZES, SHAPE)
    module = workload.spec.plain(SIZES.rank)
    stages, labels = workload.features.batch(torch.arange(SIZES.batch_size), next(module.parameters()))

    def loss() -> Tensor:
        return torch.nn.functional.cross_entropy(module(stages), labels)

    with FlopCounterMode(display=False) as counter:
        loss().backward()
    B, L, r = SIZES.batch_size, SHAPE.tokens, SIZES.rank
    # the kernel computes these again in the backward pass, which is not useful work
    recomputed_scores = 3 * 2 * B * L * L * r
    counted = counter.get_total_flops() - recomputed_scores
    assert last_step_flops(workload) == pytest.approx(counted, rel=1e-6)


def test_rows_of_a_ladder_train_the_same_weights_beside_last() -> None:
    sizes = replace(SIZES, rank=8, group_size=2, side_network="ladder")
    workload = Workload.of_backbone(sizes)
    assert weight_difference(workload) <= LARGEST_DIFFERENCE
    assert {"last", "sweep", "sequential"} <= set(rows_module.names_of_rows(workload))
    row = SweepRow(workload.of_last, 2)
    assert row.workload.spec.family == "last"
    assert row.workload.spec.n_modules == sizes.group_size * (workload.shape.n_stages - 1)
    assert step_flops(workload) < last_step_flops(row.workload)
    assert profile_step(SweepInParts(workload, 2)) == []


def test_profile_is_of_the_whole_step() -> None:
    sizes = replace(SIZES, batch_size=32, n_parallel=8)
    row = SweepInParts(Workload.of_random_features(sizes, Shape(5, 65, 64)), 8)
    row.step()
    started = time.perf_counter()
    parts = profile_step(row)
    waited = (time.perf_counter() - started) / row.n_lanes
    seconds = {part.name: part.seconds for part in parts}
    assert all(value > 0 for value in seconds.values())
    assert sum(seconds.values()) < waited
    products = next(part for part in parts if part.flops is not None)
    assert products.flops == 2 * 2 * 4 * 3 * SIZES.rank * 64 * 32 * 65


def test_profile_of_a_large_rank_has_one_part_for_all_products() -> None:
    row = SweepInParts(Workload.of_random_features(replace(SIZES, rank=FEWEST_RANKS), Shape(3, 17, 32)), 2)
    row.step()
    parts = profile_step(row)
    assert parts[0].name == "compiled modules"
    assert all(part.seconds > 0 and part.flops is None for part in parts)


@pytest.mark.parametrize(
    ("rank", "shape", "form"),
    [(MAX_UNROLLED_RANK + 1, Shape(2, 17, 64), "rank space"), (MAX_UNROLLED_RANK + 1, Shape(13, 17, 32), "direct")],
)
def test_steps_that_are_not_compiled_have_no_profile(rank: int, shape: Shape, form: str) -> None:
    row = SweepInParts(Workload.of_random_features(replace(SIZES, rank=rank), shape), 2)
    row.step()
    assert row.workload.spec.form == form
    assert profile_step(row) == []


@pytest.mark.slow
def test_memory_of_a_row_grows_with_lanes() -> None:
    sizes = replace(SIZES, batch_size=32)
    shape = Shape(n_stages=5, tokens=65, width=64)
    few, many = (peak_memory_bytes("sweep", n, replace(sizes, n_parallel=n), shape) for n in (2, 64))
    assert many > few + 20 * 2**20


@pytest.mark.parametrize(("last_words", "reason"), [("echo MemoryError >&2;", "MemoryError"), ("", "killed")])
def test_memory_of_a_row_that_ends_early_is_an_error(
    last_words: str, reason: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The process is a small program that ends as a row does; the next test has a real one."""
    program = tmp_path / "ends_early"
    program.write_text(f"#!/bin/sh\n{last_words} kill -9 $$\n")
    program.chmod(0o700)
    monkeypatch.setattr("sweep.bench.memory.sys.executable", str(program))
    with pytest.raises(SweepError, match=f"the row sweep with 3 lanes did not finish: {reason}"):
        peak_memory_bytes("sweep", 3, SIZES, SHAPE)


@pytest.mark.slow
def test_memory_of_a_row_that_does_not_exist_is_an_error() -> None:
    with pytest.raises(SweepError, match="'nothing'"):
        peak_memory_bytes("nothing", 1, SIZES, SHAPE)


def test_command_writes_the_stable_keys(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    # the real one starts a process per row; other tests check it
    monkeypatch.setattr("sweep.bench.measure.peak_memory_bytes", lambda *_: 2**20)
    path = tmp_path / "bench.json"
    result = CliRunner().invoke(
        app, ["bench", "--backbone", "tiny-untrained", "--n-parallel", "2", "--json", str(path)]
    )
    assert result.exit_code == 0, result.output
    content = json.loads(path.read_text())
    keys = {"name", "configs_per_hour", "seconds_per_config", "peak_memory_bytes", "floor_share"}
    assert all(keys <= set(row) for row in content["rows"])
    assert {row["name"] for row in content["rows"]} == set(rows_module.ROWS) - {"last"}
    assert {"sequential", "sequential_cached", "vmap_direct", "lora"} <= set(content["ratios"])
    assert content["ratios"]["sequential"] > 0
    assert content["machine"]
    assert content["versions"]["torch"] == importlib.metadata.version("torch")
    for row in content["rows"]:
        assert row["configs_per_hour"] == pytest.approx(3600 / row["seconds_per_config"])


@pytest.mark.slow
def test_memory_that_cannot_be_measured_costs_no_other_figure(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def only_of_some(row: str, *_: object) -> int:
        if row == "full_finetune":
            raise SweepError("the row full_finetune with 1 lanes did not end: killed")
        return 2**20

    monkeypatch.setattr("sweep.bench.measure.peak_memory_bytes", only_of_some)
    path = tmp_path / "bench.json"
    result = CliRunner().invoke(
        app, ["bench", "--backbone", "tiny-untrained", "--n-parallel", "2", "--json", str(path)]
    )
    assert result.exit_code == 0, result.output
    assert "note: the peak memory of full_finetune was not measured" in result.output
    memory = {row["name"]: row["peak_memory_bytes"] for row in json.loads(path.read_text())["rows"]}
    assert memory.pop("full_finetune") is None
    assert set(memory.values()) == {2**20}


def test_scaling_keeps_what_it_measured_before_it_was_stopped(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def interrupted_at_four(row: str, n_lanes: int, *_: object) -> int:
        if n_lanes == 4:
            raise KeyboardInterrupt
        return (3 if row == "vmap_direct" else 1) * n_lanes * 2**20

    monkeypatch.setattr("sweep.bench.scaling.peak_memory_bytes", interrupted_at_four)
    monkeypatch.setattr("sweep.bench.scaling.BASE", SHAPE)
    path = tmp_path / "scaling.json"
    result = CliRunner().invoke(app, ["bench", "--suite", "scaling", "--n-parallel", "4", "--json", str(path)])
    assert result.exit_code != 0
    content = json.loads(path.read_text())
    assert [point["n_parallel"] for point in content["scaling"]] == [1, 2]
    assert content["memory_of_further_lanes"] == {
        "sweep": {"n_lanes": 2, "bytes_per_lane": 2**20},
        "vmap_direct": {"n_lanes": 2, "bytes_per_lane": 3 * 2**20},
    }


def test_memory_of_further_lanes_leaves_out_the_first_and_other_sizes() -> None:
    spread = Spread(1.0, 1.0, 1.0)
    points = [
        Point(varied, n, 4, 8, 65, 384, spread, spread, spread, 100 + 7 * n, direct, 1.0)
        for varied, n, direct in (("N", 1, 170), ("N", 5, 450), ("N", 9, None), ("r", 8, 10**9))
    ]
    memory = memory_of_further_lanes(points)
    assert (memory["sweep"].n_lanes, memory["sweep"].bytes_per_lane) == (9, 7)
    assert (memory["vmap_direct"].n_lanes, memory["vmap_direct"].bytes_per_lane) == (5, 70)
    assert memory_of_further_lanes(points[:1]) == {}


def test_plot_is_one_file_that_needs_no_network(tmp_path: Path) -> None:
    spread = Spread(1.0, 1.0, 1.0)
    points = [Point("N", n, 4, 8, 65, 384, spread, spread, spread, n * 2**30, None, 10.0 * n) for n in (1, 2, 4)]
    write_plot(tmp_path / "plot.html", points)
    text = (tmp_path / "plot.html").read_text()
    assert "configurations per hour" in text
    assert 'src="http' not in text


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--plot", "x.html"], "the suites scaling and search"),
        (["--suite", "search", "--rank", "4"], "runs the study lr_rank"),
        (["--time", "3s"], "belongs to --suite search"),
        (["--seeds", "2"], "belongs to the suites search, accuracy, proposals and shapes"),
        (["--suite", "accuracy", "--n-parallel", "4"], "runs studies of sweep's"),
        (["--suite", "gpu", "--seeds", "4"], "has its own sizes"),
        (["--suite", "search", "--side-network", "ladder"], "belongs to the suites quick and paper"),
        (["--suite", "scaling", "--image-size", "64"], "random features"),
        (["--device", "abacus"], "--device abacus"),
    ],
)
def test_requests_that_make_no_sense(arguments: list[str], message: str) -> None:
    result = CliRunner().invoke(app, ["bench", *arguments])
    assert isinstance(result.exception, UsageError)
    assert message in str(result.exception)
