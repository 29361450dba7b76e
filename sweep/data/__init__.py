"""Loads data sets by name, or from folders, files or objects: everything that `--data` and `Study.data` take."""

import difflib
import os
from collections.abc import Callable, Mapping
from contextlib import suppress
from dataclasses import replace
from pathlib import Path
from typing import Any

from sweep.data.arrays import array_file
from sweep.data.base import DataSet, SkippedImage, Split
from sweep.data.coco import coco_folder
from sweep.data.coco_files import is_coco_folder
from sweep.data.coco_masks import coco_mask_folder
from sweep.data.files import ImageChecker, OnBadImage
from sweep.data.folder import image_folder
from sweep.data.label_doubts import warn_of_doubts
from sweep.data.mask_folder import is_mask_folder, mask_folder
from sweep.data.objects import object_data
from sweep.data.packaged import DATA_SETS
from sweep.data.saved import is_saved, saved_data_set
from sweep.data.suites import PACKAGED_SUITES, TASK_FILES, find_suite, warn_of_path_of_same_name
from sweep.data.table import AS_IT_IS, load_table
from sweep.data.table_columns import TableOptions
from sweep.data.voc import is_voc_folder, voc_folder
from sweep.data.vtab import is_vtab_task, vtab_task
from sweep.errors import UsageError
from sweep.tasks.kinds import CLASSES, DETECTION, SEGMENTATION

__all__ = ["DATA_SETS", "DataSet", "OnBadImage", "SkippedImage", "Split", "TableOptions", "load_data"]

TABLE_SUFFIXES, ARRAY_SUFFIX = (".csv", ".tsv", ".parquet"), ".npz"

IN_FOLDERS_OF = {
    SEGMENTATION.name: "images/ and masks/, or with annotations in the layout of COCO",
    DETECTION.name: "boxes in the layout of Pascal VOC or COCO",
}
"""What a folder of such a task has in it."""


def load_data(
    spec: str | Mapping[str, Any],
    *,
    seed: int | None,
    cache_dir: Path,
    on_bad_image: OnBadImage = "error",
    task: str | None = None,
    accept_licence: str | None = None,
    table: TableOptions = AS_IT_IS,
) -> DataSet:
    """Load a data set of images or texts; images are decoded when they are opened.

    Args:
        spec: a name in `DATA_SETS`; a folder with a VTAB-1K task (``train800.txt``, ``val200.txt``, ``test.txt``), a
            saved Hugging Face data set, images in one folder per class, with or without ``train``, ``val`` and ``test``
            above the classes, images and masks in the folders ``images`` and ``masks``, or images with boxes as
            `voc_folder` and `coco_folder` read them, or with ``task="segmentation"`` with masks as `coco_mask_folder`
            reads them; a table of images or texts (``.csv``, ``.tsv``, ``.parquet``); an
            archive of arrays (``.npz``); or data set objects by split.
        seed: seed of the split, for data that come without one; data sets that have a name always have the same split.
            None splits nothing: images without a given split are all in `test`, and any split may be empty.
        cache_dir: root of sweep's cache, for data sets that are fetched.
        on_bad_image: ``"skip"`` decodes every image once before splitting, and leaves out those that cannot be read;
            each is logged, and listed in `DataSet.skipped`.
        task: kind of task, see `sweep.tasks.kinds`; if not given, the labels decide.
        accept_licence: the licence that the user accepts, for a data set with a restricted licence.
        table: how a table is read.

    Raises:
        UsageError: there are no data called `spec`, their licence has not been accepted, their content is wrong, or
            they do not make a task of that kind.
        SweepError: a data set cannot be fetched, a file is damaged, or an image cannot be read.
    """
    checker = ImageChecker(on_bad_image)
    if isinstance(spec, str) and spec in DATA_SETS:
        _require_task(spec, DATA_SETS[spec].task, task)
        DATA_SETS[spec].require_accepted(spec, accept_licence)
        _refuse_table_options(spec, table)
        warn_of_path_of_same_name(spec, "data set")
        return DATA_SETS[spec].load(cache_dir)
    data = _own_data(spec, seed, cache_dir, checker, task, table)
    warn_of_doubts(data, task_is_given=task is not None)
    return data


def _own_data(
    spec: str | Mapping[str, Any],
    seed: int | None,
    cache_dir: Path,
    checker: ImageChecker,
    task: str | None,
    table: TableOptions,
) -> DataSet:
    """The user's own data; arguments and errors as `load_data`."""
    if task in (SEGMENTATION.name, DETECTION.name):
        return _of_places(spec, seed, checker, table, task)
    if not isinstance(spec, str):
        _refuse_table_options("Study.data", table)
        return object_data(spec, seed=seed, checker=checker, task=task)
    path = Path(os.path.expanduser(spec))
    if find_suite(spec, cache_dir) is not None:
        raise UsageError(f"{spec} is several tasks, which `sweep run` takes; give one of them here")
    suffix = path.suffix.lower()
    if suffix in TABLE_SUFFIXES and os.path.isfile(path):
        return _named(path, load_table(path, seed=seed, checker=checker, task=task, options=table))
    _refuse_table_options(spec, table)
    if os.path.isdir(path):
        return _from_folder(path, seed, checker, task)
    if suffix == ARRAY_SUFFIX and os.path.isfile(path):
        return _named(path, array_file(path, seed=seed, checker=checker, task=task))
    raise _unknown(spec, path)


def _of_places(
    spec: str | Mapping[str, Any], seed: int | None, checker: ImageChecker, table: TableOptions, task: str
) -> DataSet:
    """The user's own images with masks or boxes."""
    folder = Path(os.path.expanduser(spec)) if isinstance(spec, str) else None
    reader = _reader_of_places(folder, task) if folder is not None and os.path.isdir(folder) else None
    if folder is None or reader is None:
        raise UsageError(
            f"{task} needs a folder with {IN_FOLDERS_OF[task]} (docs/dense.md), and "
            f"{'Study.data' if folder is None else folder} is not one; give another --data"
        )
    _refuse_table_options(str(spec), table)
    return reader(folder, seed=seed, checker=checker)


def _reader_of_places(folder: Path, task: str | None) -> Callable[..., DataSet] | None:
    """The reader of a folder of images with masks or boxes; None if it is neither, or of another kind than `task`."""
    if task in (None, SEGMENTATION.name) and is_mask_folder(folder):
        return mask_folder
    if task == SEGMENTATION.name and is_coco_folder(folder):
        return coco_mask_folder
    if task in (None, DETECTION.name) and is_voc_folder(folder):
        return voc_folder
    if task in (None, DETECTION.name) and is_coco_folder(folder):
        return coco_folder
    return None


def _named(path: Path, data: DataSet) -> DataSet:
    """Data from a file. They keep their name, unless the file is that of a suite's task: then the folder names them."""
    return replace(data, name=path.resolve().parent.name) if path.name in TASK_FILES else data


def _refuse_table_options(what: str, table: TableOptions) -> None:
    if options := table.given():
        raise UsageError(f"{options[0]} is for tables ({', '.join(TABLE_SUFFIXES)}), but {what} is not; leave it out")


def _unknown(spec: str, path: Path) -> UsageError:
    close = difflib.get_close_matches(spec, [*DATA_SETS, *PACKAGED_SUITES], n=1)
    if not close and not os.path.exists(path):
        with suppress(OSError):
            beside = os.listdir(path.parent)
            close = [str(path.parent / name) for name in difflib.get_close_matches(path.name, beside, n=1)]
    reason = "does not exist"
    if os.path.exists(path):
        reason = f"is a file that does not end in {', '.join((*TABLE_SUFFIXES, ARRAY_SUFFIX))}"
    return UsageError(
        f"no data set {spec!r}: `sweep data` has none of that name{f' (did you mean {close[0]}?)' if close else ''}, "
        f"and {path} {reason}.\n"
        f"Give one of {', '.join(DATA_SETS)}; a folder of images, one subfolder per class, or with masks or boxes; a "
        f"table of images or texts; an archive of arrays; a saved Hugging Face data set; or a VTAB-1K task folder "
        f"(docs/data.md)"
    )


def _require_task(what: str, has: str, asked: str | None) -> None:
    """Refuse data that make no task of the kind that was asked for."""
    if asked not in (None, has):
        data = "the labels in a table or arrays (docs/data.md)"
        if asked in IN_FOLDERS_OF:
            data = f"--data a folder with {IN_FOLDERS_OF[asked]} (docs/dense.md)"
        raise UsageError(
            f"{what} makes a task of the kind {has}, not {asked}; leave --task out if you gave it, or give {data}"
        )


def _from_folder(folder: Path, seed: int | None, checker: ImageChecker, task: str | None) -> DataSet:
    of_vtab = is_vtab_task(folder)
    if not of_vtab and is_saved(folder):
        return saved_data_set(folder, seed=seed, checker=checker, task=task)
    if not of_vtab and task is None and (reader := _reader_of_places(folder, task)) is not None:
        return reader(folder, seed=seed, checker=checker)
    _require_task(f"the folder {folder}", CLASSES.name, task)
    if of_vtab:
        return vtab_task(folder, checker)
    return image_folder(folder, seed=seed, checker=checker)
