"""Compare the accuracy of families of side-networks, linear probe and LoRA, each tuned, on the tasks of a suite.

For every method, a configuration is chosen on val, trained again on train and val together, and tested once. The
families and the probe are searched as in `sweep run`; LoRA is in `sweep.bench.lora`.
"""

import math
import os
import signal
import sys
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ProcessPoolExecutor
from concurrent.futures.process import BrokenProcessPool
from contextlib import contextmanager
from dataclasses import replace
from multiprocessing import get_context, parent_process
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import torch

from studies import mini_vtab, side_networks
from sweep.bench.accuracy_results import (
    FAMILIES,
    FAMILY_STUDY,
    LAST,
    LORA,
    PROBE,
    STUDY,
    VARIANTS,
    AccuracyBenchmark,
    AccuracyRow,
    AccuracySizes,
)
from sweep.bench.lora import CONFIGS, choose_lora, retrain_lora
from sweep.bench.memory import PeakMemory
from sweep.bench.rows import has_peft
from sweep.data.suites import Task, find_suite
from sweep.errors import SweepError, UsageError
from sweep.machine.checked_files import read_json
from sweep.machine.paths import default_cache_dir, ensure_folder
from sweep.records.reporter import Reporter, SearchProgress
from sweep.running.preparation import prepare
from sweep.running.retrain import Choice, retrain
from sweep.running.runner import run_study
from sweep.study.finding import LoadedStudy, load_study

GRACE_SECONDS = 3.0
"""How long a process that must end has to remove its temporary folders."""


def run_accuracy_benchmark(
    sizes: AccuracySizes,
    measured: Sequence[AccuracyRow],
    save: Callable[[AccuracyBenchmark], None],
    say: Callable[[str], None],
) -> AccuracyBenchmark:
    """Measure every method on every task: LAST and the probe on all, then the other families, then LoRA.

    Args:
        sizes: The sizes of the benchmark.
        measured: Rows that an interrupted benchmark has measured; these are kept.
        save: Called with the results so far: at the beginning, and after each new row.
        say: Called with messages about the progress.

    Raises:
        UsageError: The suite cannot be found.
        SweepError: A task failed, or memory ran out. What was measured before is saved.
    """
    suite = find_suite(sizes.suite, default_cache_dir())
    if suite is None:
        raise UsageError(f"there is no suite {sizes.suite!r}: it must be mini-vtab or a folder of VTAB-1K tasks")
    missing = dict(suite.missing)
    jobs = [(task, method) for method in (LAST, *FAMILIES) for task in suite.tasks]
    if has_peft():
        on_gpu = torch.device(sizes.device).type == "cuda"
        wanted = [task.name for task in suite.tasks] if on_gpu else sizes.lora_tasks
        jobs += [(task, LORA) for name in wanted for task in suite.tasks if task.name == name]
    else:
        missing[LORA] = 'needs peft (python -m pip install -e ".[bench]")'
    for name, reason in missing.items():
        say(f"{name} is left out: {reason}")
    benchmark = AccuracyBenchmark(list(measured), missing)
    save(benchmark)  # fails now if the file cannot be written
    there = {(row.task, row.method) for row in measured}
    for number, (task, method) in enumerate(jobs, start=1):
        label = f"{number} of {len(jobs)}: {method} on {task.name} ({task.group})"
        if (task.name, method) in there:
            say(f"{label}: already measured")
            continue
        say(label)
        benchmark = replace(benchmark, rows=[*benchmark.rows, *_in_own_process(measure, task, sizes, method)])
        save(benchmark)
    return benchmark


def _in_own_process(
    measure: Callable[[Task, AccuracySizes, str], list[AccuracyRow]], task: Task, sizes: AccuracySizes, method: str
) -> list[AccuracyRow]:
    """Call a function in a new process, so that memory of earlier work does not count."""
    with ProcessPoolExecutor(1, mp_context=get_context("spawn"), initializer=_end_with_parent) as pool:
        try:
            return pool.submit(measure, task, sizes, method).result()
        except BrokenProcessPool as error:
            raise SweepError(
                f"the process that measured {task.name} was killed, which happens when memory runs out. "
                f"Free some memory, and give the same command to continue"
            ) from error


def _end_with_parent() -> None:
    """End this process when the process that started it was killed.

    It gets SIGTERM first, so that it can remove its temporary folders.
    """
    signal.signal(signal.SIGTERM, lambda number, frame: sys.exit(1))
    parent = parent_process()
    assert parent is not None

    def wait() -> None:
        parent.join()
        os.kill(os.getpid(), signal.SIGTERM)
        time.sleep(GRACE_SECONDS)
        os._exit(1)

    threading.Thread(target=wait, name="parent", daemon=True).start()


def measure(task: Task, sizes: AccuracySizes, method: str) -> list[AccuracyRow]:
    """Tune a method on a task, train it again, and test it."""
    return [measure_lora(task, sizes)] if method == LORA else measure_family(task, sizes, method)


def measure_family(task: Task, sizes: AccuracySizes, family: str) -> list[AccuracyRow]:
    """Tune a family on a task as `sweep run` does, train it again, and test it: its row, and with LAST the probe's."""
    loaded, device = _study_of(task, sizes, family), torch.device(sizes.device)
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
            test_top1=retrained.winner["top1"],
            test_top1_std=retrained.winner_std if sizes.n_seeds > 1 else None,
            n_test_images=retrained.n_test_images,
            trainable_parameters=winner["trainable_parameters"],
            tune_seconds=feature_seconds + seconds["search"],
            peak_memory_bytes=max(laps.features_bytes, laps.search_bytes),
        )
    ]
    if family == LAST:
        probe_spec = prepared.spec.pooled_probe(probe["stage"], seed=0)
        rows.append(
            _row(
                task,
                PROBE,
                n_configurations=probe["n_configurations"],
                chosen={"stage": probe["stage"], "lr": probe["lr"]},
                val_top1=probe["val"]["top1"],
                n_seeds=1,
                test_top1=retrained.linear_probe["top1"],
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
    study, device = _study_of(task, sizes, LAST).study, torch.device(sizes.device)
    memory = PeakMemory(device)
    prepared = prepare(study, n_parallel=None, device=device, cache_dir=default_cache_dir())
    choice = choose_lora(prepared, CONFIGS, _say)
    config, peak_bytes = choice.config, memory.lap()
    return _row(
        task,
        LORA,
        n_configurations=len(CONFIGS),
        chosen={"lr": config.lr, "head_lr_ratio": config.head_lr_ratio, "rank": config.rank},
        val_top1=choice.val["top1"],
        n_seeds=1,
        test_top1=retrain_lora(prepared, config)["top1"],
        test_top1_std=None,
        n_test_images=prepared.data.test.n_images,
        trainable_parameters=choice.trainable_parameters,
        tune_seconds=choice.wall_seconds,
        peak_memory_bytes=peak_bytes,
    )


def _row(task: Task, method: str, *, test_top1: float, n_test_images: int, **rest: Any) -> AccuracyRow:
    error = math.sqrt(test_top1 * (1 - test_top1) / n_test_images)
    return AccuracyRow(
        task.name,
        task.group,
        method,
        test_top1=test_top1,
        test_standard_error=error,
        n_test_images=n_test_images,
        **rest,
    )


def _study_of(task: Task, sizes: AccuracySizes, family: str) -> LoadedStudy:
    """The study that tunes a family, on a task: LAST has one of its own, with a search space made for it."""
    if family in (LAST, *VARIANTS):
        loaded, trials, epochs = load_study(STUDY), sizes.n_configs, sizes.epochs
        if family != LAST:
            loaded = replace(loaded, study=mini_vtab.of_variant(family))
    else:
        loaded = replace(load_study(FAMILY_STUDY), study=side_networks.of_family(family))
        trials, epochs = sizes.n_family_configs, sizes.family_epochs
    study = loaded.study.override(
        data=task.data, image_size=sizes.image_size, trials=trials, seeds=sizes.n_seeds, epochs=epochs
    )
    return replace(loaded, study=study)


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
