"""Objects as bytes for another process of this machine.

Functions of a study's file travel with their code, since no other process can import them by name. Features that are
mapped from the cache travel as the path of their file, and tensors as NumPy arrays, which is much faster.
"""

import io
import mmap
import pickle
from typing import Any

import cloudpickle
import numpy as np
import torch

from sweep.machine.user_code import users_modules

CANNOT_BE_SENT = (pickle.PicklingError, TypeError, AttributeError)
"""What `packed` raises for an object that only this process can have, such as an open file."""


class _Packer(cloudpickle.Pickler):  # type: ignore[misc]  # it has no types
    """A pickler for what a worker gets."""

    def reducer_override(self, obj: Any) -> Any:
        """How to make the object again, where it is not pickled in the usual way."""
        if isinstance(obj, np.memmap):
            whole: object = obj.base
            if isinstance(whole, mmap.mmap):
                return _mapped, (str(obj.filename), obj.dtype, obj.shape, obj.offset)
            return np.array, (np.asarray(obj),)
        if type(obj) is torch.Tensor and obj.device.type == "cpu" and obj.dtype != torch.bfloat16:
            return torch.from_numpy, (obj.detach().contiguous().numpy(),)
        return super().reducer_override(obj)


def _mapped(path: str, dtype: np.dtype[Any], shape: tuple[int, ...], offset: int) -> np.ndarray:
    return np.memmap(path, dtype=dtype, mode="c", shape=shape, offset=offset)


def packed(value: object) -> bytes:
    """A value as bytes for `unpacked`; raises one of `CANNOT_BE_SENT` if that is impossible."""
    modules = users_modules()
    for module in modules:
        cloudpickle.register_pickle_by_value(module)
    try:
        buffer = io.BytesIO()
        _Packer(buffer, protocol=pickle.HIGHEST_PROTOCOL).dump(value)
        return buffer.getvalue()
    finally:
        for module in modules:
            cloudpickle.unregister_pickle_by_value(module)


def unpacked(content: bytes) -> Any:
    """The value that was packed. Only for bytes of a process that this run has started: unpacking executes code."""
    return pickle.loads(content)
