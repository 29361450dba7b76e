"""The suites of `sweep bench` that write their file by themselves, most of them after every part."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import typer

from sweep.errors import UsageError
from sweep.terminal.console import stdout


def _gpu(asked: dict[str, Any], device: str | None, json_file: Path | None, say: Callable[[str], None]) -> None:
    from sweep.bench.gpu import GpuBenchmark, GpuSizes, gpu_json, run_gpu_benchmark
    from sweep.bench.machine import machine, versions
    from sweep.bench.report import write_json
    from sweep.machine.device import device_named

    where = device_named(device or "cuda")

    def save(benchmark: GpuBenchmark) -> None:
        if json_file is not None:
            write_json(json_file, {**gpu_json(benchmark), "machine": machine(where), "versions": versions()})

    complaints = run_gpu_benchmark(GpuSizes(device=str(where)), save, say).complaints
    for line in complaints:
        stdout.print(line, highlight=False, markup=False, soft_wrap=True)
    if complaints:
        raise typer.Exit(1)


def _accuracy(asked: dict[str, Any], device: str | None, json_file: Path | None, say: Callable[[str], None]) -> None:
    from sweep.bench.accuracy import run_accuracy_benchmark
    from sweep.bench.accuracy_report import accuracy_json, measured_rows, show_accuracy
    from sweep.bench.accuracy_results import AccuracyBenchmark, AccuracySizes
    from sweep.bench.accuracy_tasks import find_tasks, methods_asked_for
    from sweep.bench.report import write_json
    from sweep.machine.paths import default_cache_dir

    given = {name: value for name, value in asked.items() if value is not None}
    methods = methods_asked_for(given.pop("methods", None))
    data = given.pop("data", AccuracySizes.suite)
    found = find_tasks(data, given.get("accept_licence"), default_cache_dir())
    if found.kind == "texts" or "backbone" in given:
        given.setdefault("image_size", None)  # the backbone's own
    if (trials := given.pop("trials", None)) is not None:
        given |= {"n_configs": trials, "n_family_configs": trials, "n_lora_configs": trials}
    if "epochs" in given:
        given["family_epochs"] = given["epochs"]
    sizes = AccuracySizes(suite=data, kind=found.kind, device=device or "cpu", **given)

    def save(benchmark: AccuracyBenchmark) -> None:
        if json_file is not None:
            write_json(json_file, accuracy_json(benchmark, sizes))

    measured = measured_rows(json_file, sizes) if json_file is not None else []
    show_accuracy(stdout, run_accuracy_benchmark(found, sizes, methods, measured, save, say), sizes)


def _workers(asked: dict[str, Any], device: str | None, json_file: Path | None, say: Callable[[str], None]) -> None:
    from sweep.bench.report import write_json
    from sweep.bench.workers import WorkerSizes, run_worker_benchmark
    from sweep.bench.workers_report import show_workers, workers_json

    sizes = WorkerSizes(**{name: value for name, value in asked.items() if value is not None})
    points = []
    for point in run_worker_benchmark(sizes, say):
        points.append(point)
        if json_file is not None:
            write_json(json_file, workers_json(points, sizes))
    show_workers(stdout, points, sizes)


def _lora(asked: dict[str, Any], device: str | None, json_file: Path | None, say: Callable[[str], None]) -> None:
    from dataclasses import asdict

    from sweep.bench.dense_lora import lora_beside_run, show_lora
    from sweep.bench.report import write_json
    from sweep.machine.device import device_named
    from sweep.machine.paths import default_cache_dir

    if asked["run"] is None:
        raise UsageError("--suite lora trains LoRA beside a finished run; give the run's folder with --run")
    where = device_named(device or "cpu")
    found = lora_beside_run(asked["run"], device=where, cache_dir=default_cache_dir(), say=say)
    show_lora(stdout, found)
    if json_file is not None:
        write_json(json_file, asdict(found))


IN_PARTS = {"accuracy": _accuracy, "gpu": _gpu, "lora": _lora, "workers": _workers}
"""Suites that write their file by themselves."""

OPTIONS_OF_ONE = {"accuracy": ("data", "methods", "trials", "accept_licence"), "lora": ("run",)}
"""Options that belong to a single suite."""

TAKEN_BY = {
    "accuracy": {"image_size", "epochs", "n_seeds", "backbone", *OPTIONS_OF_ONE["accuracy"]},
    "gpu": set[str](),
    "lora": {*OPTIONS_OF_ONE["lora"]},
    "workers": {"n_parallel", "epochs"},
}
"""The options that can be given to these suites."""

NOT_FOR = {
    "accuracy": "--suite accuracy runs studies of sweep's; leave --rank, --precision and --n-parallel out",
    "gpu": "--suite gpu has its own sizes; give --device and --json only",
    "lora": "--suite lora trains beside a finished run, as that run did; give --run, --device and --json only",
    "workers": "--suite workers simulates all training; give --n-parallel, --epochs and --json only",
}
"""What to say if such a suite is given options that it does not take."""
