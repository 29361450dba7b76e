"""Every random number of a study comes from its seed and a purpose, never from a lane's position or global state."""

import hashlib

import torch


def derive_seed(seed: int, *purpose: str | int) -> int:
    """A seed of 63 bits for one purpose, such as `("initialisation", trial_number)`."""
    digest = hashlib.sha256(repr((seed, *purpose)).encode()).digest()
    return int.from_bytes(digest[:8], "big") >> 1


def generator(seed: int, *purpose: str | int) -> torch.Generator:
    """A CPU generator for one purpose."""
    return torch.Generator().manual_seed(derive_seed(seed, *purpose))
