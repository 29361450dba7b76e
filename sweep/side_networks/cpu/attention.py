"""Low-rank attention of one lane and image on a CPU. Scores are computed in tiles that fit in the nearest cache.

A stock kernel spends its time on the `L × L` scores, because at rank 8 a score costs more to store and load than to
compute. Here a vector holds the scores of `VECTOR` queries with one key, and the loops over the rank are unrolled.

Rows of queries, keys and values are `stride` floats apart. A row has `L` tokens, followed by zeros up to whole vectors.
"""

from typing import Any

import numpy as np

from sweep.side_networks.cpu.compile import compiled
from sweep.side_networks.cpu.vector_math import add_dot, add_scaled, exp, log, maximum, scale_rows
from sweep.side_networks.cpu.vectors import (
    VECTOR,
    load,
    load_wide,
    loads,
    places,
    splat,
    splats,
    store,
    store_rows,
    zeros,
)

MAX_UNROLLED_RANK = 64
"""Above this rank, products in attention are large enough for matrix kernels, and unrolled loops compile too slowly."""

KEYS = 256
"""Number of keys in a tile; a multiple of `KEYS_AT_ONCE`."""

KEYS_AT_ONCE = 4
"""Number of keys whose gradients are in registers together."""

BLOCK = 2
"""Number of vectors of queries in a tile of the backward pass."""

_ZERO, _ONE, _LOWEST = np.float32(0), np.float32(1), np.float32(-3e38)


@compiled
def hidden_keys() -> Any:
    """The masks that are added to the scores of a vector of queries with the key of its first, second, … query.

    Row `j` hides a key from the `j` queries before it. The last row hides a key from all queries.
    """
    hidden = np.zeros((VECTOR + 1) * VECTOR, np.float32)
    for j in range(VECTOR + 1):
        for i in range(j):
            hidden[j * VECTOR + i] = _LOWEST
    return hidden


@compiled
def attend(rank: Any, qkv: Any, stride: int, L: int, causal: bool, out: Any, first: int, log_sum: Any) -> None:
    """`softmax(q kᵀ) v`, and `log Σ exp(score)` of every query, for a rank that is given as a tuple.

    If `causal`, a query only sees keys up to its own token. All queries of a vector see the keys before the vector, and
    none sees the keys after it. For the keys in between, `hidden_keys` is added to the scores.
    """
    R = len(rank)
    keys = np.empty(L * 2 * R, np.float32)  # k and v of a token side by side
    for c in range(2 * R):
        for j in range(L):
            keys[j * 2 * R + c] = qkv[(R + c) * stride + j]
    tile = np.empty(KEYS * VECTOR, np.float32)
    hidden = hidden_keys() if causal else np.empty(0, np.float32)
    for start in range(0, stride, VECTOR):
        n_seen, n_open = (min(L, start + VECTOR), start) if causal else (L, L)
        q = loads(qkv, start, stride, rank, VECTOR)
        attended = zeros(rank, VECTOR)
        p_sum = splat(_ZERO)
        largest = splat(_LOWEST)
        for j0 in range(0, n_seen, KEYS):
            n_keys = min(KEYS, n_seen - j0)
            n_first = max(0, min(n_keys, n_open - j0))
            before = largest
            for j in range(n_first):
                score = add_dot(splat(_ZERO), q, splats(keys, (j0 + j) * 2 * R, 1, rank, VECTOR))
                store(tile, j * VECTOR, score)
                largest = maximum(largest, score)
            for j in range(n_first, n_keys):
                at = (j0 + j - start) * VECTOR
                score = add_dot(load(hidden, at), q, splats(keys, (j0 + j) * 2 * R, 1, rank, VECTOR))
                store(tile, j * VECTOR, score)
                largest = maximum(largest, score)
            factor = exp(before - largest)
            attended = scale_rows(attended, factor)
            p_sum = p_sum * factor
            for j in range(n_keys):
                p = exp(load(tile, j * VECTOR) - largest)
                attended = add_scaled(attended, splats(keys, (j0 + j) * 2 * R + R, 1, rank, VECTOR), p)
                p_sum = p_sum + p
        store_rows(out, first + start, stride, scale_rows(attended, splat(_ONE) / p_sum))
        store(log_sum, start, largest + log(p_sum))


@compiled
def attend_backward(
    rank: Any, qkv: Any, stride: int, L: int, causal: bool, out: Any, d_out: Any, first: int, log_sum: Any, d_qkv: Any
) -> None:
    """The gradient of attention.

    A tile of probabilities and of the scores' gradients is read twice: with vectors along queries for the gradient of
    queries, and with vectors along the rank for the gradients of keys and values. So no sum runs across a vector.
    """
    R, width = len(rank), places(rank)
    W = len(width)
    n_padded = (L + KEYS_AT_ONCE - 1) // KEYS_AT_ONCE * KEYS_AT_ONCE
    keys = np.empty(L * 2 * R, np.float32)
    queries = np.zeros(stride * 2 * W, np.float32)  # q and the gradient g of the output side by side
    inner = np.zeros(stride, np.float32)  # g · output
    for c in range(R):
        for j in range(L):
            keys[j * 2 * R + c] = qkv[(R + c) * stride + j]
            keys[j * 2 * R + R + c] = qkv[(2 * R + c) * stride + j]
            g = d_out[first + c * stride + j]
            queries[j * 2 * W + c] = qkv[c * stride + j]
            queries[j * 2 * W + W + c] = g
            inner[j] += g * out[first + c * stride + j]
    d_keys = np.zeros(n_padded * 2 * W, np.float32)
    rows, of_tile = BLOCK * VECTOR, min(KEYS, n_padded) * BLOCK * VECTOR
    ps, d_scores = np.empty(of_tile, np.float32), np.empty(of_tile, np.float32)
    hidden = hidden_keys() if causal else np.empty(0, np.float32)
    for c in range(R):
        for i in range(stride):
            d_qkv[c * stride + i] = _ZERO
    for start in range(0, stride, rows):
        n_queries = min(rows, stride - start)
        n_seen = min(L, start + n_queries) if causal else L
        for j0 in range(0, n_seen, KEYS):
            n_keys = min(KEYS, n_seen - j0)
            for i in range(0, n_queries, VECTOR):
                q = loads(qkv, start + i, stride, rank, VECTOR)
                shift = splat(_ZERO) - load(log_sum, start + i)
                n_first = max(0, min(n_keys, start + i - j0)) if causal else n_keys
                for j in range(n_first):
                    score = add_dot(shift, q, splats(keys, (j0 + j) * 2 * R, 1, rank, VECTOR))
                    store(ps, j * rows + i, exp(score))
                for j in range(n_first, n_keys):
                    at = min(j0 + j - start - i, VECTOR) * VECTOR
                    score = add_dot(shift + load(hidden, at), q, splats(keys, (j0 + j) * 2 * R, 1, rank, VECTOR))
                    store(ps, j * rows + i, exp(score))
                g = loads(d_out, first + start + i, stride, rank, VECTOR)
                shift = splat(_ZERO) - load(inner, start + i)
                d_q = loads(d_qkv, start + i, stride, rank, VECTOR)
                for j in range(n_keys):
                    d_p = add_dot(shift, g, splats(keys, (j0 + j) * 2 * R + R, 1, rank, VECTOR))
                    d_score = load(ps, j * rows + i) * d_p
                    store(d_scores, j * rows + i, d_score)
                    d_q = add_scaled(d_q, splats(keys, (j0 + j) * 2 * R, 1, rank, VECTOR), d_score)
                store_rows(d_qkv, start + i, stride, d_q)
            for at in range(n_keys * rows, (n_keys + -n_keys % KEYS_AT_ONCE) * rows, VECTOR):
                store(ps, at, splat(_ZERO))
                store(d_scores, at, splat(_ZERO))
            for j in range(0, n_keys, KEYS_AT_ONCE):
                at = (j0 + j) * 2 * W
                d_k = loads(d_keys, at, 2 * W, KEYS_AT_ONCE, width)
                d_v = loads(d_keys, at + W, 2 * W, KEYS_AT_ONCE, width)
                for i in range(min(n_queries, L - start)):
                    of_query = (start + i) * 2 * W
                    d_score = splats(d_scores, j * rows + i, rows, KEYS_AT_ONCE, width)
                    p = splats(ps, j * rows + i, rows, KEYS_AT_ONCE, width)
                    d_k = add_scaled(d_k, d_score, load_wide(queries, of_query, width))
                    d_v = add_scaled(d_v, p, load_wide(queries, of_query + W, width))
                store_rows(d_keys, at, 2 * W, d_k)
                store_rows(d_keys, at + W, 2 * W, d_v)
    for c in range(R):
        for j in range(L):
            d_qkv[(R + c) * stride + j] = d_keys[j * 2 * W + c]
            d_qkv[(2 * R + c) * stride + j] = d_keys[j * 2 * W + W + c]
