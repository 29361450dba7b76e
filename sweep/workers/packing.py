"""Objects as bytes for another process.

Functions of a study's file travel with their code, since no other process can import them by name. Features that are
mapped from the cache travel as the path of their file, and tensors as NumPy arrays, which is much faster.
"""

import functools
import io
import mmap
import pickle
from collections.abc import Callable, Collection, Mapping
from pathlib import Path
from typing import Any

import cloudpickle
import numpy as np
import torch

from sweep.features.contents import FEATURES
from sweep.machine.user_code import users_modules

CANNOT_BE_SENT = (pickle.PicklingError, TypeError, AttributeError)
"""What `packed` raises for an object that only this process can have, such as an open file."""


_Cached = type(functools.cache(len))


class _Packer(cloudpickle.Pickler):  # type: ignore[misc]  # it has no types
    """A pickler for what a worker gets.

    Attributes:
        modules: Names of the modules whose functions travel with their code.
        files: Files of the cache that features are mapped from.
    """

    def __init__(self, buffer: io.BytesIO, modules: Collection[str]):
        super().__init__(buffer, protocol=pickle.HIGHEST_PROTOCOL)
        self.modules = modules
        self.files = set[Path]()

    def reducer_override(self, obj: Any) -> Any:
        """How to make the object again, where it is not pickled in the usual way."""
        if isinstance(obj, np.memmap):
            whole: object = obj.base
            if isinstance(whole, mmap.mmap):
                self.files.add(Path(str(obj.filename)))
                return _mapped, (str(obj.filename), obj.dtype, obj.shape, obj.offset)
            return np.array, (np.asarray(obj),)
        if type(obj) is torch.Tensor and obj.device.type == "cpu" and obj.dtype != torch.bfloat16:
            return torch.from_numpy, (obj.detach().contiguous().numpy(),)
        if type(obj) is _Cached and ("<locals>" in obj.__qualname__ or obj.__module__ in self.modules):
            return _cached, (obj.__wrapped__, obj.cache_parameters())  # no other process could import it
        return super().reducer_override(obj)


def _cached(function: Callable[..., Any], parameters: Mapping[str, Any]) -> object:
    """A function with an empty cache of its results."""
    return functools.lru_cache(**parameters)(function)


def _mapped(path: str, dtype: np.dtype[Any], shape: tuple[int, ...], offset: int) -> np.ndarray:
    return np.memmap(path, dtype=dtype, mode="c", shape=shape, offset=offset)


class _Unpacker(pickle.Unpickler):
    """An unpickler for what a worker gets that reads features from a cache of its own."""

    def __init__(self, content: bytes, cache_dir: Path):
        super().__init__(io.BytesIO(content))
        self.cache_dir = cache_dir

    def find_class(self, module: str, name: str) -> Any:
        found = super().find_class(module, name)
        return self._mapped_here if found is _mapped else found

    def _mapped_here(self, path: str, *how: Any) -> np.ndarray:
        *_, entry, file = Path(path).parts
        return _mapped(str(self.cache_dir / FEATURES / entry / file), *how)


def packed(value: object) -> bytes:
    """A value as bytes for `unpacked`; raises one of `CANNOT_BE_SENT` if that is impossible."""
    return packed_with_files(value)[0]


def packed_with_files(value: object) -> tuple[bytes, set[Path]]:
    """Likewise, and the files of the cache that it reads features from."""
    modules = users_modules()
    for module in modules:
        cloudpickle.register_pickle_by_value(module)
    try:
        buffer = io.BytesIO()
        packer = _Packer(buffer, {module.__name__ for module in modules})
        packer.dump(value)
        return buffer.getvalue(), packer.files
    finally:
        for module in modules:
            cloudpickle.unregister_pickle_by_value(module)


def unpacked(content: bytes, cache_dir: Path | None = None) -> Any:
    """The value that was packed. Only for bytes of a process that this run has started: unpacking executes code.

    Args:
        content: The bytes.
        cache_dir: Root of the cache to read features from; if not given, they are read where they were mapped.
    """
    return pickle.loads(content) if cache_dir is None else _Unpacker(content, cache_dir).load()
