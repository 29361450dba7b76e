"""Data sets by name or by folder: packaged demo sets, ImageFolder trees, VTAB-1K task folders."""

import difflib
import os
from collections.abc import Callable
from pathlib import Path

from sweep.data.base import DataSet, SkippedImage, Split
from sweep.data.digits import mnist, mnist_count
from sweep.data.files import ImageChecker, OnBadImage
from sweep.data.folder import image_folder
from sweep.data.rendered import count
from sweep.data.vtab import LIST_FILES, vtab_task
from sweep.errors import UsageError

__all__ = ["DATA_SETS", "DataSet", "OnBadImage", "SkippedImage", "Split", "load_data"]

DATA_SETS: dict[str, Callable[[Path], DataSet]] = {
    "count": lambda _cache_dir: count(),
    "mnist": mnist,
    "mnist-count": mnist_count,
}


def load_data(spec: str, *, seed: int, cache_dir: Path, on_bad_image: OnBadImage = "error") -> DataSet:
    """Load a data set; images are decoded when they are opened.

    Args:
        spec: a name in `DATA_SETS`, or a folder: a VTAB-1K task (``train800.txt``, ``val200.txt``,
            ``test.txt``), or images in one folder a class, with or without ``train``, ``val`` and ``test``
            above the classes.
        seed: seed of the split of a folder that does not bring its own; the demo sets are always the same.
        cache_dir: root of sweep's cache, for the demo sets that are fetched.
        on_bad_image: ``"skip"`` decodes every file of a folder once and leaves out, before splitting, those that
            cannot be read; each is logged, and listed in `DataSet.skipped`.

    Raises:
        UsageError: nothing is called `spec`, or the folder does not hold what it should.
        SweepError: a demo set cannot be fetched, or an image cannot be read.
    """
    checker = ImageChecker(on_bad_image)
    if spec in DATA_SETS:
        return DATA_SETS[spec](cache_dir)
    folder = Path(os.path.expanduser(spec))
    if os.path.isdir(folder):
        if any((folder / name).is_file() for name in LIST_FILES.values()):
            return vtab_task(folder, checker)
        return image_folder(folder, seed=seed, checker=checker)
    close = difflib.get_close_matches(spec, DATA_SETS, n=1)
    reason = "is a file" if os.path.exists(folder) else "does not exist"
    raise UsageError(
        f"no data set {spec!r}: it is no demo set{f' (did you mean {close[0]}?)' if close else ''}, "
        f"and the folder {folder} {reason}.\n"
        f"Give one of {', '.join(DATA_SETS)}; a folder of images, one subfolder a class; "
        f"or a VTAB-1K task folder"
    )
