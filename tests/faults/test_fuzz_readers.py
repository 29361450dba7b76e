"""Every reader against damaged and hostile files: an answer or an error of ours, never anything else.

A fast subset runs by default. All of the more than 100,000 inputs:

    pytest -m slow tests/faults/test_fuzz_readers.py
"""

import contextlib
import io
import json
import shutil
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import optuna
import pandas as pd
import pyarrow as pa
import pytest
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from PIL import Image

from backbones import Transform
from sweep import SweepError
from sweep.cli.results import Format, results
from sweep.data import DataSet, Split, load_data
from sweep.data.files import ImageChecker, decode
from sweep.data.vtab import vtab_task
from sweep.features import compute_features
from sweep.objectives import METRICS as VAL_METRICS
from sweep.objectives import Objectives
from sweep.run_folder import RunFolder, read_weights
from sweep.storage import open_storage
from sweep.trial_log import TrialLog, TrialRecord

pytestmark = [
    pytest.mark.filterwarnings(r"ignore::UserWarning:PIL\."),  # as the command does: remarks on damaged metadata
    pytest.mark.filterwarnings("ignore::optuna.exceptions.ExperimentalWarning"),
]

TRANSFORM = Transform(8, (0.5, 0.5, 0.5), (0.5, 0.5, 0.5))
TOKENS = (
    *(
        b"null",
        b"true",
        b"-1",
        b"0",
        b"7",
        b"1e999",
        b"NaN",
        b'"',
        b"{}",
        b"[]",
        b"{",
        b"]",
        b",",
        b":",
        b"\n",
        b"\r\n",
    ),
    *(
        b"99999999999999999999",
        b"9" * 5000,
        b"[" * 3000,
        b'{"a":' * 3000,
        b"\xff",
        b"\x00",
        b"\xef\xbb\xbf",
        b"\xe2\x80\xa8",
    ),
    *(b" ", b"..", b"/", b"\\u0000", b"\\ud800", b"pickle", b"\x80\x04."),
)


@dataclass(frozen=True)
class Reader:
    """What is fuzzed, and with how many inputs."""

    inputs: st.SearchStrategy[Any]
    read: Callable[[Path, Any], object]
    n_fast: int
    n_full: int


@st.composite
def damaged(draw: st.DrawFn, originals: list[bytes]) -> bytes:
    """One of `originals` with one to five edits: bytes changed, cut out, put in, doubled, or the end cut off."""
    content = bytearray(draw(st.sampled_from(originals)))
    edits = st.tuples(
        st.sampled_from(["set", "insert", "token", "token over", "cut", "double", "truncate"]),
        st.integers(0, max(1, len(content))),
        st.integers(1, 32),
        st.binary(min_size=1, max_size=6),
        st.sampled_from(TOKENS),
    )
    for kind, at, length, some, token in draw(st.lists(edits, min_size=1, max_size=5)):
        if kind == "set":
            content[at : at + len(some)] = some
        elif kind == "insert":
            content[at:at] = some
        elif kind == "token":
            content[at:at] = token
        elif kind == "token over":
            content[at : at + length] = token
        elif kind == "cut":
            del content[at : at + length]
        elif kind == "double":
            content[at:at] = content[at : at + length]
        else:
            del content[at:]
    return bytes(content)


def images() -> list[bytes]:
    """Small files of every format that is read, in its odder kinds."""
    noise = np.random.default_rng(0).integers(0, 256, (12, 10, 3), dtype=np.uint8)
    rgb = Image.fromarray(noise)
    exif = Image.Exif()
    exif[0x0112] = 6
    exif[0x010E] = "turned"
    deep = Image.fromarray(noise[..., 0].astype(np.uint16) * 257)
    moving = {"save_all": True, "append_images": [rgb.transpose(Image.Transpose.ROTATE_180)]}
    kinds: list[tuple[str, Image.Image, dict[str, Any]]] = [
        ("JPEG", rgb, {"exif": exif}),
        ("JPEG", rgb, {"progressive": True}),
        ("JPEG", rgb.convert("CMYK"), {}),
        ("PNG", rgb, {"exif": exif}),
        ("PNG", rgb.quantize(8), {"transparency": 1}),
        ("PNG", deep, {}),
        ("PNG", rgb, moving),
        ("GIF", rgb.quantize(8), moving),
        ("BMP", rgb, {}),
        ("BMP", rgb.quantize(8), {}),
        ("TIFF", rgb, {"exif": exif}),
        ("TIFF", rgb, {"compression": "tiff_lzw"}),
        ("TIFF", rgb.convert("CMYK"), {"compression": "tiff_deflate"}),
        ("TIFF", deep, moving),
        ("WEBP", rgb, {"exif": exif}),
        ("WEBP", rgb, {"lossless": True, **moving}),
    ]
    files = []
    for format, image, options in kinds:
        file = io.BytesIO()
        image.save(file, format=format, **options)
        files.append(file.getvalue())
    return files


def read_image(folder: Path, content: bytes) -> None:
    path = folder / "image.png"
    path.write_bytes(content)
    assert ImageChecker("error").readable([path]).all()
    assert TRANSFORM(decode(path)).shape == (3, 8, 8)


LISTS = {
    file: "".join(f"images/{file}/{index}.png {index % 3}\n" for index in range(4)).encode()
    for file in ("train800", "val200", "test")
}


def read_lists(folder: Path, content: bytes) -> None:
    if not (folder / "images").exists():
        for file, lines in LISTS.items():
            (folder / "images" / file).mkdir(parents=True)
            (folder / f"{file}.txt").write_bytes(lines)
            for index in range(4):
                Image.new("RGB", (4, 4)).save(folder / "images" / file / f"{index}.png")
        (folder / "images" / "train800" / "out.png").symlink_to(folder.parent / "private.png")
        Image.new("RGB", (4, 4)).save(folder.parent / "private.png")
    (folder / "train800.txt").write_bytes(content)
    check_data(vtab_task(folder, ImageChecker("error")), inside=folder)


TABLE = "path,label,split\n" + "".join(f"{i}.png,{'ab'[i % 2]},{'train' if i < 4 else 'test'}\n" for i in range(6))


def table_folder(folder: Path) -> Path:
    """Six images, and a link to one outside."""
    root = folder / "table"
    if not root.exists():
        root.mkdir()
        for index in range(6):
            Image.new("RGB", (4, 4)).save(root / f"{index}.png")
        (root / "out.png").symlink_to(folder / "private.png")
        Image.new("RGB", (4, 4)).save(folder / "private.png")
    return root


def read_csv(folder: Path, content: bytes) -> None:
    path = table_folder(folder) / "photos.csv"
    path.write_bytes(content)
    check_data(load_data(str(path), seed=0, cache_dir=folder), inside=path.parent)


def read_parquet(folder: Path, content: bytes) -> None:
    path = table_folder(folder) / "photos.parquet"
    path.write_bytes(content)
    check_data(load_data(str(path), seed=0, cache_dir=folder), inside=path.parent)


ARRAYS = {"images": np.arange(8 * 12, dtype=np.uint8).reshape(8, 4, 3), "labels": np.arange(8) % 2}


def archives() -> list[bytes]:
    files = []
    for save in (np.savez, np.savez_compressed):
        file = io.BytesIO()
        save(file, **ARRAYS)
        files.append(file.getvalue())
    return files


def read_arrays(folder: Path, content: bytes) -> None:
    path = folder / "arrays.npz"
    path.write_bytes(content)
    check_images(load_data(str(path), seed=0, cache_dir=folder))


ROWS = pa.table(
    {
        "image": pa.array([{"bytes": content, "path": None} for content in images()[3:11]]),
        "label": pa.array([index % 2 for index in range(8)]),
    }
)


def saved_files() -> dict[str, bytes]:
    """What `datasets.save_to_disk` leaves; tests/data/test_saved.py reads what the package itself has written."""
    file = io.BytesIO()
    with pa.ipc.new_stream(file, ROWS.schema) as stream:
        stream.write_table(ROWS, max_chunksize=5)
    features = {"image": {"_type": "Image"}, "label": {"names": ["a", "b"], "_type": "ClassLabel"}}
    return {
        "dataset_info.json": json.dumps({"features": features}).encode(),
        "state.json": json.dumps({"_data_files": [{"filename": "data.arrow"}]}).encode(),
        "data.arrow": file.getvalue(),
    }


SAVED = saved_files()


def read_saved(folder: Path, damage: tuple[str, bytes]) -> None:
    root = folder / "saved"
    root.mkdir(exist_ok=True)
    name, content = damage
    for file, intact in {**SAVED, name: content}.items():
        (root / file).write_bytes(intact)
    check_images(load_data(str(root), seed=0, cache_dir=folder))


def check_images(data: DataSet) -> None:
    for split in (data.train, data.val, data.test):
        assert 0 <= split.labels.min() <= split.labels.max() < data.n_classes < 1000
        assert len(split.fingerprint) == 64
        for index in range(split.n_images):
            assert TRANSFORM(split.open(index)).shape == (3, 8, 8)


def check_data(data: DataSet, inside: Path | None = None) -> None:
    for split in (data.train, data.val, data.test):
        assert split.n_images == len(split.labels) > 0
        assert 0 <= split.labels.min() <= split.labels.max() < data.n_classes < 1000
        assert split.source is not None
        files = [Path(split.source(index)) for index in range(split.n_images)]
        assert inside is None or all(path.resolve().is_relative_to(inside) for path in files)


FOLDERS = st.lists(
    st.sampled_from(["train", "val", "test", "cats", "dogs", "Katzen é", ".hidden", "x.png", "deep"]), max_size=3
)
FILES = st.sampled_from(
    [*(f"{index}.png" for index in range(6)), "a.JPG", "notes.txt", ".x.png", "x.png", "noext", "\udcff.gif"]
)
KINDS = st.sampled_from(
    ["image", "image", "image", "image", "junk", "empty", "folder", "dead link", "loop", "link to folder"]
)
LAYOUTS = st.tuples(
    st.lists(st.tuples(FOLDERS, FILES, KINDS), max_size=30),
    st.lists(
        st.sampled_from(["cats", "dogs", "train/cats", "train/dogs", "test/cats", "test/dogs", "val/cats"]), max_size=6
    ),
    st.sampled_from(["error", "skip"]),
)
PICTURE = images()[3]


def read_layout(folder: Path, layout: tuple[list[tuple[list[str], str, str]], list[str], Any]) -> None:
    entries, filled, on_bad_image = layout
    root = folder / "layout"
    shutil.rmtree(root, ignore_errors=True)
    root.mkdir()
    entries = [*entries, *((name.split("/"), f"{index}.png", "image") for name in filled for index in range(4))]
    for parents, name, kind in entries:
        path = root.joinpath(*parents, name)
        with contextlib.suppress(OSError):  # where a file is already, no folder can be
            path.parent.mkdir(parents=True, exist_ok=True)
            if kind == "folder":
                path.mkdir()
            elif kind in ("dead link", "loop", "link to folder"):
                path.symlink_to({"dead link": folder / "nowhere", "loop": path, "link to folder": root}[kind])
            else:
                path.write_bytes({"image": PICTURE, "junk": b"junk", "empty": b""}[kind])
    data = load_data(str(root), seed=0, cache_dir=folder, on_bad_image=on_bad_image)
    check_data(data)
    assert data.train.fingerprint


class MeanBackbone:
    """Gives every image's mean as all its features."""

    name, fingerprint = "mean", "weights"
    width, widths, n_blocks, n_prefix_tokens, tokens, image_size = 3, (3, 3, 3), 2, 1, 5, 4
    stage_indices: tuple[int, ...] = (0, 1, 2)
    transform = Transform(4, (0.0, 0.0, 0.0), (1.0, 1.0, 1.0))

    def stages(self, images: torch.Tensor) -> list[torch.Tensor]:
        return [(255 * images.mean(dim=(1, 2, 3)))[:, None, None].expand(-1, self.tokens, self.width)] * 3


GREYS = Split("val", np.arange(6) % 3, lambda index: Image.new("L", (4, 4), index), lambda: "greys")


def features(folder: Path) -> Any:
    return compute_features(MeanBackbone(), GREYS, cache_dir=folder, batch_size=2)


def cache_entry(folder: Path) -> tuple[Path, dict[str, bytes]]:
    """A complete entry of the feature cache, and the contents of its files."""
    entry = folder / "features" / features(folder).key
    return entry, {path.name: path.read_bytes() for path in sorted(entry.iterdir())}


def read_cache(folder: Path, damage: tuple[float, bool, bytes]) -> None:
    """A damaged entry, complete or half finished, gives the very features, or is computed again."""
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
CONFIG = {"storage": None, "objectives": {"val_top1": "maximize"}}
SUMMARY = {
    "winner": {"trial": 1, "params": {"lr": 0.1}, "trainable_parameters": 1234, "val": METRICS, "test": METRICS},
    "linear_probe": {"stage": 1, "lr": 0.1, "n_configurations": 20, "val": METRICS, "test": METRICS},
    "n_val_images": 20,
    "n_test_images": 30,
    "configs_per_hour": 100.0,
    "ended": "all 3 trials have been trained",
    "n_trials": {"complete": 3, "pruned": 0, "fail": 0},
    "plan": {"search_wall_seconds": 3.0},
    "wall_seconds": dict.fromkeys(("features", "training", "search", "linear_probe", "test", "total"), 1.0),
}


def parquet(table: pd.DataFrame) -> bytes:
    file = io.BytesIO()
    table.to_parquet(file, index=False)
    return file.getvalue()


TRIALS, CURVES = map(parquet, tables())
JSON_VALUES = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=5) | st.just(10**400),
    lambda inner: st.lists(inner, max_size=2) | st.dictionaries(st.text(max_size=3), inner, max_size=2),
    max_leaves=4,
)


@st.composite
def wrong_entries(draw: st.DrawFn) -> bytes:
    """A summary, well-formed, in which a few entries are of another type or value, or gone."""
    summary = json.loads(json.dumps(SUMMARY))
    for _ in range(draw(st.integers(1, 3))):
        place = summary
        for _ in range(draw(st.integers(0, 2))):
            deeper = [value for value in place.values() if isinstance(value, dict) and value]
            place = draw(st.sampled_from(deeper)) if deeper else place
        name = draw(st.sampled_from(sorted(place)))
        if draw(st.booleans()):
            place[name] = draw(JSON_VALUES)
        elif len(place) > 1:
            del place[name]
    return json.dumps(summary).encode()


def run_files(names: list[str], contents: st.SearchStrategy[bytes]) -> st.SearchStrategy[tuple[str, bytes, Format]]:
    return st.tuples(st.sampled_from(names), contents, st.sampled_from(list(Format)))


def read_run(folder: Path, damage: tuple[str, bytes, Format]) -> None:
    """`sweep results` on a run folder of which one file is damaged."""
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


def journal(folder: Path) -> bytes:
    study = optuna.create_study(study_name="run", storage=open_storage(None, RunFolder(folder)), direction="maximize")
    study.enqueue_trial({"lr": 0.1})
    for _ in range(3):
        trial = study.ask()
        trial.suggest_float("lr", 0, 1)
        trial.suggest_categorical("loss", ["bce", "focal"])
        trial.report(0.5, 1)
        trial.set_user_attr("val_top1", 0.5)
        study.tell(trial, 0.5)
    path = RunFolder(folder).journal_path
    content = path.read_bytes()
    path.unlink()
    return content


def read_journal(folder: Path, content: bytes) -> None:
    RunFolder(folder).journal_path.write_bytes(content)
    storage = open_storage(None, RunFolder(folder))
    for study in storage.get_all_studies():
        storage.get_all_trials(study._study_id)


@pytest.fixture(scope="module")
def readers(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Reader]:
    return {
        "images": Reader(damaged(images()), read_image, 500, 30_000),
        "lists": Reader(
            damaged([LISTS["train800"], b"\xef\xbb\xbfimages/train800/out.png 0\r\n"]), read_lists, 300, 25_000
        ),
        "csv": Reader(damaged([TABLE.encode(), TABLE.replace("5.png", "out.png").encode()]), read_csv, 150, 15_000),
        "parquet": Reader(damaged([parquet(pd.read_csv(io.StringIO(TABLE)))]), read_parquet, 150, 15_000),
        "arrays": Reader(damaged(archives()), read_arrays, 150, 15_000),
        "saved": Reader(
            st.sampled_from(sorted(SAVED)).flatmap(lambda name: st.tuples(st.just(name), damaged([SAVED[name]]))),
            read_saved,
            150,
            15_000,
        ),
        "folders": Reader(LAYOUTS, read_layout, 150, 8_000),
        "cache": Reader(st.tuples(st.floats(0, 1), st.booleans(), CACHE_FILES), read_cache, 100, 5_000),
        "json": Reader(
            run_files(["config.json", "summary.json"], damaged([json.dumps(SUMMARY).encode()]) | wrong_entries()),
            read_run,
            60,
            4_000,
        ),
        "tables": Reader(
            run_files(["trials.parquet", "curves.parquet"], damaged([TRIALS, CURVES])), read_run, 100, 8_000
        ),
        "weights": Reader(damaged([weights()]), read_safetensors, 200, 20_000),
        "journal": Reader(damaged([journal(tmp_path_factory.mktemp("journal"))]), read_journal, 150, 20_000),
    }


READERS = (
    "images",
    "lists",
    "csv",
    "parquet",
    "arrays",
    "saved",
    "folders",
    "cache",
    "json",
    "tables",
    "weights",
    "journal",
)


def fuzz(reader: Reader, folder: Path, n_inputs: int) -> int:
    """Read that many inputs; whatever is no error of ours escapes. Returns how many were read."""
    n_read = 0

    @settings(
        max_examples=n_inputs, deadline=None, database=None, derandomize=True, suppress_health_check=list(HealthCheck)
    )
    @given(reader.inputs)
    def read(content: Any) -> None:
        nonlocal n_read
        n_read += 1
        with contextlib.suppress(SweepError):
            reader.read(folder, content)

    read()
    return n_read


def test_the_undamaged_are_read(readers: dict[str, Reader], tmp_path: Path) -> None:
    """Without this, a reader that always fails would pass."""
    for content in images():
        read_image(tmp_path, content)
    read_lists(tmp_path, LISTS["train800"])
    read_csv(tmp_path, TABLE.encode())
    read_parquet(tmp_path, parquet(pd.read_csv(io.StringIO(TABLE))))
    for content in archives():
        read_arrays(tmp_path, content)
    read_saved(tmp_path, ("state.json", SAVED["state.json"]))
    read_layout(tmp_path, ([], ["cats", "dogs"], "error"))
    for format in Format:
        read_run(tmp_path, ("trials.parquet", TRIALS, format))
    read_safetensors(tmp_path, weights())
    read_journal(tmp_path, journal(tmp_path))


@pytest.mark.parametrize("name", READERS)
def test_a_few_thousand_inputs(readers: dict[str, Reader], tmp_path: Path, name: str) -> None:
    assert fuzz(readers[name], tmp_path, readers[name].n_fast) >= readers[name].n_fast


@pytest.mark.slow
@pytest.mark.parametrize("name", READERS)
def test_all_inputs(readers: dict[str, Reader], tmp_path: Path, name: str) -> None:
    n_read = fuzz(readers[name], tmp_path, readers[name].n_full)
    print(f"{name}: {n_read:,} inputs")
    assert n_read >= readers[name].n_full


def test_all_inputs_are_more_than_a_hundred_thousand(readers: dict[str, Reader]) -> None:
    assert set(readers) == set(READERS)
    assert sum(reader.n_full for reader in readers.values()) >= 100_000
