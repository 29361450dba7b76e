"""Matrix products of one lane and image, compiled for a CPU. Tiles of the result stay in registers.

Rows of `L` tokens are `stride` floats apart and end in zeros up to whole vectors. Rows of width `D` are `D` floats
apart, and `D` is a multiple of `2 · VECTOR`. Ranks are known at compile time.
"""

from typing import Any

import numpy as np

from sweep.side_networks.cpu.compile import compiled
from sweep.side_networks.cpu.vector_math import add_dot, add_scaled, add_totals, fma
from sweep.side_networks.cpu.vectors import (
    VECTOR,
    divisor,
    load,
    loads,
    splat,
    splats,
    store,
    store_rows,
    zeros,
)

ALIGNMENT = 2 * VECTOR
"""Widths are padded to a multiple of this number."""

TOKENS = 8
"""Number of tokens whose rows of a stream are added to the gradient of `Ũ` at once."""

_ZERO = np.float32(0)


@compiled
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


@compiled
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


@compiled
def add_to_stream(
    rank: Any, P: Any, width: int, ups: Any, up: int, A: Any, first: int, stride: int, L: int, S: Any, s: int, sums: Any
) -> None:
    """Over all tokens: `P += Uᵀ A`, then `<P, S>` and `<P, P>`, which become the two rows of `sums`."""
    R, group = len(rank), divisor(rank, 1, 4)
    G = len(group)
    sums[:] = _ZERO
    for i in range(0, L, 2):
        p, p2, s_1, s_2 = i * width, (i + 1) * width, s + i * width, s + min(i + 1, L - 1) * width
        for g in range(0, R - G, G):
            at = first + g * stride + i
            factors, factors2 = splats(A, at, stride, group, VECTOR), splats(A, at + 1, stride, group, VECTOR)
            for d in range(0, width, VECTOR):
                rows = loads(ups, up + g * width + d, width, group, VECTOR)
                store(P, p + d, add_dot(load(P, p + d), factors, rows))
                store(P, p2 + d, add_dot(load(P, p2 + d), factors2, rows))
        at = first + (R - G) * stride + i
        factors, factors2 = splats(A, at, stride, group, VECTOR), splats(A, at + 1, stride, group, VECTOR)
        totals, totals2 = zeros(2, VECTOR), zeros(2, VECTOR)
        for d in range(0, width, VECTOR):
            rows = loads(ups, up + (R - G) * width + d, width, group, VECTOR)
            value = add_dot(load(P, p + d), factors, rows)
            store(P, p + d, value)
            totals = add_scaled(totals, (load(S, s_1 + d), value), value)
            value = add_dot(load(P, p2 + d), factors2, rows)
            store(P, p2 + d, value)
            totals2 = add_scaled(totals2, (load(S, s_2 + d), value), value)
        add_totals(sums, i, stride, totals)
        add_totals(sums, i + 1, stride, totals2)


@compiled
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
    R, group = len(rank), divisor(rank, 1, 4)
    G = len(group)
    for i0 in range(0, L, TOKENS):
        i1 = min(i0 + TOKENS, L)
        for i in range(i0, i1, 2):
            h, h2, s_1, s_2 = i * width, (i + 1) * width, s + i * width, s + min(i + 1, L - 1) * width
            weight, weight2 = splat(w[i]), splat(w[i + 1])
            totals, totals2 = zeros(group, VECTOR), zeros(group, VECTOR)
            for d in range(0, width, VECTOR):
                rows = loads(ups, up + d, width, group, VECTOR)
                value = fma(weight, load(S, s_1 + d), load(H, h + d))
                store(H, h + d, value)
                totals = add_scaled(totals, rows, value)
                value = fma(weight2, load(S, s_2 + d), load(H, h2 + d))
                store(H, h2 + d, value)
                totals2 = add_scaled(totals2, rows, value)
            add_totals(d_A, first + i, stride, totals)
            add_totals(d_A, first + i + 1, stride, totals2)
            for g in range(G, R, G):
                totals, totals2 = zeros(group, VECTOR), zeros(group, VECTOR)
                for d in range(0, width, VECTOR):
                    rows = loads(ups, up + g * width + d, width, group, VECTOR)
                    totals = add_scaled(totals, rows, load(H, h + d))
                    totals2 = add_scaled(totals2, rows, load(H, h2 + d))
                add_totals(d_A, first + g * stride + i, stride, totals)
                add_totals(d_A, first + g * stride + i + 1, stride, totals2)
        for c in range(0, R, G):
            for d in range(0, width, 2 * VECTOR):
                to = d_up + c * width + d
                tile, tile2 = (
                    loads(d_ups, to, width, group, VECTOR),
                    loads(d_ups, to + VECTOR, width, group, VECTOR),
                )
                for i in range(i0, i1):
                    factors = splats(A, first + c * stride + i, stride, group, VECTOR)
                    tile = add_scaled(tile, factors, load(H, i * width + d))
                    tile2 = add_scaled(tile2, factors, load(H, i * width + d + VECTOR))
                store_rows(d_ups, to, width, tile)
                store_rows(d_ups, to + VECTOR, width, tile2)
