"""The backward pass of `stream_kernels.py`."""

from typing import Any

import numpy as np

from sweep.side_networks.cpu.attention import hidden_keys
from sweep.side_networks.cpu.compile import compiled
from sweep.side_networks.cpu.panels import copy, project, totals_of
from sweep.side_networks.cpu.tiles import multiply
from sweep.side_networks.cpu.vector_math import fma
from sweep.side_networks.cpu.vectors import VECTOR, load, splat, store
from sweep.side_networks.cpu.wide_attention import QUERIES, attend_wide_backward

_ZERO, _ONE = np.float32(0), np.float32(1)


@compiled
def _leave(stream: Any, at: int, packed: Any, of_packed: int, n_tokens: int) -> None:
    """Take what a block adds from two panels of the stream."""
    for i in range(0, 2 * n_tokens * VECTOR, VECTOR):
        store(stream, at + i, load(stream, at + i) - load(packed, of_packed + i))


@compiled
def _add_weighted(grads: Any, at: int, weights: Any, stream: Any, of_stream: int, n_tokens: int) -> None:
    """Add two panels of the stream to its gradient, with a weight for every token."""
    for t in range(n_tokens):
        weight = splat(weights[t])
        for i in (t * VECTOR, (n_tokens + t) * VECTOR):
            store(grads, at + i, fma(weight, load(stream, of_stream + i), load(grads, at + i)))


@compiled
def stream_backward(
    R: int,
    first_task: int,
    last_task: int,
    firsts: Any,
    lasts: Any,
    lengths: Any,
    starts: Any,
    stops: Any,
    causal: bool,
    width: Any,
    of_sums: Any,
    packed: Any,
    rows: Any,
    ups: Any,
    up_columns: Any,
    biases: Any,
    qkv: Any,
    attended: Any,
    inverse: Any,
    log_sum: Any,
    last_stream: Any,
    d_pooled: Any,
    d_rows: Any,
    d_ups: Any,
    d_biases: Any,
) -> None:
    """Backward pass of some tasks, where `G` sets of groups of images have sums of their own.

    Args, beside those of the forward pass:
        first_task, last_task: Task `i` is lane `i % N` and sum `i // N`.
        of_sums: The first group of images of each sum, and the number of groups, `(G + 1,)`.
        rows: `W_γ` in panels, `(N, K, D / VECTOR, 3R, VECTOR)`.
        up_columns: `Ũᵀ` in panels, `(N, K, R / VECTOR, D, VECTOR)`.
        last_stream: What the forward pass wrote; becomes the stream of the first module.
        d_pooled: `(N, K, B, R)`.
        d_rows: Written: as `rows`, `(G, N, …)`.
        d_ups: Written, but for the last module: as `ups`, `(G, N, …)`.
        d_biases: Written: `(G, N, K, 3R)`.
    """
    N, K, n_panels = ups.shape[:3]
    m, B, L, D = packed.shape
    per_block = K // m
    most = 0
    for group in range(len(firsts)):
        most = max(most, (lasts[group] - firsts[group]) * L)
    own, d_own = np.zeros((most + VECTOR) * 3 * R, np.float32), np.zeros((most + VECTOR) * 3 * R, np.float32)
    A, minus_A = np.zeros((most + VECTOR) * R, np.float32), np.zeros(most * R, np.float32)
    d_A = np.zeros((most + VECTOR) * R, np.float32)
    parts, sums = np.zeros((most + VECTOR) * VECTOR, np.float32), np.zeros(most + VECTOR, np.float32)
    columns, d_columns = np.empty((L + VECTOR) * R, np.float32), np.empty((L + VECTOR) * R, np.float32)
    scores, d_scores = np.empty(L * QUERIES, np.float32), np.empty(L * QUERIES, np.float32)
    hidden = hidden_keys()
    H = np.empty(most * D, np.float32)
    stream, frozen, of_biases = last_stream.ravel(), packed.ravel(), biases.ravel()
    of_rows, of_ups, of_up_columns = rows.ravel(), ups.ravel(), up_columns.ravel()
    of_qkv, of_attended = qkv.ravel(), attended.ravel()
    of_inverse, of_log_sum, of_pooled = inverse.ravel(), log_sum.ravel(), d_pooled.ravel()
    to_rows, to_ups, to_biases = d_rows.ravel(), d_ups.ravel(), d_biases.ravel()
    for task in range(first_task, last_task):
        n, of_sum = task % N, task // N
        for group in range(of_sums[of_sum], of_sums[of_sum + 1]):
            fresh = group == of_sums[of_sum]
            first, last = firsts[group], lasts[group]
            T = 0
            for b in range(first, last):
                T += lengths[b]
            at = (n * B + first) * L * D
            for k in range(K - 1, -1, -1):
                module, of_grad, tokens = n * K + k, task * K + k, ((n * K + k) * B + first) * L
                copy(of_attended, tokens * R, A, 0, T * R)
                if k + 1 < K:
                    project(H, 0, T, n_panels, of_up_columns, module * R * D, d_A, R)
                    for i in range(0, T * R, VECTOR):
                        store(minus_A, i, splat(_ZERO) - load(A, i))
                    for p in range(0, n_panels, 2):
                        to, panel = at + p * T * VECTOR, p * R * VECTOR
                        if (k + 1) % per_block == 0:
                            _leave(stream, to, frozen, ((k + 1) // per_block * B + first) * L * D + p * T * VECTOR, T)
                        multiply(
                            False,
                            T,
                            2,
                            (stream, to, VECTOR, T * VECTOR),
                            (minus_A, 0, R, 1, 0),
                            (of_ups, module * R * D + panel, VECTOR, R * VECTOR),
                            R,
                            1,
                        )
                        multiply(
                            fresh,
                            R,
                            2,
                            (to_ups, of_grad * R * D + panel, VECTOR, R * VECTOR),
                            (A, 0, 1, R, 0),
                            (H, p * T * VECTOR, VECTOR, T * VECTOR),
                            T,
                            1,
                        )
                else:
                    d_A[:] = _ZERO
                copy(of_qkv, tokens * 3 * R, own, 0, T * 3 * R)
                t = 0
                for b in range(first, last):
                    length = lengths[b]
                    share = splat(_ONE / np.float32(stops[b] - starts[b]))
                    for c in range(0, R, VECTOR):
                        of_token = load(of_pooled, (module * B + b) * R + c) * share
                        for i in range(t + starts[b], t + stops[b]):
                            store(d_A, i * R + c, load(d_A, i * R + c) + of_token)
                    attend_wide_backward(
                        R,
                        own,
                        t * 3 * R,
                        length,
                        causal,
                        hidden,
                        columns,
                        d_columns,
                        scores,
                        d_scores,
                        d_A,
                        t * R,
                        of_log_sum,
                        tokens + t,
                        d_own,
                    )
                    t += length
                parts[:] = _ZERO
                for c in range(0, 3 * R, VECTOR):
                    to_bias, bias = of_grad * 3 * R + c, load(of_biases, module * 3 * R + c)
                    total = splat(_ZERO) if fresh else load(to_biases, to_bias)
                    for t in range(T):
                        to = t * 3 * R + c
                        grad = load(d_own, to)
                        total = total + grad
                        store(parts, t * VECTOR, fma(grad, load(own, to) - bias, load(parts, t * VECTOR)))
                        store(d_own, to, grad * splat(of_inverse[tokens + t]))
                    store(to_biases, to_bias, total)
                totals_of(parts, T, sums)
                for t in range(T):
                    scale = of_inverse[tokens + t]
                    sums[t] = -sums[t] * scale * scale / width
                for p in range(0, n_panels, 2):
                    panel, to = p * 3 * R * VECTOR, p * T * VECTOR
                    multiply(
                        fresh,
                        3 * R,
                        2,
                        (to_rows, of_grad * 3 * R * D + panel, VECTOR, 3 * R * VECTOR),
                        (d_own, 0, 1, 3 * R, 0),
                        (stream, at + to, VECTOR, T * VECTOR),
                        T,
                        1,
                    )
                    if k:
                        multiply(
                            k == K - 1,
                            T,
                            2,
                            (H, to, VECTOR, T * VECTOR),
                            (d_own, 0, 3 * R, 1, 0),
                            (of_rows, module * 3 * R * D + panel, VECTOR, 3 * R * VECTOR),
                            3 * R,
                            1,
                        )
                        _add_weighted(H, to, sums, stream, at + to, T)
