"""Suites: several tasks on which one study is run. They are in groups, whose means are compared."""

import logging
import os
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path

from sweep.data.packaged import DATA_SETS, HERE
from sweep.data.saved import is_saved
from sweep.data.scanned import fashion_mnist
from sweep.data.vtab import ALIASES, LIST_FILES
from sweep.errors import UsageError

logger = logging.getLogger(__name__)

VTAB = "VTAB-1K"
VTAB_GROUPS: Mapping[str, tuple[str, ...]] = {
    "natural": ("cifar", "caltech101", "dtd", "oxford_flowers102", "oxford_iiit_pet", "svhn", "sun397"),
    "specialised": ("patch_camelyon", "eurosat", "resisc45", "diabetic_retinopathy"),
    "structured": (
        "clevr_count",
        "clevr_dist",
        "dmlab",
        "kitti",
        "dsprites_loc",
        "dsprites_ori",
        "smallnorb_azi",
        "smallnorb_ele",
    ),
}
PACKAGED_SUITES: Mapping[str, Mapping[str, tuple[str, ...]]] = {
    "mini-vtab": {
        "natural-like": ("fashion-mnist", "mnist"),
        "specialised-like": ("digits", "glyph-font"),
        "structured": ("count", "sprite-scale", "sprite-x"),
    }
}
"""Tasks by group. The groups are similar to VTAB's, but the images are not VTAB's."""

TASK_FILES = "task.csv", "task.parquet", "task.npz"
"""Files that make a subfolder a task of the user's own: a table, or arrays."""

OWN = "own"
"""The only group of the user's own tasks."""


@dataclass(frozen=True)
class Task:
    """One task of a suite.

    Attributes:
        name: Name of the task, and of its run folder.
        group: Name of its group.
        data: The data, as `load_data` takes them.
    """

    name: str
    group: str
    data: str


@dataclass(frozen=True)
class Suite:
    """Several tasks.

    Attributes:
        name: `"mini-vtab"`, `"VTAB-1K"`, or the name of the user's folder.
        tasks: Tasks that are here, group by group.
        missing: Tasks that are not here, each with the reason.
    """

    name: str
    tasks: tuple[Task, ...]
    missing: Mapping[str, str] = field(default_factory=dict)


def find_suite(spec: object, cache_dir: Path) -> Suite | None:
    """Return the suite that a study's data name; None if the data are a single data set, or do not exist.

    Args:
        spec: the name of a packaged suite, a folder that has VTAB-1K task folders in it, or one whose subfolders have
            a table or arrays each, `task.csv`, `task.parquet` or `task.npz`, or are saved Hugging Face data sets.
        cache_dir: root of sweep's cache.

    Raises:
        UsageError: two folders are the same task, or a folder has two task files.
    """
    if not isinstance(spec, str):
        return None
    if spec in PACKAGED_SUITES:
        return _packaged(spec, cache_dir)
    folder = Path(os.path.expanduser(spec))
    if not os.path.isdir(folder) or _is_task(folder) or is_saved(folder):
        return None
    return _vtab(folder) or _own(folder)


def warn_of_path_of_same_name(name: str, what: str) -> None:
    """Warn that a packaged set is used although a file or folder here has the same name.

    Args:
        name: Name of the packaged set.
        what: "set" or "suite", for the message.
    """
    if os.path.exists(name):
        logger.warning(
            "--data %s is sweep's own %s of that name; for the %s here, give --data .%s%s",
            name,
            what,
            "folder" if os.path.isdir(name) else "file",
            os.sep,
            name,
        )


def _packaged(name: str, cache_dir: Path) -> Suite:
    tasks: list[Task] = []
    missing: dict[str, str] = {}
    for group, names in PACKAGED_SUITES[name].items():
        for task in names:
            whereabouts = DATA_SETS[task].whereabouts(cache_dir)
            if DATA_SETS[task].load is fashion_mnist and whereabouts != HERE:
                missing[task] = f"needs {whereabouts}"
            else:
                tasks.append(Task(task, group, task))
    return Suite(name, tuple(tasks), missing)


def _vtab(folder: Path) -> Suite | None:
    """The VTAB-1K tasks below a folder; None if there are none."""
    found: dict[str, Path] = {}
    for path in sorted(path for path in folder.iterdir() if path.is_dir() and _is_task(path)):
        task = ALIASES.get(path.name, path.name)
        if task in found:
            raise UsageError(f"{found[task]} and {path} are both VTAB-1K's {task}; move one of them away")
        found[task] = path
    known = [
        Task(task, group, str(found[task])) for group, tasks in VTAB_GROUPS.items() for task in tasks if task in found
    ]
    if not known:
        return None
    names = {task.name for task in known}
    for name in sorted(set(found) - names):
        logger.warning("ignored: %s has lists of images, but VTAB-1K has no task %s", found[name], name)
    missing = {task: f"not in {folder}" for tasks in VTAB_GROUPS.values() for task in tasks if task not in names}
    return Suite(VTAB, tuple(known), missing)


def _own(folder: Path) -> Suite | None:
    """The user's own tasks below a folder, in order of name; None if there are none."""
    inner = sorted(path for path in folder.iterdir() if path.is_dir() and not path.name.startswith("."))
    tasks = [Task(path.name, OWN, str(data)) for path in inner if (data := _own_task(path)) is not None]
    if not tasks:
        return None
    names = {task.name for task in tasks}
    for path in inner:
        if path.name not in names:
            logger.warning("ignored: %s has no %s and is not a saved data set", path, ", ".join(TASK_FILES))
    return Suite(folder.resolve().name, tuple(tasks))


def _own_task(folder: Path) -> Path | None:
    """The path that `load_data` takes for a subfolder, if it is a task."""
    if is_saved(folder):
        return folder
    files = [folder / name for name in TASK_FILES if (folder / name).is_file()]
    if len(files) > 1:
        raise UsageError(f"{folder} has both {files[0].name} and {files[1].name}; move one of them away")
    return files[0] if files else None


def _is_task(folder: Path) -> bool:
    return any((folder / name).is_file() for name in LIST_FILES.values())
