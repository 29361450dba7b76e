"""Measures what another program that keeps a core busy costs: the feature pass, and the training of a stack."""

import itertools
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import torch

from backbones.protocol import Backbone
from sweep.bench.measure import Spread
from sweep.bench.workload import written_images
from sweep.data import Split
from sweep.features.cache import compute_features
from sweep.machine.paths import default_cache_dir
from sweep.records.reporter import Reporter
from sweep.running.preparation import Prepared, prepare
from sweep.running.settings import ShapeSettings
from sweep.study.finding import load_study
from sweep.study.lane_config import LaneConfig
from sweep.training.engine import Lane, Training
from sweep.training.parts import in_parts, train_epoch

BURN = "while True: pass"
SETTLE_SECONDS = 0.3
"""Time that the other program has to start."""

PASS, DIVIDED, TRAINING = (
    "feature pass",
    "forward passes, every operation divided among all cores",
    "training of a stack",
)


@dataclass(frozen=True)
class BusySizes:
    """The sizes of the benchmark.

    Attributes:
        image_size: Side of the backbone's input in pixels.
        n_parallel: Number of lanes of the stack.
        rank: Rank of its lanes.
        epochs: How often each part is measured without the other program, and as often with it.
        n_batches: Batches of images in a pass.
        batch_size: Images in a batch.
        device: PyTorch's name of the device.
    """

    image_size: int = 112
    n_parallel: int = 32
    rank: int = 8
    epochs: int = 5
    n_batches: int = 8
    batch_size: int = 32
    device: str = "cpu"


@dataclass(frozen=True)
class BusyRow:
    """One part of a run, measured with and without the other program, in turns.

    Attributes:
        what: The part.
        quiet_seconds: Its time without the other program.
        busy_seconds: Its time beside the other program.
        slowdown: Time beside the other program divided by the time right before without it, for each repetition.
    """

    what: str
    quiet_seconds: Spread
    busy_seconds: Spread
    slowdown: Spread


def run_busy_benchmark(sizes: BusySizes, say: Callable[[str], None]) -> list[BusyRow]:
    """Measure every part in turns, alone and beside a program that keeps one core busy.

    Args:
        sizes: The sizes of the benchmark.
        say: Called with messages about the progress.
    """
    study = load_study("lr_rank").study.override(image_size=sizes.image_size)
    prepared = prepare(
        study, n_parallel=sizes.n_parallel, device=torch.device(sizes.device), cache_dir=default_cache_dir()
    )
    with tempfile.TemporaryDirectory() as name:
        parts = _parts(prepared, sizes, Path(name))
        for part in parts.values():
            part()  # compiles kernels
        seconds: dict[str, tuple[list[float], list[float]]] = {what: ([], []) for what in parts}
        for repetition in range(1, sizes.epochs + 1):
            say(f"repetition {repetition} of {sizes.epochs}")
            for what, part in parts.items():
                seconds[what][0].append(_timed(part))
            with _busy_core():
                for what, part in parts.items():
                    seconds[what][1].append(_timed(part))
    return [_row(what, quiet, busy) for what, (quiet, busy) in seconds.items()]


def _parts(prepared: Prepared, sizes: BusySizes, folder: Path) -> Mapping[str, Callable[[], object]]:
    backbone = prepared.backbone
    split = written_images(folder, sizes.n_batches * sizes.batch_size)
    images = torch.stack([backbone.transform(split.open(index)) for index in range(sizes.batch_size)]).to(sizes.device)
    training = _training(prepared, sizes)
    passes, orders = itertools.count(), itertools.count(1)
    return {
        PASS: lambda: _pass(backbone, split, folder / f"cache-{next(passes)}", sizes),
        DIVIDED: lambda: [backbone.stages(images) for _ in range(sizes.n_batches)],
        TRAINING: lambda: train_epoch(training, next(orders)),
    }


def _pass(backbone: Backbone, split: Split, cache_dir: Path, sizes: BusySizes) -> None:
    compute_features(backbone, split, cache_dir=cache_dir, batch_size=sizes.batch_size, device=sizes.device)


def _training(prepared: Prepared, sizes: BusySizes) -> list[Training]:
    settings = ShapeSettings(prepared, default_cache_dir(), Reporter(), lambda source: None)
    settings.compute(prepared.shape)
    splits, spec, study = settings.splits(prepared.shape), prepared.spec, prepared.study_of_shape
    lanes = [
        Lane(LaneConfig(lr=1e-3, rank=sizes.rank), spec.lane(sizes.rank, seed), seed)
        for seed in range(sizes.n_parallel)
    ]
    n_epochs = 2 * sizes.epochs + 1
    return [
        Training(part, splits.train, splits.val, n_epochs=n_epochs, batch_size=study.batch_size, seed=study.seed)
        for part in in_parts(lanes, splits.train, prepared.device)
    ]


def _timed(part: Callable[[], object]) -> float:
    started = time.perf_counter()
    part()
    return time.perf_counter() - started


@contextmanager
def _busy_core() -> Iterator[None]:
    """A program that keeps one core busy."""
    other = subprocess.Popen([sys.executable, "-c", BURN])
    try:
        time.sleep(SETTLE_SECONDS)
        yield
    finally:
        other.kill()
        other.wait()


def _row(what: str, quiet: list[float], busy: list[float]) -> BusyRow:
    slowdown = Spread.of([beside / alone for alone, beside in zip(quiet, busy, strict=True)])
    return BusyRow(what, Spread.of(quiet), Spread.of(busy), slowdown)
