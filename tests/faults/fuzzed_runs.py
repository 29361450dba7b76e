"""Readers of sweep's own files for the fuzz tests: feature cache, JSON and tables of a run, weights, journal."""

import contextlib
import io
import json
import shutil
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import numpy as np
import optuna
import pandas as pd
import torch
from fuzzing import TOKENS, Reader, damaged, parquet, wrong_entries
from hypothesis import strategies as st
from PIL import Image

from backbones import Transform
from sweep.cli.results import Format, results
from sweep.data import Split
from sweep.features.cache import compute_features
from sweep.machine.checked_files import read_weights
from sweep.records.folder import RunFolder
from sweep.records.trial_log import TrialLog, TrialRecord
from sweep.search.optuna_storage import open_storage
from sweep.study.objectives import METRICS as VAL_METRICS
from sweep.study.objectives import Objectives


class MeanBackbone:
    """A backbone whose features all equal the mean of the image."""

    name, fingerprint, kind = "mean", "weights", "images"
    width, widths, n_blocks, n_prefix_tokens, tokens, image_size = 3, (3, 3, 3), 2, 1, 5, 4
    stage_indices: tuple[int, ...] = (0, 1, 2)
    transform = Transform(4, (0.0, 0.0, 0.0), (1.0, 1.0, 1.0))

    def stages(self, images: torch.Tensor) -> list[torch.Tensor]:
        return [(255 * images.mean(dim=(1, 2, 3)))[:, None, None].expand(-1, self.tokens, self.width)] * 3


GREYS = Split("val", np.arange(6) % 3, lambda index: Image.new("L", (4, 4), index), lambda: "greys")


def features(folder: Path) -> Any:
    return compute_features(MeanBackbone(), GREYS, cache_dir=folder, batch_size=2)


def cache_entry(folder: Path) -> tuple[Path, dict[str, bytes]]:
    """Return a complete entry of the feature cache, and the contents of its files."""
    entry = folder / "features" / features(folder).key
    return entry, {path.name: path.read_bytes() for path in sorted(entry.iterdir())}


def read_cache(folder: Path, damage: tuple[float, bool, bytes]) -> None:
    """Whether it is complete or partial, a damaged entry either gives the right features or is computed again."""
    choice, partial, content = damage
    remembered = folder / "entry.json"
    if not remembered.exists():
        entry, files = cache_entry(folder)
        remembered.write_text(json.dumps([str(entry), sorted(files)]))
        for name, intact in files.items():
            (folder / name).write_bytes(intact)
    entry_name, names = json.loads(remembered.read_text())
    entry = Path(entry_name)
    for left in (entry, entry.with_suffix(".partial")):
        shutil.rmtree(left, ignore_errors=True)
    place = entry.with_suffix(".partial") if partial else entry
    place.mkdir()
    for name in names:
        shutil.copy(folder / name, place / name)
    (place / names[int(choice * len(names)) % len(names)]).write_bytes(content)
    expected = np.broadcast_to(np.arange(6)[:, None, None, None], (6, 3, 5, 3))
    np.testing.assert_allclose(features(folder).stages, expected, atol=1e-2)


HEADER = {"format": 1, "shape": [6, 3, 5, 3], "batch_size": 2}
NUMBERS = st.integers(-3, 8) | st.sampled_from(
    [10**5, 10**10, 10**12, 10**20, 10**30, 2**63, -(10**20), 0.5, None, "1", [0]]
)
RECORDS = st.lists(st.fixed_dictionaries({"start": NUMBERS, "stop": NUMBERS, "crc32": NUMBERS}), max_size=4).map(
    lambda records: b"".join(json.dumps(record).encode() + b"\n" for record in records)
)
CACHE_FILES = st.one_of(
    RECORDS,
    RECORDS.flatmap(lambda content: damaged([content])),
    damaged([json.dumps(HEADER).encode()]),
    st.binary(max_size=200),
    st.sampled_from(TOKENS),
)


def tables() -> tuple[pd.DataFrame, pd.DataFrame]:
    log = TrialLog(Objectives({"val_top1": "maximize"}))
    for number, loss in enumerate(("cross_entropy", "bce", "focal")):
        record = TrialRecord(number, {"lr": 0.1 * number, "rank": 4, "loss": loss}, [7], 1234)
        log.records.append(record)
        log.measured(record, 1, [{"train_loss": 0.5, **{f"val_{name}": 0.5 for name in VAL_METRICS}}], 1.0)
        record.state = "COMPLETE"
    return log.trials_table(), log.curves_table()


METRICS = {"top1": 0.5, "nll": 1.0}
CONFIG = {
    "epochs": 3,
    "storage": None,
    "objectives": {"val_top1": "maximize"},
    "splits": {"train": {"images": 40}, "val": {"images": 20}},
}
SUMMARY: dict[str, Any] = {
    "winner": {"trial": 1, "params": {"lr": 0.1}, "trainable_parameters": 1234, "val": METRICS, "test": METRICS},
    "linear_probe": {"stage": 1, "lr": 0.1, "n_configurations": 20, "val": METRICS, "test": METRICS},
    "n_val_images": 20,
    "n_test_images": 30,
    "configs_per_hour": 100.0,
    "ended": "all 3 trials have been trained",
    "n_trials": {"complete": 3, "pruned": 0, "fail": 0},
    "n_images_computed": 90,
    "plan": {"search_wall_seconds": 3.0, "lane_epochs": 24.0, "feature_wall_seconds": 1.0, "n_images_missing": 90},
    "wall_seconds": dict.fromkeys(("features", "training", "search", "linear_probe", "test", "total"), 1.0),
}


TRIALS, CURVES = map(parquet, tables())


def run_files(names: list[str], contents: st.SearchStrategy[bytes]) -> st.SearchStrategy[tuple[str, bytes, Format]]:
    return st.tuples(st.sampled_from(names), contents, st.sampled_from(list(Format)))


def read_run(folder: Path, damage: tuple[str, bytes, Format]) -> None:
    """Run `sweep results` on a run folder with one damaged file."""
    name, content, format = damage
    run = RunFolder(folder)
    run.config_path.write_text(json.dumps(CONFIG))
    run.summary_path.write_text(json.dumps(SUMMARY))
    run.trials_path.write_bytes(TRIALS)
    run.curves_path.write_bytes(CURVES)
    (folder / name).write_bytes(content)
    with contextlib.redirect_stdout(io.StringIO()):
        results(folder, format)


def weights() -> bytes:
    from safetensors.torch import save

    return save({"head.weight": torch.ones(3, 4), "head.bias": torch.zeros(3)}, {"rank": "4"})


def read_safetensors(folder: Path, content: bytes) -> None:
    path = folder / "winner.safetensors"
    path.write_bytes(content)
    assert all(isinstance(value, torch.Tensor) for value in read_weights(path).values())


def journal() -> bytes:
    """Return the journal of three trials that ended. Optuna writes it into a temporary folder."""
    with TemporaryDirectory() as name:
        folder = RunFolder(Path(name))
        study = optuna.create_study(study_name="run", storage=open_storage(None, folder), direction="maximize")
        study.enqueue_trial({"lr": 0.1})
        for _ in range(3):
            trial = study.ask()
            trial.suggest_float("lr", 0, 1)
            trial.suggest_categorical("loss", ["bce", "focal"])
            trial.report(0.5, 1)
            trial.set_user_attr("val_top1", 0.5)
            study.tell(trial, 0.5)
        return folder.journal_path.read_bytes()


def read_journal(folder: Path, content: bytes) -> None:
    RunFolder(folder).journal_path.write_bytes(content)
    storage = open_storage(None, RunFolder(folder))
    for study in storage.get_all_studies():
        storage.get_all_trials(study._study_id)


def run_readers() -> dict[str, Reader]:
    summaries = damaged([json.dumps(SUMMARY).encode()]) | wrong_entries(SUMMARY)
    written = journal()
    return {
        "cache": Reader(
            st.tuples(st.floats(0, 1), st.booleans(), CACHE_FILES),
            read_cache,
            100,
            5_000,
            [(0.5, False, json.dumps(HEADER).encode())],
        ),
        "json": Reader(
            run_files(["config.json", "summary.json"], summaries),
            read_run,
            60,
            4_000,
            [("summary.json", json.dumps(SUMMARY).encode(), Format.TABLE)],
        ),
        "tables": Reader(
            run_files(["trials.parquet", "curves.parquet"], damaged([TRIALS, CURVES])),
            read_run,
            100,
            8_000,
            [("trials.parquet", TRIALS, format) for format in Format],
        ),
        "weights": Reader(damaged([weights()]), read_safetensors, 200, 20_000, [weights()]),
        "journal": Reader(damaged([written]), read_journal, 150, 20_000, [written]),
    }
