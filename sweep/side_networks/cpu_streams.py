"""The frozen streams of a batch, compiled for a CPU: while a token's stream is in the cache, all blocks are done."""

from collections.abc import Sequence
from typing import Any

import numpy as np
import torch
from torch import Tensor

from sweep.side_networks.cpu_compile import compiled
from sweep.side_networks.cpu_tasks import on_threads
from sweep.side_networks.cpu_vector_math import add_scaled, add_totals
from sweep.side_networks.cpu_vectors import VECTOR, load, splat, store, zeros

TOKENS = 64
"""Whose streams are taken through all blocks at once: they fit in a core's own cache."""

_ZERO, _ONE = np.float32(0), np.float32(1)


@compiled
def _enter(stage: Any, stream: Any, centred: Any, squares: Any, width: int, first: int, last: int) -> None:
    """`S += z`, then `S̃ = S − mean_D(S)` and `|S̃|²`, of the tokens from `first` up to `last`; arrays are flat."""
    whole = width // VECTOR * VECTOR
    total = np.zeros(1, np.float32)
    for token in range(first, last):
        at = token * width
        total[0] = _ZERO
        sums, one = zeros(1, VECTOR), splat(_ONE)
        for d in range(at, at + whole, VECTOR):
            value = load(stream, d) + load(stage, d)
            store(stream, d, value)
            sums = add_scaled(sums, (value,), one)
        for d in range(at + whole, at + width):
            stream[d] += stage[d]
            total[0] += stream[d]
        add_totals(total, 0, 1, sums)
        mean = total[0] / np.float32(width)
        total[0] = _ZERO
        sums, means = zeros(1, VECTOR), splat(mean)
        for d in range(at, at + whole, VECTOR):
            value = load(stream, d) - means
            store(centred, d, value)
            sums = add_scaled(sums, (value,), value)
        for d in range(at + whole, at + width):
            centred[d] = stream[d] - mean
            total[0] += centred[d] * centred[d]
        add_totals(total, 0, 1, sums)
        squares[token] = total[0]


def centred_streams(stages: Sequence[Tensor]) -> tuple[Tensor, Tensor]:
    """`S̃` of every block, `(m, B, L, D)`, and its `|S̃|²`, `(m, B, L)`, from stages `z_0 … z_m`, each `(B, L, D)`."""
    B, L, D = stages[0].shape
    stream = stages[0].clone(memory_format=torch.contiguous_format)
    centred = stream.new_empty(len(stages) - 1, B, L, D)
    squares = stream.new_empty(len(stages) - 1, B, L)
    flat = [
        (stage.contiguous().view(-1).numpy(), stream.view(-1).numpy(), of_block.view(-1).numpy(), of.view(-1).numpy())
        for stage, of_block, of in zip(stages[1:], centred, squares, strict=True)
    ]

    def run(first: int, last: int) -> None:
        for arrays in flat:
            _enter(*arrays, D, first * TOKENS, min(last * TOKENS, B * L))

    on_threads(run, -(-B * L // TOKENS))
    return centred, squares
