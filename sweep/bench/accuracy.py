"""Compare the accuracy of families of side-networks, linear probe and LoRA, each tuned, on one task or several.

For every method, a configuration is chosen on val, trained again on train and val together, and tested once. The
families and the probe are searched as in `sweep run`; LoRA is in `sweep.bench.lora`.
"""

import math
import sys
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import torch

from sweep.bench.accuracy_results import LAST, LORA, PROBE, AccuracyBenchmark, AccuracyRow, AccuracySizes
from sweep.bench.accuracy_tasks import Tasks, fitting_methods, study_of
from sweep.bench.lora import CONFIGS_OF, choose_lora, retrain_lora
from sweep.bench.memory import PeakMemory
from sweep.bench.own_process import in_own_process
from sweep.data.suites import Task
from sweep.machine.checked_files import read_json
from sweep.machine.paths import default_cache_dir, ensure_folder
from sweep.records.reporter import Reporter, SearchProgress
from sweep.running.preparation import prepare
from sweep.running.retrain import Choice, retrain
from sweep.running.runner import run_study
from sweep.side_networks.linear_probe import pooled_probe


def run_accuracy_benchmark(
    found: Tasks,
    sizes: AccuracySizes,
    asked: Sequence[str] | None,
    measured: Sequence[AccuracyRow],
    save: Callable[[AccuracyBenchmark], None],
    say: Callable[[str], None],
) -> AccuracyBenchmark:
    """Measure every method on every task: LAST and the probe on all, then the other families, then LoRA.

    Args:
        found: The tasks.
        sizes: The sizes of the benchmark.
        asked: The methods to measure, of `METHODS`; None for all that fit.
        measured: Rows that an interrupted benchmark has measured; these are kept.
        save: Called with the results so far: at the beginning, and after each new row.
        say: Called with messages about the progress.

    Raises:
        UsageError: The backbone does not read such data, or a method that was asked for does not fit.
        SweepError: A task failed, or memory ran out. What was measured before is saved.
    """
    save(AccuracyBenchmark(list(measured), found.missing))  # fails now if the file cannot be written
    jobs, left_out = fitting_methods(found, sizes, asked, default_cache_dir())
    benchmark = AccuracyBenchmark(list(measured), {**found.missing, **left_out})
    for name, reason in benchmark.missing.items():
        say(f"{name} is left out: {reason}")
    save(benchmark)
    there = {(row.task, row.method) for row in measured}
    for number, (task, method) in enumerate(jobs, start=1):
        of_group = "" if task.group == task.name else f" ({task.group})"
        label = f"{number} of {len(jobs)}: {method} on {task.name}{of_group}"
        if (task.name, method) in there:
            say(f"{label}: already measured")
            continue
        say(label)
        rows = in_own_process(measure, task, sizes, method, what=task.name)
        benchmark = replace(benchmark, rows=[*benchmark.rows, *rows])
        save(benchmark)
    return benchmark


def measure(task: Task, sizes: AccuracySizes, method: str) -> list[AccuracyRow]:
    """Tune a method on a task, train it again, and test it."""
    return [measure_lora(task, sizes)] if method == LORA else measure_family(task, sizes, method)


def measure_family(task: Task, sizes: AccuracySizes, family: str) -> list[AccuracyRow]:
    """Tune a family on a task as `sweep run` does, train it again, and test it: its row, and with LAST the probe's."""
    loaded, device = study_of(task, sizes, family), torch.device(sizes.device)
    laps = _Laps(PeakMemory(device))
    with _cache_without_features() as cache_dir, TemporaryDirectory() as name:
        folder = run_study(
            loaded,
            n_parallel=sizes.n_configs * sizes.n_seeds,
            out=Path(name) / "run",
            storage_url=None,
            device_name=sizes.device,
            cache_dir=cache_dir,
            reporter=laps,
        )
        rest_bytes = laps.memory.lap()
        prepared = prepare(loaded.study, n_parallel=None, device=device, cache_dir=cache_dir)
        retrained = retrain(folder, prepared, cache_dir, Choice.recorded(folder, prepared.study))
        summary = read_json(folder.summary_path)
    winner, probe, seconds = summary["winner"], summary["linear_probe"], summary["wall_seconds"]
    n_images = retrained.n_train_images + retrained.n_test_images
    feature_seconds = (
        seconds["features"] * retrained.n_train_images / n_images
    )  # those of the test images are computed after the choice
    rows = [
        _row(
            task,
            family,
            n_configurations=loaded.study.trials,
            chosen=winner["params"],
            val_top1=winner["val"]["top1"],
            n_seeds=sizes.n_seeds,
            test=retrained.winner,
            test_top1_std=retrained.winner_std if sizes.n_seeds > 1 else None,
            n_test_images=retrained.n_test_images,
            trainable_parameters=winner["trainable_parameters"],
            tune_seconds=feature_seconds + seconds["search"],
            peak_memory_bytes=max(laps.features_bytes, laps.search_bytes),
        )
    ]
    if family == LAST:
        probe_spec = pooled_probe(prepared.spec, probe["stage"], seed=0)
        rows.append(
            _row(
                task,
                PROBE,
                n_configurations=probe["n_configurations"],
                chosen={"stage": probe["stage"], "lr": probe["lr"]},
                val_top1=probe["val"]["top1"],
                n_seeds=1,
                test=retrained.linear_probe,
                test_top1_std=None,
                n_test_images=retrained.n_test_images,
                trainable_parameters=sum(p.numel() for p in probe_spec.parameters()),
                tune_seconds=feature_seconds + seconds["linear_probe"],
                peak_memory_bytes=max(laps.features_bytes, rest_bytes),
            )
        )
    return rows


def measure_lora(task: Task, sizes: AccuracySizes) -> AccuracyRow:
    """Tune LoRA on a task, train it again, and test."""
    study, device = study_of(task, sizes, LAST).study, torch.device(sizes.device)
    memory = PeakMemory(device)
    prepared = prepare(study, n_parallel=None, device=device, cache_dir=default_cache_dir())
    configs = CONFIGS_OF[prepared.data.kind][: sizes.n_lora_configs]
    choice = choose_lora(prepared, configs, _say)
    config, peak_bytes = choice.config, memory.lap()
    return _row(
        task,
        LORA,
        n_configurations=len(configs),
        chosen={"lr": config.lr, "head_lr_ratio": config.head_lr_ratio, "rank": config.rank},
        val_top1=choice.val["top1"],
        n_seeds=1,
        test=retrain_lora(prepared, config),
        test_top1_std=None,
        n_test_images=prepared.data.test.n_images,
        trainable_parameters=choice.trainable_parameters,
        tune_seconds=choice.wall_seconds,
        peak_memory_bytes=peak_bytes,
    )


def _row(task: Task, method: str, *, test: Mapping[str, float], n_test_images: int, **rest: Any) -> AccuracyRow:
    top1 = test["top1"]
    return AccuracyRow(
        task.name,
        task.group,
        method,
        test_top1=top1,
        test_standard_error=math.sqrt(top1 * (1 - top1) / n_test_images),
        test_mean_class_accuracy=test["mean_class_accuracy"],
        n_test_images=n_test_images,
        **rest,
    )


@contextmanager
def _cache_without_features() -> Iterator[Path]:
    """Make a cache with the user's weights and packages but no features, so that computing them counts."""
    own = default_cache_dir()
    for name in ("backbones", "wheels"):
        ensure_folder(own / name)
    with TemporaryDirectory() as name:
        for folder in own.iterdir():
            if folder.name != "features":
                (Path(name) / folder.name).symlink_to(folder.resolve())
        yield Path(name)


def _say(line: str) -> None:
    print(line, file=sys.stderr, flush=True)


class _Laps(Reporter):
    """Measures the peak memory of a run's feature pass and of its search separately."""

    def __init__(self, memory: PeakMemory):
        self.memory = memory
        self.features_bytes = 0
        self.search_bytes = 0

    def features(self, split: str, n_done: int, n_images: int) -> None:
        """See `Reporter`."""
        self.features_bytes = max(self.features_bytes, self.memory.lap())

    def epoch_ended(self, progress: SearchProgress) -> None:
        """See `Reporter`."""
        self.search_bytes = max(self.search_bytes, self.memory.lap())
