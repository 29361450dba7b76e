"""Random seeds. Each follows from the study's seed and a purpose, never from a lane's position or global state."""

import hashlib
import random
import threading
from collections.abc import Iterator
from contextlib import contextmanager

import numpy as np
import torch

global_state = threading.Lock()
"""A thread holds this lock while code of others may use or set a global random state."""


def derive_seed(seed: int, *purpose: str | int) -> int:
    """Return a seed of 63 bits for one purpose, such as `("initialisation", trial_number)`."""
    digest = hashlib.sha256(repr((seed, *purpose)).encode()).digest()
    return int.from_bytes(digest[:8], "big") >> 1


def generator(seed: int, *purpose: str | int) -> torch.Generator:
    """Return a CPU generator for one purpose."""
    return torch.Generator().manual_seed(derive_seed(seed, *purpose))


@contextmanager
def seeded(seed: int) -> Iterator[None]:
    """Seed the global random states of Python, NumPy and PyTorch, and restore them afterwards; one thread at a time."""
    with global_state:
        states = random.getstate(), np.random.get_state(), torch.get_rng_state()
        random.seed(seed)
        np.random.seed(seed % 2**32)
        torch.default_generator.manual_seed(seed)
        try:
            yield
        finally:
            random.setstate(states[0])
            np.random.set_state(states[1])
            torch.set_rng_state(states[2])
