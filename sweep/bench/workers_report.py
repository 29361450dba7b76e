"""The suite `workers` as a table and as JSON."""

from collections.abc import Sequence
from dataclasses import asdict
from typing import Any

import torch
from rich.console import Console
from rich.table import Table

from sweep.bench.machine import machine, versions
from sweep.bench.workers import PARTS, WorkerPoint, WorkerSizes

EPOCH_SECONDS = 10.0
"""The epoch of which the driver's time is shown as a share."""


def workers_json(points: Sequence[WorkerPoint], sizes: WorkerSizes) -> dict[str, Any]:
    """All measurements, and what their parts are."""
    return {
        "points": [{**asdict(point), "seconds": point.seconds} for point in points],
        "parts": PARTS,
        "sizes": asdict(sizes),
        "machine": machine(torch.device("cpu")),
        "versions": versions(),
    }


def show_workers(console: Console, points: Sequence[WorkerPoint], sizes: WorkerSizes) -> None:
    """Print what the driver does in an epoch: a row for each part, a column for each search."""
    table = Table(
        title=f"{sizes.n_workers} simulated workers: processor seconds of the driver, mean of {sizes.epochs} epochs",
        caption=f"share: of an epoch of {EPOCH_SECONDS:g} s. The first epoch fills all lanes.",
    )
    table.add_column("what it does")
    for point in points:
        table.add_column(f"{point.n_lanes} lanes\n{point.storage}", justify="right")
    for part, words in PARTS.items():
        table.add_row(words, *(f"{point.seconds[part]:.3f}" for point in points))
    table.add_section()
    totals = [sum(point.seconds.values()) for point in points]
    table.add_row("all", *(f"{total:.3f}" for total in totals))
    table.add_row("share", *(f"{100 * total / EPOCH_SECONDS:.1f}%" for total in totals))
    table.add_row("the first epoch", *(f"{point.first_seconds:.1f}" for point in points))
    table.add_row("an epoch in which no trial begins or ends", *map(_quiet, points))
    table.add_row("trials that begin, an epoch", *(f"{_mean_new(point):.0f}" for point in points))
    table.add_row("messages, MiB an epoch", *(f"{point.bytes_per_epoch / 2**20:.1f}" for point in points))
    console.print(table)


def _mean_new(point: WorkerPoint) -> float:
    return sum(epoch.n_new for epoch in point.epochs) / len(point.epochs)


def _quiet(point: WorkerPoint) -> str:
    seconds = [
        sum(seconds for part, seconds in epoch.seconds.items() if part != "saving")
        for epoch in point.epochs
        if not epoch.n_new and not epoch.n_ended
    ]
    return f"{min(seconds):.3f}" if seconds else ""
