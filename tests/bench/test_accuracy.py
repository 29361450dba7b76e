"""The accuracy suite: its protocol, how it trains LoRA, the file it writes, and how it continues after a stop."""

import json
import os
import signal
import subprocess
import sys
import time
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass, fields, replace
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import TextIO

import pytest
import torch
from PIL import Image
from torch import nn
from typer.testing import CliRunner

from sweep.bench import accuracy, accuracy_results, own_process
from sweep.bench.accuracy import measure_family
from sweep.bench.accuracy_results import (
    BEST,
    FAMILIES,
    LAST,
    LORA,
    PROBE,
    AccuracyBenchmark,
    AccuracyRow,
    AccuracySizes,
)
from sweep.bench.lora import CONFIGS, choose_lora, new_lora, retrain_lora
from sweep.bench.memory import PeakMemory
from sweep.bench.own_process import in_own_process
from sweep.cli import app
from sweep.data import DATA_SETS, DataSet, Split
from sweep.data.suites import PACKAGED_SUITES, Task
from sweep.errors import SweepError, UsageError
from sweep.running.preparation import Prepared, prepare
from sweep.study.finding import load_study

NAME = "sprite-scale"
TASK = Task(NAME, "structured", NAME)
N_CLASSES, WIDTH, N_BLOCKS = 6, 384, 12


@dataclass(frozen=True)
class FewSizes(AccuracySizes):
    """The command's default sizes, made smaller."""

    n_configs: int = 2
    n_family_configs: int = 3
    n_lora_configs: int = 1
    family_epochs: int = 1
    lora_tasks: tuple[str, ...] = (NAME,)


SIZES = FewSizes(image_size=28, n_seeds=2, epochs=1)


class Opened:
    """The first images of a split. Counts how often each image is opened."""

    def __init__(self, split: Split, n_images: int):
        self.times: Counter[int] = Counter()
        self._open = split.open
        self.split = Split(split.name, split.labels[:n_images], self.open, lambda: f"{split.fingerprint}/{n_images}")

    def open(self, index: int) -> Image.Image:
        self.times[index] += 1
        return self._open(index)


@pytest.fixture
def few(cache_dir: Path) -> DataSet:
    """The data set of rendered sprites, reduced to a few images."""
    whole = DATA_SETS[NAME].load(cache_dir)
    sizes = {"train": 48, "val": 24, "test": 30}
    return replace(whole, **{name: Opened(getattr(whole, name), n).split for name, n in sizes.items()})


@pytest.fixture
def named(monkeypatch: pytest.MonkeyPatch, cache_dir: Path, few: DataSet) -> Callable[[DataSet], None]:
    """Return a function that puts other data in place of the rendered sprites.

    At first these are a few sprites, and they are the only task of the suite.
    """

    def put(data: DataSet) -> None:
        monkeypatch.setitem(DATA_SETS, NAME, replace(DATA_SETS[NAME], load=lambda _: data))

    monkeypatch.setenv("SWEEP_CACHE_DIR", str(cache_dir))
    monkeypatch.setitem(PACKAGED_SUITES, "mini-vtab", {"structured": (NAME,)})
    put(few)
    return put


@pytest.fixture
def prepared(named: object, cache_dir: Path) -> Prepared:
    study = load_study("mini_vtab").study.override(data=NAME, image_size=SIZES.image_size, epochs=SIZES.epochs)
    return prepare(study, n_parallel=None, device=torch.device("cpu"), cache_dir=cache_dir)


def test_last_and_the_probe_are_chosen_without_test_data(named: Callable[[DataSet], None], few: DataSet) -> None:
    opened = Opened(few.train, 30)
    others = Split("test", opened.split.labels, opened.split.open, lambda: "others")
    rows = measure_family(TASK, SIZES, LAST)
    named(replace(few, test=others))
    again = measure_family(TASK, SIZES, LAST)
    assert [row.method for row in rows] == [LAST, PROBE]
    for row, other in zip(rows, again, strict=True):
        assert (row.chosen, row.val_top1) == (other.chosen, other.val_top1)
        assert row.test_top1 != other.test_top1, "the test images differ"
    assert opened.times == Counter(range(30)), "every test image is read once, for its features"
    check_rows_say_what_was_done(*rows)


def check_rows_say_what_was_done(last: AccuracyRow, probe: AccuracyRow) -> None:
    assert (last.n_configurations, last.n_seeds, last.n_test_images) == (2, 2, 30)
    assert last.test_standard_error == pytest.approx((last.test_top1 * (1 - last.test_top1) / 30) ** 0.5)
    assert last.test_top1_std is not None
    assert 30 * last.test_top1 * 2 == pytest.approx(round(30 * last.test_top1 * 2)), "a mean of two trainings"
    assert (probe.n_configurations, probe.n_seeds, probe.test_top1_std) == (40, 1, None)
    assert probe.trainable_parameters == (WIDTH + 1) * N_CLASSES + 2 * WIDTH
    rank = last.chosen["rank"]
    assert last.trainable_parameters == probe.trainable_parameters + 4 * (4 * WIDTH * rank + 2 * WIDTH)
    assert min(last.tune_seconds, probe.tune_seconds, last.peak_memory_bytes, probe.peak_memory_bytes) > 0


def test_lora_is_chosen_before_test_is_opened(prepared: Prepared) -> None:
    data = prepared.data
    opened = {name: Opened(getattr(data, name), getattr(data, name).n_images) for name in ("train", "val", "test")}
    counting = replace(prepared, data=replace(data, **{name: one.split for name, one in opened.items()}))
    said: list[str] = []
    choice = choose_lora(counting, CONFIGS[:2], said.append)
    assert not opened["test"].times
    assert choice.config in CONFIGS[:2]
    assert max(float(line.split()[-1]) for line in said) == pytest.approx(choice.val["top1"], abs=1e-3)
    top1 = retrain_lora(counting, choice.config)["top1"]
    assert opened["test"].times == Counter(range(30))
    assert 30 * top1 == pytest.approx(round(30 * top1))


def test_lora_trains_adapters_and_head_alone(prepared: Prepared, monkeypatch: pytest.MonkeyPatch) -> None:
    modules = []
    monkeypatch.setattr("sweep.bench.lora.new_lora", lambda *args: modules.append(new_lora(*args)) or modules[-1])
    frozen = {name: tensor.clone() for name, tensor in prepared.backbone.network.state_dict().items()}  # type: ignore[attr-defined]
    choose_lora(prepared, CONFIGS[:1], lambda line: None)
    (trained,) = modules
    of_adapters = N_BLOCKS * CONFIGS[0].rank * (WIDTH + 3 * WIDTH)
    assert trained.n_trainable == of_adapters + (WIDTH + 1) * N_CLASSES + 2 * WIDTH
    fresh = dict(new_lora(prepared, CONFIGS[0].rank, seed=0).named_parameters())
    names = {name.removeprefix("network.").replace(".base_layer", ""): name for name in fresh}
    assert set(frozen) <= set(names), "the adapted network has every weight of the network"
    for name, own in names.items():
        after = dict(trained.named_parameters())[own]
        if name in frozen:
            assert torch.equal(after, frozen[name]), name
        elif "lora_B" in name:
            assert fresh[own].count_nonzero() == 0
            assert after.count_nonzero() > 0, name
        else:
            assert "lora_A" in name or name.startswith("head.")
            assert after.requires_grad
    network: nn.Module = prepared.backbone.network  # type: ignore[attr-defined]
    for name, tensor in network.state_dict().items():
        assert torch.equal(tensor, frozen[name]), name


def test_lora_starts_as_the_network_with_a_head(prepared: Prepared) -> None:
    module = new_lora(prepared, 8, seed=3)
    images = torch.randn(4, 3, SIZES.image_size, SIZES.image_size, generator=torch.Generator().manual_seed(0))
    tokens = prepared.backbone.network.forward_features(images)  # type: ignore[attr-defined]
    torch.testing.assert_close(module([images]), module.head(tokens[:, 1:].mean(1)))


Measure = Callable[[Task, AccuracySizes, str], list[AccuracyRow]]
COMMAND = ("bench", "--suite", "accuracy", "--image-size", "28", "--epochs", "1", "--seeds", "2", "--json")


@pytest.mark.slow
def test_command_saves_each_result_and_continues_after_a_stop(
    named: object, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    calls: list[str] = []

    def here(measure: Measure, task: Task, sizes: AccuracySizes, method: str, *, what: str) -> list[AccuracyRow]:
        calls.append(method)
        if len(calls) == 2:
            raise SweepError("memory ended")
        return measure(task, sizes, method)

    monkeypatch.setattr(accuracy, "in_own_process", here)
    monkeypatch.setattr(accuracy_results, "AccuracySizes", FewSizes)
    path = tmp_path / "accuracy.json"
    stopped = CliRunner().invoke(app, [*COMMAND, str(path)])
    assert str(stopped.exception) == "memory ended"
    before = json.loads(path.read_text())
    assert [row["method"] for row in before["rows"]] == [LAST, PROBE]
    went_on = CliRunner().invoke(app, [*COMMAND, str(path)])
    assert went_on.exit_code == 0, went_on.output
    assert calls == [LAST, FAMILIES[0], *FAMILIES, LORA]
    content = json.loads(path.read_text())
    assert content["rows"][:2] == before["rows"]
    assert [set(row) for row in content["rows"]] == [{field.name for field in fields(AccuracyRow)}] * (
        3 + len(FAMILIES)
    )
    assert set(content) == {
        *("rows", "missing", "against", "comparisons"),
        *("study", "family_study", "sizes", "machine", "versions"),
    }
    ours, *_, lora = content["rows"]
    against = content["against"][LORA]
    assert against["points"] == pytest.approx(100 * (ours["test_top1"] - lora["test_top1"]))
    assert against["tune_seconds_ratio"] == pytest.approx(lora["tune_seconds"] / ours["tune_seconds"])
    assert f"{100 * lora['test_top1']:.1f} ±" in went_on.output
    assert "last compared with linear_probe, 1 tasks" in went_on.output
    assert "best family compared with lora, 1 tasks" in went_on.output
    with_others = CliRunner().invoke(app, [*COMMAND[:-3], "--seeds", "1", "--json", str(path)])
    assert "measured with other sizes" in str(with_others.exception)
    path.write_text(json.dumps({**content, "study": {**content["study"], "stages": [1, 2]}}))
    with_another_study = CliRunner().invoke(app, [*COMMAND, str(path)])
    assert "another study" in str(with_another_study.exception)


@pytest.mark.parametrize("content", ["not JSON", "[]", '{"rows": [{"name": "sweep"}]}', "{}"])
def test_a_file_of_something_else_is_left_alone(content: str, tmp_path: Path) -> None:
    path = tmp_path / "other.json"
    path.write_text(content)
    result = CliRunner().invoke(app, [*COMMAND, str(path)])
    assert isinstance(result.exception, UsageError)
    assert "is not a report of --suite accuracy" in str(result.exception)
    assert path.read_text() == content


def test_a_file_that_cannot_be_written_is_refused_before_anything_is_measured(
    named: object, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(accuracy, "in_own_process", lambda *args, **options: pytest.fail("measured"))
    result = CliRunner().invoke(app, [*COMMAND, str(tmp_path / "nowhere" / "accuracy.json")])
    assert "choose another file with --json" in str(result.exception)


def test_comparison_is_over_tasks_that_have_both() -> None:
    def row(task: str, group: str, method: str, top1: float, seconds: float) -> AccuracyRow:
        return AccuracyRow(task, group, method, 1, {}, 0.5, 1, top1, None, 0.01, 100, 10, seconds, 1)

    rows = [
        row("a", "x", LAST, 0.9, 10.0),
        row("b", "x", LAST, 0.8, 10.0),
        row("c", "y", LAST, 0.5, 10.0),
        row("a", "x", LORA, 0.8, 60.0),
        row("c", "y", LORA, 0.6, 60.0),
    ]
    comparison = AccuracyBenchmark(rows, {}).against(LAST, LORA)
    assert comparison is not None
    assert comparison.tasks == ("a", "c")
    assert comparison.group_points == pytest.approx({"x": 10.0, "y": -10.0})
    assert comparison.points == pytest.approx(0.0)
    assert comparison.tune_seconds_ratio == pytest.approx(6.0)
    assert AccuracyBenchmark(rows, {}).against(LAST, PROBE) is None


def test_the_best_family_is_the_one_that_is_best_on_val() -> None:
    def row(task: str, method: str, val: float, test: float) -> AccuracyRow:
        return AccuracyRow(task, "x", method, 1, {}, val, 1, test, None, 0.01, 100, 10, 1.0, 1)

    rows = [
        *(row("a", LAST, 0.9, 0.5), row("a", "ladder", 0.8, 0.7), row("a", PROBE, 0.95, 0.4)),
        *(row("b", LAST, 0.5, 0.5), row("b", "ladder", 0.8, 0.7), row("b", PROBE, 0.95, 0.4)),
        *(row("c", LAST, 0.5, 0.5), row("c", PROBE, 0.95, 0.4)),
    ]
    benchmark = AccuracyBenchmark(rows, {})
    best = benchmark.of_method(BEST)
    assert {task: row.method for task, row in best.items()} == {"a": LAST, "b": "ladder"}, "task c lacks a family"
    assert best["a"].tune_seconds == 2.0, "the cost of choosing between two families is the cost of tuning both"
    comparison = benchmark.against(BEST, PROBE)
    assert comparison is not None
    assert comparison.points == pytest.approx(20.0)
    assert {(mine, other) for mine, other, _ in benchmark.comparisons()} == {
        *((LAST, PROBE), ("ladder", PROBE), ("ladder", LAST), (BEST, PROBE), (BEST, LAST)),
    }


def die(task: Task, sizes: AccuracySizes, method: str) -> list[AccuracyRow]:
    os.kill(os.getpid(), signal.SIGKILL)
    return []


def refuse(task: Task, sizes: AccuracySizes, method: str) -> list[AccuracyRow]:
    raise SweepError(f"not in process {os.getpid()}")


@pytest.mark.slow
def test_a_process_that_is_killed_or_fails_is_an_error_of_ours() -> None:
    with pytest.raises(SweepError, match=f"measured {NAME} was killed"):
        in_own_process(die, TASK, SIZES, LAST, what=NAME)
    with pytest.raises(SweepError, match="not in process") as refused:
        in_own_process(refuse, TASK, SIZES, LAST, what=NAME)
    assert str(os.getpid()) not in str(refused.value)


def say_who(task: Task, sizes: AccuracySizes, method: str) -> list[AccuracyRow]:
    with TemporaryDirectory() as name:
        print(os.getpid(), name, flush=True)
        time.sleep(600)
    return []


@pytest.mark.slow
@pytest.mark.skipif(not Path("/proc/self/stat").exists(), reason="looks at processes as Linux shows them")
def test_the_process_ends_when_the_command_is_killed() -> None:
    here = Path(__file__)
    code = f"import {here.stem} as t; t.in_own_process(t.say_who, t.TASK, t.SIZES, t.LAST, what=t.NAME)"
    command = subprocess.Popen([sys.executable, "-c", code], cwd=here.parent, stdout=subprocess.PIPE, text=True)
    assert command.stdout is not None
    number, folder = command.stdout.readline().split()
    with command, open(f"/proc/{number}/stat") as worker:
        assert Path(folder).is_dir()
        command.kill()
        command.wait()
        until = time.monotonic() + own_process.GRACE_SECONDS + 30
        while _runs(worker) and time.monotonic() < until:
            time.sleep(0.05)
        assert not _runs(worker)
    assert not Path(folder).exists()


def _runs(stat: TextIO) -> bool:
    """Return whether the process still runs.

    `stat` is its open /proc/PID/stat; a process in state Z (zombie) has ended.
    """
    try:
        stat.seek(0)
        return stat.read().rpartition(")")[2].split()[0] != "Z"
    except ProcessLookupError:
        return False


@pytest.mark.skipif(not Path("/proc/self/clear_refs").exists(), reason="only Linux forgets a peak")
def test_peak_memory_is_measured_per_lap() -> None:
    memory = PeakMemory(torch.device("cpu"))
    size = 200 * 2**20
    block = torch.ones(size, dtype=torch.uint8)
    del block
    assert memory.lap() > 0.9 * size
    assert memory.lap() < 0.5 * size
