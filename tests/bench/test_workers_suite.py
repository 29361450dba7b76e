"""The suite `workers`: a real search on workers that train nothing, timed part by part."""

import json
from pathlib import Path

import pytest
from typer.testing import CliRunner

from sweep.bench.stopwatch import Stopwatch
from sweep.bench.workers import PARTS, STORAGES, WorkerSizes
from sweep.cli import app
from sweep.errors import UsageError


def test_command_measures_every_part_of_the_driver(tmp_path: Path) -> None:
    path = tmp_path / "workers.json"
    command = ["bench", "--suite", "workers", "--n-parallel", "6", "--epochs", "4", "--json", str(path)]
    result = CliRunner().invoke(app, command)
    assert result.exit_code == 0, result.output
    content = json.loads(path.read_text())
    assert set(content) == {"points", "parts", "sizes", "machine", "versions"}
    assert [(point["storage"], point["n_lanes"]) for point in content["points"]] == [(name, 6) for name in STORAGES]
    in_memory, in_journal = content["points"]
    events = [(epoch["n_lanes"], epoch["n_new"], epoch["n_ended"]) for epoch in in_memory["epochs"]]
    assert events == [(6, 6, 0), (6, 0, 0), (6, 0, 4), (6, 4, 0)], "the first rung of lr_rank is at epoch 3"
    assert events == [(epoch["n_lanes"], epoch["n_new"], epoch["n_ended"]) for epoch in in_journal["epochs"]]
    for epoch in in_memory["epochs"]:
        assert epoch["seconds"].keys() == PARTS.keys()
        for part in ("log", "comparing", "messages", "sending"):
            assert epoch["seconds"][part] > 0, part
        for part in ("asks", "entering"):
            assert epoch["seconds"][part] > 0 or not epoch["n_new"], part
        assert (epoch["seconds"]["asks"] > 0) == (epoch["n_new"] > 0)
    assert in_memory["epochs"][2]["seconds"]["tells"] > 0
    assert in_memory["bytes_per_epoch"] > 0
    assert "decide at rungs" in result.output


def test_other_options_are_refused() -> None:
    for options in (["--rank", "2"], ["--image-size", "56"], ["--device", "cpu"]):
        result = CliRunner().invoke(app, ["bench", "--suite", "workers", *options])
        assert isinstance(result.exception, UsageError)
        assert "--suite workers simulates all training" in str(result.exception)


def test_numbers_of_lanes_grow_up_to_the_largest() -> None:
    assert WorkerSizes(n_parallel=16384).lanes == [256, 1024, 4096, 16384]
    assert WorkerSizes(n_parallel=500).lanes == [256, 500]
    assert WorkerSizes(n_parallel=8).lanes == [8]


def test_time_of_an_inner_part_does_not_count_for_the_outer_one(monkeypatch: pytest.MonkeyPatch) -> None:
    clock = [0.0]
    monkeypatch.setattr("sweep.bench.stopwatch.time.process_time", lambda: clock[0])

    class Working:
        def outer(self) -> None:
            clock[0] += 2
            self.inner()
            clock[0] += 3

        def inner(self) -> None:
            clock[0] += 10

    stopwatch, working = Stopwatch(), Working()
    stopwatch.time_method(working, "outer", "outside")
    stopwatch.time_method(working, "inner", "inside")
    working.outer()
    clock[0] += 100  # belongs to no part
    assert stopwatch.lap() == {"outside": 5, "inside": 10}
    working.inner()
    assert stopwatch.lap() == {"inside": 10}
