"""Hugging Face data sets on disk, as `datasets.save_to_disk` writes them: Arrow streams beside a little JSON.

They are read with pyarrow, which is what is in them, and not with the package that wrote them: nothing more needs to be
installed, and no name of a file, a format or a feature out of a stranger's JSON reaches a loader.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from sweep.data.base import DataSet, Indices, Labels, Split, digest_of
from sweep.data.files import Encoded, ImageChecker, decode, inside
from sweep.data.labels import name_classes
from sweep.data.splitting import divided
from sweep.errors import SweepError, UsageError
from sweep.run_folder import read_json

INFO, STATE, SPLITS = "dataset_info.json", "state.json", "dataset_dict.json"
SPLIT_ALIASES = {"validation": "val", "valid": "val"}
AGAIN = "save the data set again with save_to_disk"


def is_saved(folder: Path) -> bool:
    """Whether a folder was written by `save_to_disk`."""
    return (folder / SPLITS).is_file() or (folder / STATE).is_file()


def saved_data_set(folder: Path, *, seed: int, checker: ImageChecker) -> DataSet:
    """Load a saved `Dataset`, or a `DatasetDict` with train, test and perhaps validation.

    It needs one column of images, their bytes inside (as `save_to_disk` leaves them), and one of labels: the only
    `ClassLabel`, or else a column named `label` of whole numbers or text. No file outside of the folder is read.

    Args:
        folder: what `save_to_disk` was given.
        seed: seed of the splitting, where there are no splits or no validation.
        checker: tries the images, before they are split.

    Raises:
        UsageError: splits or columns are not as they should be, or a row lacks an image or a label.
        SweepError: a file is damaged, or an image cannot be read and bad images are errors.
    """
    parts = {split: _read_part(part) for split, part in _parts(folder).items()}
    class_names = next(iter(parts.values())).class_names
    images: list[Encoded] = []
    values: list[Any] = []
    given: list[str] = []
    for split, part in parts.items():
        if part.class_names != class_names:
            raise UsageError(f"{part.folder} has other classes than {next(iter(parts.values())).folder}; {AGAIN}")
        images += part.images
        values += part.labels
        given += [split] * len(part.images)
    kept = np.flatnonzero(checker.readable(images)).tolist()
    if not kept:
        raise UsageError(f"{folder} has no image that can be read{checker.remark()}")
    if class_names is None:
        labels, class_names = name_classes([str(values[index]) for index in kept])
    else:
        labels = np.array([values[index] for index in kept], dtype=np.int64)

    def split_of(name: str, members: Indices) -> Split:
        return _split(name, [images[kept[index]] for index in members.tolist()], labels[members])

    return divided(
        labels,
        class_names,
        None if "" in parts else [given[index] for index in kept],
        split_of,
        name=folder.resolve().name,
        what=f"Hugging Face data set {folder}",
        seed=seed,
        checker=checker,
    )


def _split(name: str, images: list[Encoded], labels: Labels) -> Split:
    return Split(
        name,
        labels,
        lambda index: decode(images[index]),
        lambda: digest_of(["encoded", labels.tobytes(), *(image.content() for image in images)]),
        lambda index: images[index].name,
    )


def _parts(folder: Path) -> Mapping[str, Path]:
    """Folder by split; one named "" where there are no splits."""
    if not (folder / SPLITS).is_file():
        return {"": folder}
    path = folder / SPLITS
    names = _texts(path, read_json(path, f"; {AGAIN}").get("splits"), "splits")
    folders = {SPLIT_ALIASES.get(name, name): name for name in names}
    if not {"train", "test"} <= set(folders) <= {"train", "val", "test"} or len(folders) < len(names):
        raise UsageError(
            f"{path} has the splits {', '.join(names)[:60]}; sweep takes train, test and, optionally, validation. "
            f"Rename or drop the others and save again"
        )
    return {split: inside(folder, f"{name}/{STATE}", str(path)).parent for split, name in folders.items()}


@dataclass(frozen=True)
class _Part:
    """One saved `Dataset`: its images, their labels, and the names that the labels have; None where they are names."""

    folder: Path
    images: list[Encoded]
    labels: list[Any]
    class_names: tuple[str, ...] | None


def _read_part(folder: Path) -> _Part:
    features = read_json(folder / INFO, f"; {AGAIN}").get("features")
    features = features if isinstance(features, dict) else {}
    kinds = {name: kind for name, kind in features.items() if isinstance(kind, dict)}
    image_column = _only(folder, kinds, "Image")
    named = [name for name, kind in kinds.items() if kind.get("_type") == "ClassLabel"]
    label_column = named[0] if len(named) == 1 else "label"
    if label_column not in kinds:
        raise UsageError(
            f"{folder} has {len(named)} ClassLabel columns and none named label (its columns: {_shown(kinds)}); "
            f"name the one to learn label and save again"
        )
    class_names = _class_names(folder, kinds[label_column])
    table = _read_table(folder, [image_column, label_column])
    contents, labels = _contents(folder, table.column(image_column)), table.column(label_column).to_pylist()
    images = [Encoded(f"{folder}, row {row}", partial(_content, contents, row)) for row in range(len(labels))]
    for row, label in enumerate(labels):
        whole = isinstance(label, int) and not isinstance(label, bool)
        if class_names is None and (whole or (isinstance(label, str) and label)):
            continue
        if class_names is not None and whole and 0 <= label < len(class_names):
            continue
        wanted = "whole numbers or text" if class_names is None else f"0 to {len(class_names) - 1}"
        raise UsageError(f"{folder}, row {row}: {label_column} is {str(label)[:40]}; labels are {wanted}, one an image")
    return _Part(folder, images, labels, class_names)


def _only(folder: Path, kinds: Mapping[str, Mapping[str, Any]], wanted: str) -> str:
    names = [name for name, kind in kinds.items() if kind.get("_type") == wanted]
    if len(names) != 1:
        raise UsageError(
            f"{folder} has {len(names)} {wanted} columns, one is needed (its columns: {_shown(kinds)}); "
            f"drop the others, or cast_column the right one to datasets.{wanted}(), and save again"
        )
    return names[0]


def _class_names(folder: Path, kind: Mapping[str, Any]) -> tuple[str, ...] | None:
    if kind.get("_type") != "ClassLabel":
        return None
    return tuple(_texts(folder / INFO, kind.get("names"), "class names"))


def _read_table(folder: Path, columns: list[str]) -> pa.Table:
    """Some columns of all Arrow files of a saved `Dataset`, checked to their last offset."""
    state = folder / STATE
    entries = read_json(state, f"; {AGAIN}").get("_data_files")
    files = [entry.get("filename") for entry in entries if isinstance(entry, dict)] if isinstance(entries, list) else []
    names = _texts(state, files or None, "data files")
    tables = []
    for name in names:
        path = inside(folder, name, str(state))
        try:
            with pa.memory_map(str(path)) as file, pa.ipc.open_stream(file) as stream:
                table = stream.read_all().select(columns).replace_schema_metadata(None)
            table.validate(full=True)
        except Exception as error:  # the reader answers damage with errors of a dozen types
            raise SweepError(f"cannot read {path}: {error}; {AGAIN}") from error
        tables.append(table)
    try:
        return pa.concat_tables(tables)
    except pa.ArrowException as error:
        raise SweepError(f"the files of {folder} do not fit together: {error}; {AGAIN}") from error


def _contents(folder: Path, column: pa.ChunkedArray) -> pa.ChunkedArray:
    """The encoded bytes of every image."""
    kind = column.type
    if not pa.types.is_struct(kind) or [field.type for field in kind if field.name == "bytes"] != [pa.binary()]:
        raise SweepError(f"{folder} is damaged: its images are {kind}, not bytes; {AGAIN}")
    contents = pc.struct_field(column, "bytes")
    if contents.null_count:
        row = contents.is_null().to_pylist().index(True)
        raise UsageError(f"{folder}, row {row}: the image's bytes are missing; {AGAIN}, which puts them inside")
    return contents


def _content(contents: pa.ChunkedArray, row: int) -> bytes:
    content: bytes = contents[row].as_py()
    return content


def _texts(path: Path, value: Any, what: str) -> list[str]:
    """A list of texts out of a JSON file."""
    if not isinstance(value, list) or not all(isinstance(text, str) for text in value):
        raise SweepError(f"{path} is damaged: its {what} are {str(value)[:60]}; {AGAIN}")
    return value


def _shown(kinds: Mapping[str, Any]) -> str:
    return ", ".join(kinds)[:80] or "none"
