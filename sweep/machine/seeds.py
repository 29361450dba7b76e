"""Random seeds. Each follows from the study's seed and a purpose, never from a lane's position or global state."""

import hashlib
import inspect
import random
import threading
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager, nullcontext
from functools import cache
from typing import Any

import numpy as np
import torch
from torch import Tensor
from torch.overrides import TorchFunctionMode

global_state = threading.RLock()
"""Held by a thread while code that is not sweep's may draw from a global random state, or set one."""

DRAWS_IN_PLACE = ("uniform_", "normal_", "bernoulli_", "exponential_", "random_", "log_normal_", "geometric_")
DRAWS_NEW = ("rand", "randn", "randint", "randperm", "normal", "bernoulli", "multinomial", "poisson")
TAKES_GENERATOR: frozenset[Any] = frozenset(
    [*(getattr(Tensor, name) for name in DRAWS_IN_PLACE), *(getattr(torch, name) for name in DRAWS_NEW)]
)
"""PyTorch's functions that draw random numbers and can be given the generator to draw them from."""


def derive_seed(seed: int, *purpose: str | int) -> int:
    """Return a seed of 63 bits for one purpose, such as `("initialisation", trial_number)`."""
    digest = hashlib.sha256(repr((seed, *purpose)).encode()).digest()
    return int.from_bytes(digest[:8], "big") >> 1


def generator(seed: int, *purpose: str | int) -> torch.Generator:
    """Return a CPU generator for one purpose."""
    return torch.Generator().manual_seed(derive_seed(seed, *purpose))


class _DrawsFrom(TorchFunctionMode):
    """Gives a generator to every function of PyTorch that draws random numbers on the CPU and was given none.

    PyTorch keeps such a mode for each thread by itself, so what other threads draw changes nothing here.
    """

    def __init__(self, own: torch.Generator):
        super().__init__()
        self.own = own

    def __torch_function__(
        self, func: Callable[..., Any], types: Any, args: tuple[Any, ...] = (), kwargs: Mapping[str, Any] | None = None
    ) -> Any:
        options = dict(kwargs or {})
        given = any(isinstance(value, torch.Generator) for value in (*args, *options.values()))
        if not given and _can_take(func) and _on_cpu(args, options):
            options["generator"] = self.own
        return func(*args, **options)


@cache
def _can_take(func: Callable[..., Any]) -> bool:
    """Whether a function can be given a generator; those of `torch.nn.init` are written in Python and say so."""
    if func in TAKES_GENERATOR:
        return True
    return inspect.isfunction(func) and "generator" in inspect.signature(func).parameters


def _on_cpu(args: tuple[Any, ...], options: Mapping[str, Any]) -> bool:
    """Whether the numbers are drawn on the CPU: a generator serves one device, and the meta device draws nothing."""
    for value in (*args, *options.values()):
        if isinstance(value, Tensor):
            return value.device.type == "cpu"
    return torch.device(options.get("device") or torch.get_default_device()).type == "cpu"


@contextmanager
def drawing_from(seed: int) -> Iterator[None]:
    """Make this thread draw PyTorch's random numbers on the CPU from its own generator.

    The numbers are those that follow `torch.manual_seed(seed)`. PyTorch's global state is neither read nor changed, so
    other threads may draw from it meanwhile.

    Args:
        seed: Seed of the generator.
    """
    with _DrawsFrom(torch.Generator().manual_seed(seed)):
        yield


@contextmanager
def seeded(seed: int, *, seeds_itself: bool = False) -> Iterator[None]:
    """Seed all random numbers for code that is not sweep's, and restore the global states afterwards.

    Python and NumPy only have global states, so only one thread at a time can have them seeded. PyTorch draws from a
    generator of this thread.

    Args:
        seed: Seed of all these random states.
        seeds_itself: Whether the code may call `torch.manual_seed`, as a user's may. It then draws from PyTorch's
            global state, where other threads that are not sweep's can disturb it.
    """
    with global_state:
        states = random.getstate(), np.random.get_state(), torch.get_rng_state()
        random.seed(seed)
        np.random.seed(seed % 2**32)
        torch.default_generator.manual_seed(seed)
        try:
            with nullcontext() if seeds_itself else drawing_from(seed):
                yield
        finally:
            random.setstate(states[0])
            np.random.set_state(states[1])
            torch.set_rng_state(states[2])
