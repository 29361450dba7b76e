"""The folders where sweep keeps what it downloads and computes, and how it writes files."""

import errno
import logging
import os
import re
import tempfile
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING

from sweep.errors import SweepError

if TYPE_CHECKING:  # PyTorch takes a second to import
    from torch import Tensor

logger = logging.getLogger(__name__)


def default_cache_dir() -> Path:
    """Return the cache folder: ``$SWEEP_CACHE_DIR``, else ``$XDG_CACHE_HOME/sweep``, else ``~/.cache/sweep``.

    A user without a home folder has one in the folder for temporary files.

    The folder is not created here. An empty variable counts as unset.
    """
    if own := os.environ.get("SWEEP_CACHE_DIR"):
        return Path(own).expanduser()
    if xdg := os.environ.get("XDG_CACHE_HOME"):
        return Path(xdg).expanduser() / "sweep"
    try:
        return Path.home() / ".cache" / "sweep"
    except RuntimeError:  # no home: a container whose user has no entry in passwd, and no HOME
        folder = Path(tempfile.gettempdir()) / f"sweep-{os.getuid()}"
        logger.warning("this user has no home folder; the cache is %s. Set SWEEP_CACHE_DIR to keep it", folder)
        return folder


def ensure_folder(folder: Path) -> Path:
    """Create a folder of the cache if it is missing, and return it.

    Raises:
        SweepError: it cannot be created or written to.
    """
    try:
        folder.mkdir(parents=True, exist_ok=True)
        writable = os.access(folder, os.W_OK)
    except OSError as error:
        raise SweepError(
            f"cannot create the cache folder {folder}: {error.strerror}. Set SWEEP_CACHE_DIR to a folder of yours"
        ) from error
    if not writable:
        raise SweepError(f"cannot write to the cache folder {folder}. Set SWEEP_CACHE_DIR to a folder of yours")
    return folder


@contextmanager
def naming(path: Path) -> Iterator[None]:
    """Let an error of the disk name the file that could not be written: Python names it for few of them.

    Args:
        path: The file that is written inside.
    """
    try:
        yield
    except OSError as error:
        if error.filename is None:
            error.filename = str(path)
        raise


def is_out_of_space(error: BaseException) -> bool:
    """Whether a disk is full, or a user's share of it."""
    return isinstance(error, OSError) and error.errno in (errno.ENOSPC, errno.EDQUOT)


def is_refused_by_the_system(error: BaseException) -> bool:
    """Whether the system refuses a path as it is: no rights, a disk that is read-only, a folder in place of a file."""
    refused = (errno.EACCES, errno.EPERM, errno.EROFS, errno.EISDIR, errno.ENOTDIR, errno.ENAMETOOLONG)
    return isinstance(error, OSError) and error.errno in refused and error.filename is not None


def save_weights(tensors: Mapping[str, "Tensor"], path: Path, metadata: Mapping[str, str] | None = None) -> None:
    """Write tensors as a safetensors file.

    Args:
        tensors: the tensors by name; no two share memory.
        path: the file to create or replace.
        metadata: texts to write beside them.

    Raises:
        OSError: the file cannot be written; safetensors itself raises another error, which names no file.
    """
    from safetensors import SafetensorError
    from safetensors.numpy import save_file as save_arrays
    from safetensors.torch import save_file as save_tensors

    texts = None if metadata is None else dict(metadata)
    dense = {name: tensor.detach().contiguous() for name, tensor in tensors.items()}
    try:
        arrays = {name: tensor.numpy() for name, tensor in dense.items()}
    except TypeError:  # NumPy has no bfloat16, and no memory of a GPU
        arrays = None
    try:
        if arrays is None:
            save_tensors(dense, path, texts)
        else:
            save_arrays(arrays, path, texts)  # the same bytes, in a quarter of the time for many small tensors
    except SafetensorError as error:
        reason = re.search(r"os error (\d+)", str(error))
        number = int(reason[1]) if reason else errno.EIO
        raise OSError(number, os.strerror(number) if reason else str(error), str(path)) from error


def write_atomically(path: Path, write: Callable[[Path], object]) -> None:
    """Write beside `path`, then rename: a reader sees the old file or the new one, even after a power cut.

    Args:
        path: the file to create or replace.
        write: writes the content to the path it is given.

    Raises:
        OSError: the file cannot be written; nothing is left behind.
    """
    partial = path.with_name(f"{path.name}.partial")
    try:
        with naming(path):
            write(partial)
        with partial.open("rb+") as file:
            os.fsync(file.fileno())
        partial.replace(path)
    finally:
        partial.unlink(missing_ok=True)
