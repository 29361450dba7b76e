"""Tables of images or texts: CSV or parquet with columns `path` or `text`, `label`, and `split` if there are splits.

Instead of `label` there may be a column `target`, columns `target_…`, or one column per label.
"""

import os
from collections.abc import Sequence
from pathlib import Path

import numpy as np

from sweep.data.base import DataSet, Indices, Split
from sweep.data.files import ImageChecker, file_split, inside
from sweep.data.labels import Labelled, labelled_by_columns, labelled_by_text
from sweep.data.splitting import divided
from sweep.data.table_columns import NEEDED, Chosen, TableOptions, choose_columns, target_name
from sweep.data.table_files import Row, read_rows
from sweep.data.texts import text_data
from sweep.errors import UsageError
from sweep.tasks.kinds import CLASSES, MULTI_LABEL, REGRESSION

AS_IT_IS = TableOptions()
ELSEWHERE = "give a path below it, or the folder of the images with --image-root"


def load_table(
    path: Path, *, seed: int | None, checker: ImageChecker, task: str | None = None, options: TableOptions = AS_IT_IS
) -> DataSet:
    """Load a table of images; or of texts, if it has a column `text` and no column `path`.

    Paths are relative to the table's folder, or to `options.image_root`, or absolute. All must lead to files in that
    folder after links are resolved, because a table may come from a stranger. Labels are classes, given as whole
    numbers or text. If a label has a `|`, images have several labels. Without a column `label`, columns `target` and
    `target_…` are the targets of a regression. Without these, all columns except `path` (or `text`) and `split` are
    labels, 0 or 1. Other columns are ignored.

    Args:
        path: `*.csv` or `*.tsv` (UTF-8, a header, commas, semicolons or tabs) or `*.parquet`.
        seed: seed of the split, if the table has no column `split` or no val in it.
        checker: checks the images before they are split.
        task: kind of task; if not given, the columns decide.
        options: the folder of the images and the names of columns, if they are not the usual ones.

    Raises:
        UsageError: a column is missing, or a row is wrong (the message says which).
        SweepError: the table is damaged, or an image cannot be read and bad images are errors.
    """
    folder = _image_folder(path, options)
    chosen, rows = read_rows(path, lambda names: choose_columns(path, names, task, options), task)
    if not rows:
        raise UsageError(f"{path} has no rows; {NEEDED}, and one row per image or text")
    found = _labelled(rows, chosen, task)
    what = f"table {path}"
    if chosen.is_text:
        if options.image_root is not None:
            raise UsageError(f"{path} is a table of texts; --image-root is for tables of images: leave it out")
        texts, where = [row.item for row in rows], [row.where for row in rows]
        of_rows = None if chosen.split is None else [row.split or "" for row in rows]
        return text_data(texts, found, of_rows, where, name=path.stem, what=what, seed=seed)
    files: list[Path] = []
    first_row: dict[Path, str] = {}
    for row in rows:
        target = inside(folder, row.item, row.where, ELSEWHERE)
        if target in first_row:
            raise UsageError(f"{row.where}: {row.item} was listed before, in {first_row[target]}; drop one of them")
        first_row[target] = row.where
        files.append(target)
    usable = checker.readable(files)
    kept = np.flatnonzero(usable).tolist()
    if not kept:
        raise UsageError(f"no image of {path} can be read{checker.remark()}")
    labels = found.labels[kept]
    given = None if chosen.split is None else [rows[index].split or "" for index in kept]

    def split_of(name: str, members: Indices) -> Split:
        return file_split(name, folder, [files[kept[index]] for index in members], labels[members])

    return divided(
        labels,
        found.names,
        given,
        split_of,
        name=path.stem,
        what=what,
        seed=seed,
        checker=checker,
        task=found.task,
    )


def _image_folder(path: Path, options: TableOptions) -> Path:
    """The folder that a table's paths are relative to."""
    if options.image_root is None:
        return path.parent
    folder = Path(os.path.expanduser(options.image_root))
    if not folder.is_dir():
        raise UsageError(
            f"--image-root {options.image_root} is not a folder; give the folder that the table's paths are relative to"
        )
    return folder


def _labelled(rows: Sequence[Row], chosen: Chosen, task: str | None) -> Labelled:
    def where(index: int) -> str:
        return rows[index].where

    if chosen.form == "text":
        found = labelled_by_text([row.labels[0] for row in rows], task, where)
        return Labelled(found.task, found.labels, chosen.labels) if found.task == REGRESSION.name else found
    texts = {name: [row.labels[place] for row in rows] for place, name in enumerate(chosen.labels)}
    if chosen.form == "targets":
        return labelled_by_columns({target_name(name): of for name, of in texts.items()}, REGRESSION.name, where)
    return labelled_by_columns(texts, CLASSES.name if task == CLASSES.name else MULTI_LABEL.name, where)
