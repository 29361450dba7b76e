"""The speeds that the suite `gpu` measures: several ways of training on one workload, in turns."""

import gc
import time
from collections.abc import Callable
from dataclasses import dataclass, field, replace

import torch

from sweep.bench.adapters import has_peft
from sweep.bench.gpu_checks import in_a_line
from sweep.bench.graphed import GRAPHS, GraphedRow
from sweep.bench.measure import Spread, fastest_direct_lanes, time_rows
from sweep.bench.rows import ROWS, STACKED, Row, SweepRow
from sweep.bench.workload import Sizes, Workload
from sweep.training.graphs import WARM_UP_STEPS

BF16 = "sweep_bf16"
"""The row `sweep` with `--precision bf16`, which only a GPU has."""


@dataclass(frozen=True)
class Speed:
    """One row of one workload.

    Attributes:
        workload: Its name.
        row: Name of the row.
        n_lanes: Configurations that one step trains.
        step_seconds: Seconds of a step, per configuration.
        ratio_to_sequential: Steps per second of a configuration, relative to the row `sequential`; None if that row was
            not timed.
    """

    workload: str
    row: str
    n_lanes: int
    step_seconds: Spread
    ratio_to_sequential: Spread | None


@dataclass
class Speeds:
    """What came of one workload.

    Attributes:
        speeds: The rows that were timed.
        failed: Rows that failed, by the name of the workload and the row, with the error in one line.
        not_timed: Names of the rows for which no time was left.
    """

    speeds: list[Speed] = field(default_factory=list)
    failed: dict[str, str] = field(default_factory=dict)
    not_timed: list[str] = field(default_factory=list)


def speeds_of(name: str, sizes: Sizes, until: float, say: Callable[[str], None]) -> Speeds:
    """Time all rows of a workload in turns. A row that fails is left out, and the others go on.

    Args:
        name: Name of the workload.
        sizes: Its sizes.
        until: Reading of `time.perf_counter` after which no further row is begun, and rows are not repeated.
        say: Called with messages about the progress.
    """
    workload, found = Workload.of_backbone(sizes), Speeds()
    rows: dict[str, Row] = {}
    for row, make in _makers(workload).items():
        if time.perf_counter() > until:
            found.not_timed.append(f"{name}, {row}")
            continue
        try:
            rows[row] = _warm(make())
        except Exception as error:  # whatever a device that was never tried may raise
            found.failed[f"{name}, {row}"] = in_a_line(error)
            say(f"{name}, {row} failed: {in_a_line(error)}")
        free_memory(workload.device)
    if not rows:
        return found
    seconds = time_rows(rows, workload.device, until=until)
    for row, own in seconds.items():
        ratios = [a / b for a, b in zip(seconds.get("sequential", ()), own, strict=False)]
        speed = Speed(name, row, rows[row].n_lanes, Spread.of(own), Spread.of(ratios) if ratios else None)
        found.speeds.append(speed)
        beside = f", {speed.ratio_to_sequential.median:.1f} x sequential" if speed.ratio_to_sequential else ""
        say(f"{name}, {row}: {1e3 * speed.step_seconds.median:.2f} ms{beside}")
    return found


def free_memory(device: torch.device) -> None:
    """Give back what is not used any more."""
    gc.collect()  # a stack refers to itself
    if device.type == "cuda":
        torch.cuda.empty_cache()


def _makers(workload: Workload) -> dict[str, Callable[[], Row]]:
    """What makes each row, the most important ones first."""
    n_parallel = workload.sizes.n_parallel

    def plain(row: str) -> Row:
        return ROWS[row][1](workload, n_parallel if row in STACKED else 1)

    makers: dict[str, Callable[[], Row]] = {
        "sequential": lambda: plain("sequential"),
        "sweep": lambda: plain("sweep"),
        GRAPHS: lambda: GraphedRow(workload, n_parallel),
        BF16: lambda: _in_bf16(workload),
        "sequential_cached": lambda: plain("sequential_cached"),
        "vmap_direct": lambda: ROWS["vmap_direct"][1](workload, fastest_direct_lanes(workload, n_parallel)),
        "lora": lambda: plain("lora"),
    }
    absent = {*(() if has_peft() else ("lora",)), *((BF16,) if workload.device.type == "cpu" else ())}
    return {row: make for row, make in makers.items() if row not in absent}


def _in_bf16(workload: Workload) -> Row:
    sizes = replace(workload.sizes, precision="bf16")
    return SweepRow(replace(workload, sizes=sizes), sizes.n_parallel)


def _warm(row: Row) -> Row:
    """A row after its first steps; with CUDA graphs, after its recording."""
    for _ in range(WARM_UP_STEPS + 1 if isinstance(row, GraphedRow) else 1):
        row.step()
    return row
