"""A small feature pass, for tests with workers."""

import json
from pathlib import Path
from typing import Any

import numpy as np
import torch
from PIL import Image

from backbones import Backbone
from sweep.data.base import Split
from sweep.data.files import file_split
from sweep.features.cache import Features, compute_features
from sweep.features.entry import BATCHES_FILE, DATA_FILE
from sweep.workers.feature_pass import FeaturesOnWorkers
from sweep.workers.patience import Patience
from sweep.workers.pool import WorkerPool

N_IMAGES, BATCH_SIZE = 45, 4


def drawn_split(folder: Path) -> Split:
    """Draw images into a new folder."""
    folder.mkdir()
    files = [folder / f"{index}.png" for index in range(N_IMAGES)]
    for index, file in enumerate(files):
        pixels = np.random.default_rng(index).integers(0, 255, (20, 20, 3), dtype=np.uint8)
        Image.fromarray(pixels).save(file)
    return file_split("train", folder, files, np.zeros(N_IMAGES, dtype=np.int64))


def entry_of(cache: Path, features: Features) -> Path:
    return cache / "features" / features.key


def assert_same_entry(entry: Path, expected: Path) -> None:
    assert (entry / DATA_FILE).read_bytes() == (expected / DATA_FILE).read_bytes()
    index, other = (
        sorted(map(json.dumps, map(json.loads, (folder / BATCHES_FILE).read_text().splitlines())))
        for folder in (entry, expected)
    )
    assert index == other
    names, others = ({path.name for path in folder.iterdir()} for folder in (entry, expected))
    assert names == others


def on_workers(
    pool: WorkerPool, backbone: Backbone, split: Split, cache: Path, messages: list[str], **options: Any
) -> Features:
    fill = FeaturesOnWorkers(pool, torch.get_num_threads(), Patience(600.0), messages.append)
    return compute_features(backbone, split, cache_dir=cache, batch_size=BATCH_SIZE, fill=fill, **options)
