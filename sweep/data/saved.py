"""Hugging Face data sets on disk, as `datasets.save_to_disk` writes them: Arrow streams beside a little JSON.

They are read with pyarrow and not with the package `datasets`. So nothing more needs to be installed, and names of
files, formats or features in a stranger's JSON are never given to a loader.
"""

import hashlib
from collections.abc import Mapping
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from sweep.data.base import AnyLabels, DataSet, Indices, Split, digest_of
from sweep.data.decoding import Encoded, decode
from sweep.data.files import ImageChecker, inside
from sweep.data.saved_labels import LABEL_COLUMNS, Kinds, LabelColumns, label_columns, read_labels, shown_columns
from sweep.data.split_names import SPLIT_NAMES, split_named
from sweep.data.splitting import divided
from sweep.data.texts import TEXT, text_data
from sweep.errors import SweepError, UsageError
from sweep.machine.checked_files import read_json

INFO, STATE, SPLITS = "dataset_info.json", "state.json", "dataset_dict.json"
TEXT_TYPES = "string", "large_string", "string_view"
AGAIN = "save the data set again with save_to_disk"


def is_saved(folder: Path) -> bool:
    """Whether a folder was written by `save_to_disk`."""
    return (folder / SPLITS).is_file() or (folder / STATE).is_file()


def saved_data_set(folder: Path, *, seed: int | None, checker: ImageChecker, task: str | None = None) -> DataSet:
    """Load a saved `Dataset`, or a `DatasetDict` with train, test and perhaps validation.

    It needs one column of images, their bytes inside (as `save_to_disk` leaves them), or else one of texts, named
    `text` if there are several; and labels: the only `ClassLabel` or list of them, or else a column named `label` or
    `labels`, or else numbers, `target` or `target_…`. No file outside of the folder is read.

    Args:
        folder: the folder that `save_to_disk` wrote.
        seed: seed of the split, if there are no splits or no validation.
        checker: checks the images before they are split.
        task: kind of task; if not given, the columns decide.

    Raises:
        UsageError: splits or columns are wrong, or a row has no image, no text or no label.
        SweepError: a file is damaged, or an image cannot be read and bad images are errors.
    """
    folders = _parts(folder, all_needed=seed is not None)
    parts = {split: _read_part(part, task) for split, part in folders.items()}
    first = next(iter(parts.values()))
    for part in parts.values():
        if part.columns.class_names != first.columns.class_names:
            raise UsageError(f"{part.folder} has other classes than {first.folder}; {AGAIN}")
        if (part.columns, part.of_texts) != (first.columns, first.of_texts):
            raise UsageError(f"{part.folder} has other columns than {first.folder}; {AGAIN}")
    images = [image for part in parts.values() for image in part.images]
    texts = [text for part in parts.values() for text in part.texts]
    values = [row for part in parts.values() for row in part.labels]
    places = [f"{part.folder}, row {row}" for part in parts.values() for row in range(len(part.labels))]
    kept = np.flatnonzero(checker.readable(images)).tolist() if images else list(range(len(texts)))
    if not kept:
        what = "text" if first.of_texts else "image that can be read"
        raise UsageError(f"{folder} has no {what}{checker.remark()}")
    name, what = folder.resolve().name, f"Hugging Face data set {folder}"
    found = read_labels([values[index] for index in kept], first.columns, task, lambda i: places[kept[i]], str(folder))
    splits = [split for split, part in parts.items() for _ in part.labels]
    given = None if "" in parts else [splits[index] for index in kept]
    if first.of_texts:
        return text_data(texts, found, given, places, name=name, what=what, seed=seed)

    def split_of(split: str, members: Indices) -> Split:
        return _split(split, [images[kept[index]] for index in members.tolist()], found.labels[members])

    return divided(
        found.labels,
        found.names,
        given,
        split_of,
        name=name,
        what=what,
        seed=seed,
        checker=checker,
        task=found.task,
    )


def _split(name: str, images: list[Encoded], labels: AnyLabels) -> Split:
    return Split(
        name,
        labels,
        lambda index: decode(images[index]),
        lambda: digest_of(["encoded", labels.tobytes(), *(image.content() for image in images)]),
        lambda index: images[index].name,
        digester=lambda: [hashlib.sha256(image.content()).hexdigest() for image in images],
    )


def _parts(folder: Path, *, all_needed: bool) -> Mapping[str, Path]:
    """The folder of each split, by name; the name is "" if there are no splits. Train and test may be required."""
    if not (folder / SPLITS).is_file():
        return {"": folder}
    path = folder / SPLITS
    names = _texts(path, read_json(path, f"; {AGAIN}").get("splits"), "splits")
    folders = {split_named(name) or name: name for name in names}
    needed = {"train", "test"} if all_needed else set()
    if not needed <= set(folders) <= set(SPLIT_NAMES) or len(folders) < len(names):
        raise UsageError(
            f"{path} has the splits {', '.join(names)[:60]}; sweep takes train, test and, optionally, validation. "
            f"Rename or drop the others and save again"
        )
    return {split: inside(folder, f"{name}/{STATE}", str(path)).parent for split, name in folders.items()}


@dataclass(frozen=True)
class _Part:
    """One saved `Dataset`: its images or texts, and the values of its label columns, row by row."""

    folder: Path
    columns: LabelColumns
    labels: list[tuple[Any, ...]]
    images: list[Encoded]
    texts: list[str]
    of_texts: bool


def _read_part(folder: Path, task: str | None) -> _Part:
    features = read_json(folder / INFO, f"; {AGAIN}").get("features")
    features = features if isinstance(features, dict) else {}
    kinds = {name: kind for name, kind in features.items() if isinstance(kind, dict)}
    item, of_texts = _item_column(folder, kinds)
    columns = label_columns(folder, kinds, task)
    table = _read_table(folder, [item, *columns.names])
    labels = list(zip(*(table.column(name).to_pylist() for name in columns.names), strict=True))
    if of_texts:
        return _Part(folder, columns, labels, [], _texts_of(folder, item, table.column(item)), of_texts)
    contents = _contents(folder, table.column(item))
    images = [Encoded(f"{folder}, row {row}", partial(_content, contents, row)) for row in range(len(labels))]
    return _Part(folder, columns, labels, images, [], of_texts)


def _item_column(folder: Path, kinds: Kinds) -> tuple[str, bool]:
    """The column of images or texts, and whether it has texts."""
    images = [name for name, kind in kinds.items() if kind.get("_type") == "Image"]
    texts = [
        name
        for name, kind in kinds.items()
        if kind.get("_type") == "Value" and kind.get("dtype") in TEXT_TYPES and name not in LABEL_COLUMNS
    ]
    if len(images) == 1:
        return images[0], False
    if not images and (TEXT in texts or len(texts) == 1):
        return (TEXT if TEXT in texts else texts[0]), True
    raise UsageError(
        f"{folder} has {len(images)} Image columns and {len(texts)} text columns; it needs one Image or one text "
        f"column (its columns: {shown_columns(kinds)}). Drop the others, convert the column of images with cast_column "
        f"to datasets.Image(), or rename the column of texts to {TEXT}, and save again"
    )


def _texts_of(folder: Path, name: str, column: pa.ChunkedArray) -> list[str]:
    values: list[str] = column.to_pylist()
    for row, value in enumerate(values):
        if not isinstance(value, str) or not value.strip():
            raise UsageError(f"{folder}, row {row}: {name} is {str(value)[:40]!r}; drop the row and save again")
    return values


def _read_table(folder: Path, columns: list[str]) -> pa.Table:
    """Some columns of all Arrow files of a saved `Dataset`, after checking them completely."""
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
    """A list of texts from a JSON file."""
    if not isinstance(value, list) or not all(isinstance(text, str) for text in value):
        raise SweepError(f"{path} is damaged: its {what} are {str(value)[:60]}; {AGAIN}")
    return value
