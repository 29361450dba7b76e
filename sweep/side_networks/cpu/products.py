"""Matrix products of one lane and image, compiled for a CPU. Tiles of the result stay in registers.

Rows of `L` tokens are `stride` floats apart and end in zeros up to whole vectors. Rows of width `D` are `D` floats
apart, and `D` is a multiple of `2 · VECTOR`. Ranks are known at compile time.
"""

from typing import Any

import numpy as np

from sweep.side_networks.cpu.compile import compiled
from sweep.side_networks.cpu.vector_math import add_dot, add_scaled, add_totals, add_totals_of_four, fma
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

GROUP = VECTOR // 2
"""The most rows of a product that are in registers together. A processor with wider vectors has more of them."""

OUTER_GROUP = VECTOR // 4
"""The most rows of an outer product that are in registers together, with four columns each."""

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
        pairs = stride // (2 * VECTOR) * 2 * VECTOR
        for t in range(0, pairs, 2 * VECTOR):
            to, to2 = first + c * stride + t, first + c * stride + t + VECTOR
            tile, tile2 = loads(out, to, stride, group, VECTOR), loads(out, to2, stride, group, VECTOR)
            for i in range(inner):
                factors = splats(a, at + c * row_step + i * step, row_step, group, VECTOR)
                tile = add_scaled(tile, factors, load(x, i * stride + t))
                tile2 = add_scaled(tile2, factors, load(x, i * stride + t + VECTOR))
            store_rows(out, to, stride, tile)
            store_rows(out, to2, stride, tile2)
        for t in range(pairs, stride, VECTOR):
            to = first + c * stride + t
            tile = loads(out, to, stride, group, VECTOR)
            for i in range(inner):
                factors = splats(a, at + c * row_step + i * step, row_step, group, VECTOR)
                tile = add_scaled(tile, factors, load(x, i * stride + t))
            store_rows(out, to, stride, tile)


@compiled
def add_outer(
    group: Any, out: Any, first: int, row_step: int, x: Any, x_first: int, rows: int, y: Any, columns: int, stride: int
) -> None:
    """`out[c, i] += Σ_l x[c, l] y[i, l]`, for rows `c` in groups of a compile-time number."""
    H = len(group)
    for c in range(0, rows, H):
        whole = columns // 4 * 4
        for i in range(0, whole, 4):
            tile, tile2, tile3, tile4 = (
                zeros(group, VECTOR),
                zeros(group, VECTOR),
                zeros(group, VECTOR),
                zeros(group, VECTOR),
            )
            for t in range(0, stride, VECTOR):
                xs = loads(x, x_first + c * stride + t, stride, group, VECTOR)
                tile = add_scaled(tile, xs, load(y, i * stride + t))
                tile2 = add_scaled(tile2, xs, load(y, (i + 1) * stride + t))
                tile3 = add_scaled(tile3, xs, load(y, (i + 2) * stride + t))
                tile4 = add_scaled(tile4, xs, load(y, (i + 3) * stride + t))
            add_totals_of_four(out, first + c * row_step + i, row_step, tile, tile2, tile3, tile4)
        for i in range(whole, columns):
            tile = zeros(group, VECTOR)
            for t in range(0, stride, VECTOR):
                xs = loads(x, x_first + c * stride + t, stride, group, VECTOR)
                tile = add_scaled(tile, xs, load(y, i * stride + t))
            add_totals(out, first + c * row_step + i, row_step, tile)


@compiled
def add_to_stream(
    rank: Any, P: Any, width: int, ups: Any, up: int, A: Any, first: int, stride: int, L: int, S: Any, s: int, sums: Any
) -> None:
    """Over all tokens: `P += Uᵀ A`, then `<P, S>` and `<P, P>`, which become the two rows of `sums`."""
    R, group = len(rank), divisor(rank, 1, GROUP)
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
    R, group = len(rank), divisor(rank, 1, GROUP)
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
