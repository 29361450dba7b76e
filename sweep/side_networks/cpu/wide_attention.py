"""Attention of one lane and image for larger ranks, from the products of `tiles.py`.

`attention.py` keeps a token's numbers in registers, which are too few for them from a certain rank on. Here the scores
of some queries are a matrix in the nearest caches, and every product has tiles of its own. Nothing is unrolled over the
rank, so the kernels are compiled once for all ranks.

Queries, keys and values of a token are beside each other in a row of `3R` numbers, where `R` is a multiple of `VECTOR`.
"""

from typing import Any

import numpy as np

from sweep.side_networks.cpu.compile import compiled
from sweep.side_networks.cpu.tiles import multiply
from sweep.side_networks.cpu.vector_math import exp, fma, log, maximum
from sweep.side_networks.cpu.vectors import (
    VECTOR,
    load,
    load_part,
    loads,
    splat,
    store,
    store_part,
    store_rows,
    transposed,
)

QUERIES = 6 * VECTOR
"""Number of queries whose scores are in memory at a time."""

_ZERO, _ONE, _LOWEST = np.float32(0), np.float32(1), np.float32(-3e38)


@compiled
def _columns(source: Any, at: int, row: int, n_tokens: int, R: int, to: Any) -> None:
    """Transpose `R` numbers of every token into panels, see `tiles.py`. Up to `VECTOR - 1` more tokens are read."""
    for i in range(0, n_tokens, VECTOR):
        for c in range(0, R, VECTOR):
            tile = loads(source, at + i * row + c, row, VECTOR, VECTOR)
            store_rows(to, i * R + c * VECTOR, VECTOR, transposed(tile))


@compiled
def _hide(scores: Any, start: int, n_seen: int, n_vectors: int, hidden: Any) -> None:
    """Hide every key from the queries before it; see `hidden_keys`."""
    for i in range(0, n_vectors * VECTOR, VECTOR):
        for j in range(start + i, n_seen):
            mask = load(hidden, min(j - start - i, VECTOR) * VECTOR)
            store(scores, j * QUERIES + i, load(scores, j * QUERIES + i) + mask)


@compiled
def _with_queries(
    out: Any, n_seen: int, n_vectors: int, qkv: Any, of_rows: int, row: int, columns: Any, start: int, R: int
) -> None:
    """Write products of rows of keys or values with vectors of queries from `start` on: `QUERIES` numbers a row."""
    multiply(
        True,
        n_seen,
        n_vectors,
        (out, 0, QUERIES, VECTOR),
        (qkv, of_rows, row, 1, 0),
        (columns, start * R, VECTOR, R * VECTOR),
        R,
        1,
    )


@compiled
def attend_wide(
    R: int,
    qkv: Any,
    at: int,
    n_tokens: int,
    causal: bool,
    hidden: Any,
    columns: Any,
    scores: Any,
    out: Any,
    out_at: int,
    log_sum: Any,
    of_logs: int,
) -> None:
    """`softmax(q kᵀ) v`, and `log Σ exp(score)` of every query.

    Args, the arrays float32:
        R: Rank, a multiple of `VECTOR`.
        qkv: Rows of tokens, `3R` numbers each, from `at` on, with `VECTOR` rows of memory behind them.
        n_tokens: Number of tokens.
        causal: Whether a token only sees keys up to its own.
        hidden: What `hidden_keys` returns; read if `causal`.
        columns: Memory for `R` numbers of every token, the tokens rounded up to whole vectors.
        scores: Memory for `QUERIES` numbers of every token.
        out: Written: `R` numbers of every token, from `out_at` on.
        log_sum: Written: a number of every token, from `of_logs` on.
    """
    row, scales = 3 * R, np.empty(QUERIES, np.float32)
    _columns(qkv, at, row, n_tokens, R, columns)
    for start in range(0, n_tokens, QUERIES):
        n_queries = min(QUERIES, n_tokens - start)
        n_vectors = (n_queries + VECTOR - 1) // VECTOR
        n_seen = start + n_queries if causal else n_tokens
        of_keys = at + R
        _with_queries(scores, n_seen, n_vectors, qkv, of_keys, row, columns, start, R)
        if causal:
            _hide(scores, start, n_seen, n_vectors, hidden)
        for i in range(0, n_vectors * VECTOR, VECTOR):
            largest, total = splat(_LOWEST), splat(_ZERO)
            for j in range(n_seen):
                largest = maximum(largest, load(scores, j * QUERIES + i))
            for j in range(n_seen):
                p = exp(load(scores, j * QUERIES + i) - largest)
                store(scores, j * QUERIES + i, p)
                total = total + p
            store(scales, i, splat(_ONE) / total)
            store_part(log_sum, of_logs + start + i, n_queries - i, largest + log(total))
        to = out_at + start * R
        multiply(
            True,
            n_queries,
            R // VECTOR,
            (out, to, R, VECTOR),
            (scores, 0, 1, QUERIES, 0),
            (qkv, at + 2 * R, row, VECTOR),
            n_seen,
            1,
        )
        for i in range(n_queries):
            scale = splat(scales[i])
            for c in range(to + i * R, to + i * R + R, VECTOR):
                store(out, c, load(out, c) * scale)


@compiled
def attend_wide_backward(
    R: int,
    qkv: Any,
    at: int,
    n_tokens: int,
    causal: bool,
    hidden: Any,
    columns: Any,
    d_columns: Any,
    scores: Any,
    d_scores: Any,
    d_out: Any,
    d_at: int,
    log_sum: Any,
    of_logs: int,
    d_qkv: Any,
) -> None:
    """The gradient of attention: `d_qkv`, in rows from `at` on, from `d_out`, in rows of `R` numbers from `d_at` on.

    `columns` and `d_columns`, `scores` and `d_scores` are memory as for the forward pass.
    """
    row = 3 * R
    _columns(qkv, at, row, n_tokens, R, columns)
    _columns(d_out, d_at, R, n_tokens, R, d_columns)
    if causal:
        for i in range(at, at + n_tokens * row, VECTOR):
            store(d_qkv, i, splat(_ZERO))
    of_keys, of_values = at + R, at + 2 * R
    for start in range(0, n_tokens, QUERIES):
        n_queries = min(QUERIES, n_tokens - start)
        n_vectors = (n_queries + VECTOR - 1) // VECTOR
        n_seen = start + n_queries if causal else n_tokens
        _with_queries(scores, n_seen, n_vectors, qkv, of_keys, row, columns, start, R)
        _with_queries(d_scores, n_seen, n_vectors, qkv, of_values, row, d_columns, start, R)
        if causal:
            _hide(scores, start, n_seen, n_vectors, hidden)
        for i in range(0, n_vectors * VECTOR, VECTOR):
            inner, shift = splat(_ZERO), load_part(log_sum, of_logs + start + i, n_queries - i)
            for j in range(n_seen):
                p = exp(load(scores, j * QUERIES + i) - shift)
                store(scores, j * QUERIES + i, p)
                inner = fma(p, load(d_scores, j * QUERIES + i), inner)
            for j in range(n_seen):
                to = j * QUERIES + i
                store(d_scores, to, load(scores, to) * (load(d_scores, to) - inner))
        fresh = start == 0 and not causal
        of_queries = at + start * row
        multiply(
            True,
            n_queries,
            R // VECTOR,
            (d_qkv, of_queries, row, VECTOR),
            (d_scores, 0, 1, QUERIES, 0),
            (qkv, of_keys, row, VECTOR),
            n_seen,
            1,
        )
        multiply(
            fresh,
            n_seen,
            R // VECTOR,
            (d_qkv, of_keys, row, VECTOR),
            (d_scores, 0, QUERIES, 1, 0),
            (qkv, of_queries, row, VECTOR),
            n_queries,
            1,
        )
        multiply(
            fresh,
            n_seen,
            R // VECTOR,
            (d_qkv, of_values, row, VECTOR),
            (scores, 0, QUERIES, 1, 0),
            (d_out, d_at + start * R, R, VECTOR),
            n_queries,
            1,
        )
