"""Readers of data for the fuzz tests: images, lists, tables, arrays, saved data sets and folder trees."""

import contextlib
import io
import json
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pyarrow as pa
from fuzzing import Reader, damaged, parquet
from hypothesis import strategies as st
from PIL import Image

from backbones import Transform
from sweep.data import DataSet, load_data
from sweep.data.decoding import decode
from sweep.data.files import ImageChecker
from sweep.data.vtab import vtab_task

TRANSFORM = Transform(8, (0.5, 0.5, 0.5), (0.5, 0.5, 0.5))


def images() -> list[bytes]:
    """Return small image files of every supported format, including unusual variants."""
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
    """Create a folder of six images and a link to an image outside it."""
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
    """Return the files that `datasets.save_to_disk` writes. tests/data/test_saved.py uses the package itself."""
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
        with contextlib.suppress(OSError):  # a folder cannot be created where a file already is
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


def data_readers() -> dict[str, Reader]:
    table = parquet(pd.read_csv(io.StringIO(TABLE)))
    linked = TABLE.replace("5.png", "out.png").encode()
    return {
        "images": Reader(damaged(images()), read_image, 500, 30_000, images()),
        "lists": Reader(
            damaged([LISTS["train800"], b"\xef\xbb\xbfimages/train800/out.png 0\r\n"]),
            read_lists,
            300,
            25_000,
            [LISTS["train800"]],
        ),
        "csv": Reader(damaged([TABLE.encode(), linked]), read_csv, 150, 15_000, [TABLE.encode()]),
        "parquet": Reader(damaged([table]), read_parquet, 150, 15_000, [table]),
        "arrays": Reader(damaged(archives()), read_arrays, 150, 15_000, archives()),
        "saved": Reader(
            st.sampled_from(sorted(SAVED)).flatmap(lambda name: st.tuples(st.just(name), damaged([SAVED[name]]))),
            read_saved,
            150,
            15_000,
            list(SAVED.items()),
        ),
        "folders": Reader(LAYOUTS, read_layout, 150, 8_000, [([], ["cats", "dogs"], "error")]),
    }
