"""Readers of texts, of labels of several kinds and of enqueued trials, for the fuzz tests."""

import io
from pathlib import Path

import numpy as np
import optuna
import pandas as pd
import torch
from fuzzed_data import table_folder
from fuzzing import Reader, damaged, parquet
from hypothesis import strategies as st

from sweep import LaneConfig, Study
from sweep.data import DataSet, load_data
from sweep.export.predict import find_texts
from sweep.study.asking import check_enqueued
from sweep.study.enqueued import read_enqueued, settled
from sweep.tasks.kinds import CLASSES, LARGEST_TARGET, MULTI_LABEL, TASK_KINDS
from sweep.tasks.targets import Target

TASKS = st.sampled_from([None, *TASK_KINDS])


def csv(table: pd.DataFrame) -> bytes:
    return table.to_csv(index=False).encode()


TEXTS = [f'a {colour}, old "car"\nof {number}' for number, colour in enumerate(["red", "blue"] * 4)]
TEXT_SPLITS = ["train", "train", "train", "train", "val", "val", "test", "test"]
TEXT_TABLES = [
    pd.DataFrame({"text": TEXTS, **labels, "split": TEXT_SPLITS})
    for labels in (
        {"label": ["red", "blue"] * 4},
        {"label": ["red|old", "old", "", "blue|old"] * 2},
        {"red": [1, 0] * 4, "blue": [False, True] * 4},
        {"target": [0.5, 1.0, 2.0, -3e3] * 2, "target_age": range(8)},
    )
]


def read_texts(folder: Path, table: tuple[str, bytes, str | None]) -> None:
    """Read a table of texts to train on."""
    suffix, content, task = table
    path = folder / f"texts{suffix}"
    path.write_bytes(content)
    data = load_data(str(path), seed=0, cache_dir=folder, task=task)
    check_labels(data)
    for split in (data.train, data.val, data.test):
        assert all(isinstance(split.open(index), str) for index in range(split.n_images))


def text_tables() -> list[tuple[str, bytes]]:
    return [(suffix, write(table)) for suffix, write in ((".csv", csv), (".parquet", parquet)) for table in TEXT_TABLES]


LINES = "a red car\n\nan old house\r\n\u2028caf\u00e9\n".encode()


def read_text_file(folder: Path, file: tuple[str, bytes]) -> None:
    """Read a table or a `.txt` file of texts to be labelled."""
    suffix, content = file
    path = folder / f"texts{suffix}"
    path.write_bytes(content)
    assert all(isinstance(text, str) for text in find_texts([path]))


IMAGES = [f"{number}.png" for number in range(6)]
IMAGE_SPLITS = ["train", "train", "val", "val", "test", "test"]
LABEL_TABLES = [
    pd.DataFrame({"path": IMAGES, **labels, "split": IMAGE_SPLITS})
    for labels in (
        {"label": ["cat|dog", "dog", "", "cat", "cat|dog", "dog"]},
        {"cat": [1, 0, 1, 0, 1, 1], "dog": ["true", "0.0", "1.0", "0", "1", "0"]},
        {"target": [0.5, 1.0, 2.0, -3e3, 1e9, 7.0], "target_age": range(6)},
        {"label": [3, 7, 7, 3, 3, 7]},
    )
]


def read_labels(folder: Path, table: tuple[bytes, str | None]) -> None:
    content, task = table
    path = table_folder(folder) / "photos.csv"
    path.write_bytes(content)
    check_labels(load_data(str(path), seed=0, cache_dir=folder, task=task))


LABEL_ARRAYS: list[np.ndarray] = [
    np.arange(32).reshape(16, 2) % 3 % 2,
    np.linspace(-2.5, 1e9, 16),
    np.arange(48, dtype=np.float32).reshape(16, 3),
    np.array(["a", "b"] * 8),
]


def label_archives() -> list[bytes]:
    archives = []
    for labels in LABEL_ARRAYS:
        file = io.BytesIO()
        np.savez(file, images=np.zeros((16, 4, 3), dtype=np.uint8), labels=labels)
        archives.append(file.getvalue())
    return archives


def read_label_arrays(folder: Path, archive: tuple[bytes, str | None]) -> None:
    content, task = archive
    path = folder / "arrays.npz"
    path.write_bytes(content)
    check_labels(load_data(str(path), seed=0, cache_dir=folder, task=task))


def check_labels(data: DataSet) -> None:
    """Check that labels fit their kind of task, so that losses can use them."""
    target = Target.of(data.task, data.train.labels)
    for split in (data.train, data.val, data.test):
        labels = split.labels
        assert split.n_images > 0
        assert len(split.fingerprint) == 64
        if target.kind is CLASSES:
            assert labels.shape == (split.n_images,)
            assert 0 <= labels.min() <= labels.max() < data.n_classes
            continue
        assert labels.shape == (split.n_images, data.n_classes)
        if target.kind is MULTI_LABEL:
            assert np.isin(labels, (0, 1)).all()
        else:
            assert (np.abs(labels) <= LARGEST_TARGET).all()
            assert target.encode(torch.from_numpy(labels), torch.zeros((), dtype=torch.float64)).isfinite().all()


ENQUEUED = b"params_lr,params_rank,note\n0.01,2,first\n0.1,,\n", b"lr,loss\n0.01,bce\n0.1,focal\n"


def suggest(trial: optuna.Trial) -> LaneConfig:
    return LaneConfig(
        lr=trial.suggest_float("lr", 1e-3, 1.0, log=True),
        rank=trial.suggest_categorical("rank", [1, 2]),
        loss=trial.suggest_categorical("loss", ["bce", "focal"]),
    )


STUDY = Study(
    suggest=suggest, baseline={"lr": 0.1, "rank": 1, "loss": "bce"}, max_rank=2, data="nothing", trials=3, epochs=2
)


def read_fixed(folder: Path, content: bytes) -> None:
    path = folder / "trials.csv"
    path.write_bytes(content)
    check_enqueued(STUDY, settled(STUDY, read_enqueued(path)))


def with_task(contents: list[bytes]) -> st.SearchStrategy[tuple[bytes, str | None]]:
    return st.tuples(damaged(contents), TASKS)


def label_readers() -> dict[str, Reader]:
    texts, labels, archives = text_tables(), [csv(table) for table in LABEL_TABLES], label_archives()
    files = [*texts, (".txt", LINES)]
    return {
        "texts": Reader(
            st.sampled_from(texts).flatmap(lambda table: st.tuples(st.just(table[0]), damaged([table[1]]), TASKS)),
            read_texts,
            120,
            10_000,
            [(suffix, content, None) for suffix, content in texts],
        ),
        "text_files": Reader(
            st.sampled_from(files).flatmap(lambda file: st.tuples(st.just(file[0]), damaged([file[1]]))),
            read_text_file,
            120,
            10_000,
            files,
        ),
        "labels": Reader(with_task(labels), read_labels, 120, 10_000, [(content, None) for content in labels]),
        "label_arrays": Reader(
            with_task(archives), read_label_arrays, 120, 10_000, [(content, None) for content in archives]
        ),
        "enqueued": Reader(damaged(list(ENQUEUED)), read_fixed, 100, 5_000, ENQUEUED),
    }
