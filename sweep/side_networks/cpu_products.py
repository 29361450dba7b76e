"""Matrix products of one lane and image, compiled for a CPU: tiles of the result stay in registers.

Rows of `L` tokens lie `stride` floats apart, whole vectors with zeros at the end; rows of width `D` lie `D` apart, a
multiple of `2 · VECTOR`. Ranks are compile-time numbers.
"""

from typing import Any

import numpy as np
from numba import njit

from sweep.side_networks.cpu_vectors import (
    VECTOR,
    add_dot,
    add_scaled,
    add_totals,
    divisor,
    fma,
    load,
    loads,
    splat,
    splats,
    store,
    store_rows,
    zeros,
)

OPTIONS: dict[str, Any] = {"error_model": "numpy", "cache": True, "boundscheck": False, "nogil": True}

ALIGNMENT = 2 * VECTOR
"""Widths are padded to a multiple of it."""

CHUNK = 256
"""Columns of a stream to work on at a time, so that the rows of `Ũ` stay in the nearest cache."""

TOKENS = 8
"""Whose rows of a stream are added to the gradient of `Ũ` at once."""

_ZERO = np.float32(0)


@njit(**OPTIONS)  # type: ignore[untyped-decorator]
def add_product(
    group: Any,
    out: Any,
    first: int,
    rows: int,
    a: Any,
    at: int,
    row_step: int,
    step: int,
    x: Any,
    inner: int,
    stride: int,
) -> None:
    """`out[c] += Σ_i a[c, i] x[i]` over rows of tokens, for rows `c` in groups of a compile-time number."""
    H = len(group)
    for c in range(0, rows, H):
        for t in range(0, stride, 2 * VECTOR):
            t2 = min(t + VECTOR, stride - VECTOR)  # an odd vector at the end is worked on twice, and written once
            to = first + c * stride
            tile, tile2 = loads(out, to + t, stride, group, VECTOR), loads(out, to + t2, stride, group, VECTOR)
            for i in range(inner):
                factors = splats(a, at + c * row_step + i * step, row_step, group, VECTOR)
                tile = add_scaled(tile, factors, load(x, i * stride + t))
                tile2 = add_scaled(tile2, factors, load(x, i * stride + t2))
            store_rows(out, to + t, stride, tile)
            if t2 > t:
                store_rows(out, to + t2, stride, tile2)


@njit(**OPTIONS)  # type: ignore[untyped-decorator]
def add_outer(
    group: Any, out: Any, first: int, row_step: int, x: Any, x_first: int, rows: int, y: Any, columns: int, stride: int
) -> None:
    """`out[c, i] += Σ_l x[c, l] y[i, l]`, for rows `c` in groups of a compile-time number."""
    H = len(group)
    for c in range(0, rows, H):
        for i in range(0, columns, 2):
            i2 = min(i + 1, columns - 1)
            tile, tile2 = zeros(group, VECTOR), zeros(group, VECTOR)
            for t in range(0, stride, VECTOR):
                xs = loads(x, x_first + c * stride + t, stride, group, VECTOR)
                tile = add_scaled(tile, xs, load(y, i * stride + t))
                tile2 = add_scaled(tile2, xs, load(y, i2 * stride + t))
            add_totals(out, first + c * row_step + i, row_step, tile)
            if i2 > i:
                add_totals(out, first + c * row_step + i2, row_step, tile2)


@njit(**OPTIONS)  # type: ignore[untyped-decorator]
def _chunk(width: int) -> int:
    """Columns of a chunk: equal parts of the width, whole pairs of vectors."""
    parts = (width + CHUNK - 1) // CHUNK
    return (width + parts * ALIGNMENT - 1) // (parts * ALIGNMENT) * ALIGNMENT


@njit(**OPTIONS)  # type: ignore[untyped-decorator]
def add_to_stream(
    rank: Any, P: Any, width: int, ups: Any, up: int, A: Any, first: int, stride: int, L: int, S: Any, s: int, sums: Any
) -> None:
    """Over all tokens: `P += Uᵀ A`, then `<P, S>` and `<P, P>`, which become the two rows of `sums`."""
    R, group = len(rank), divisor(rank, 1, 8)
    G = len(group)
    sums[:] = _ZERO
    chunk = _chunk(width)
    for d0 in range(0, width, chunk):
        d1 = min(d0 + chunk, width)
        for i in range(L):
            for g in range(0, R - G, G):
                factors = splats(A, first + g * stride + i, stride, group, VECTOR)
                for d in range(d0, d1, VECTOR):
                    rows = loads(ups, up + g * width + d, width, group, VECTOR)
                    store(P, i * width + d, add_dot(load(P, i * width + d), factors, rows))
            factors = splats(A, first + (R - G) * stride + i, stride, group, VECTOR)
            totals = zeros(2, VECTOR)
            for d in range(d0, d1, VECTOR):
                rows = loads(ups, up + (R - G) * width + d, width, group, VECTOR)
                p = add_dot(load(P, i * width + d), factors, rows)
                store(P, i * width + d, p)
                totals = add_scaled(totals, (load(S, s + i * width + d), p), p)
            add_totals(sums, i, stride, totals)


@njit(**OPTIONS)  # type: ignore[untyped-decorator]
def add_stream_gradients(
    rank: Any,
    H: Any,
    width: int,
    w: Any,
    S: Any,
    s: int,
    ups: Any,
    up: int,
    A: Any,
    d_A: Any,
    first: int,
    stride: int,
    L: int,
    d_ups: Any,
    d_up: int,
) -> None:
    """Over all tokens: `H += w S`, then `dA += U H` and `dU += A Hᵀ`."""
    R, group, small = len(rank), divisor(rank, 1, 8), divisor(rank, 1, 4)
    G, C = len(group), len(small)
    chunk = _chunk(width)
    for d0 in range(0, width, chunk):
        d1 = min(d0 + chunk, width)
        for i0 in range(0, L, TOKENS):
            i1 = min(i0 + TOKENS, L)
            for i in range(i0, i1):
                weight = splat(w[i])
                totals = zeros(group, VECTOR)
                for d in range(d0, d1, VECTOR):
                    h = fma(weight, load(S, s + i * width + d), load(H, i * width + d))
                    store(H, i * width + d, h)
                    totals = add_scaled(totals, loads(ups, up + d, width, group, VECTOR), h)
                add_totals(d_A, first + i, stride, totals)
                for g in range(G, R, G):
                    totals = zeros(group, VECTOR)
                    for d in range(d0, d1, VECTOR):
                        rows = loads(ups, up + g * width + d, width, group, VECTOR)
                        totals = add_scaled(totals, rows, load(H, i * width + d))
                    add_totals(d_A, first + g * stride + i, stride, totals)
            for c in range(0, R, C):
                for d in range(d0, d1, 2 * VECTOR):
                    to = d_up + c * width + d
                    tile, tile2 = (
                        loads(d_ups, to, width, small, VECTOR),
                        loads(d_ups, to + VECTOR, width, small, VECTOR),
                    )
                    for i in range(i0, i1):
                        factors = splats(A, first + c * stride + i, stride, small, VECTOR)
                        tile = add_scaled(tile, factors, load(H, i * width + d))
                        tile2 = add_scaled(tile2, factors, load(H, i * width + d + VECTOR))
                    store_rows(d_ups, to, width, tile)
                    store_rows(d_ups, to + VECTOR, width, tile2)
