"""Panels of streams and weights for `stream_kernels.py`, and what is computed with single numbers of them."""

from typing import Any

import numpy as np

from sweep.side_networks.cpu.compile import compiled
from sweep.side_networks.cpu.tiles import multiply
from sweep.side_networks.cpu.vector_math import add_totals
from sweep.side_networks.cpu.vectors import VECTOR, load, loads, splat, store

PANELS = 12
"""Panels of a stream whose numbers are summed at once, so that the weights stay in the nearest cache."""

_ZERO = np.float32(0)


@compiled
def copy(source: Any, at: int, to: Any, first: int, n: int) -> None:
    """Copy `n` numbers, a multiple of `VECTOR`."""
    for i in range(0, n, VECTOR):
        store(to, first + i, load(source, at + i))


@compiled
def totals_of(parts: Any, n_tokens: int, sums: Any) -> None:
    """The sum of every token's vector."""
    sums[:] = _ZERO
    for t in range(0, n_tokens, VECTOR):
        add_totals(sums, t, 1, loads(parts, t * VECTOR, VECTOR, VECTOR, VECTOR))


@compiled
def project(
    stream: Any, at: int, n_tokens: int, n_panels: int, weights: Any, of_weights: int, to: Any, n_numbers: int
) -> None:
    """Multiply a stream in panels by a matrix, and write the products token by token.

    From `at` on, `stream` is that of some tokens, `(D / VECTOR, n_tokens, VECTOR)`. From `of_weights` on, `weights` is
    the matrix in panels, `(n_numbers / VECTOR, D, VECTOR)`. `to` is written, `(n_tokens, n_numbers)`.
    """
    for p in range(0, n_panels, PANELS):
        multiply(
            p == 0,
            n_tokens,
            n_numbers // VECTOR,
            (to, 0, n_numbers, VECTOR),
            (stream, at + p * n_tokens * VECTOR, VECTOR, 1, n_tokens * VECTOR),
            (weights, of_weights + p * VECTOR * VECTOR, VECTOR, n_panels * VECTOR * VECTOR),
            VECTOR,
            min(PANELS, n_panels - p),
        )


@compiled
def pack_streams(
    first_task: int, last_task: int, firsts: Any, lasts: Any, lengths: Any, streams: Any, packed: Any
) -> None:
    """Write what every block adds to the stream, in panels of a few images each.

    Args, the arrays contiguous:
        first_task, last_task: Task `i` is group of images `i % C` and block `i // C`.
        firsts, lasts: First image of each of `C` groups, and the one after its last, `(C,)`.
        lengths: Number of tokens of every image, `(B,)`.
        streams: `S̃`, `(m, B, L, D)`.
        packed: Written, `(m, B, L, D)`. A group's tokens are one after another from its first image on.
    """
    _, B, L, D = streams.shape
    source, to = streams.ravel(), packed.ravel()
    for task in range(first_task, last_task):
        block, group = task // len(firsts), task % len(firsts)
        n_tokens = 0
        for b in range(firsts[group], lasts[group]):
            n_tokens += lengths[b]
        at, t = (block * B + firsts[group]) * L * D, 0
        for b in range(firsts[group], lasts[group]):
            for i in range(lengths[b]):
                row = ((block * B + b) * L + i) * D
                for d in range(0, D, VECTOR):
                    value = load(source, row + d)
                    if block:
                        value = value - load(source, row + d - B * L * D)
                    store(to, at + d * n_tokens + t * VECTOR, value)
                t += 1


@compiled
def add_up_panels(first_task: int, last_task: int, n_written: int, parts: Any, out: Any) -> None:
    """Write the sums of several matrices in panels, row by row.

    Args, the arrays contiguous:
        first_task, last_task: Task `i` is module `i % K` of lane `i // K`.
        n_written: Number of modules that have matrices; those of the others become zero.
        parts: `(G, N, K, D / VECTOR, rows, VECTOR)`.
        out: Written, `(N, K, rows, D)`.
    """
    G, N, K, n_panels, rows, _ = parts.shape
    source, to, step = parts.ravel(), out.ravel(), N * K * rows * n_panels * VECTOR
    for task in range(first_task, last_task):
        at = task * rows * n_panels * VECTOR
        for row in range(rows):
            for p in range(n_panels):
                total = splat(_ZERO)
                if task % K < n_written:
                    of_part = at + (p * rows + row) * VECTOR
                    for _ in range(G):
                        total = total + load(source, of_part)
                        of_part += step
                store(to, at + (row * n_panels + p) * VECTOR, total)
