"""All modules of one lane and a few images in one compiled task, with a residual stream of their own.

For larger ranks the products `Ũ_j Ũ_iᵀ` of pairs of modules, with which `trunk_kernels.py` avoids such a stream, cost
more than the stream: they are `K·r` numbers wide, and the stream is `D` wide. So the direct form is computed here, on
centred streams (`rank_space.py` explains the names):

    x̃_0 = S̃_0,   x̃_k = x̃_{k-1} + Ũ_{k-1}ᵀ A_{k-1} + z̃     z̃ is S̃_k − S̃_{k-1}
    own_k = W_γ x̃_k / sqrt(|x̃_k|² / D + eps) + W β        A_k = attention of own_k

In the backward pass, let `H` be the gradient of the stream and `w_k / 2` that of `|x̃_k|²`. The stream is computed
backwards from its last value, so only that one is kept:

    dA_k = Ũ_k H,   dŨ_k = A_k Hᵀ,   dW_γ = d_own x̃_kᵀ,   then   H += W_γᵀ d_own + w_k x̃_k

The stream of a few images stays in the processor's second cache. It is stored in panels, see `tiles.py`, and so are the
weights. A task reads and writes numbers of its own lane only, in an order that depends on shapes alone.
"""

from typing import Any

import numpy as np

from sweep.side_networks.cpu.attention import hidden_keys
from sweep.side_networks.cpu.compile import compiled
from sweep.side_networks.cpu.panels import copy, project, totals_of
from sweep.side_networks.cpu.tiles import multiply
from sweep.side_networks.cpu.vector_math import fma, root
from sweep.side_networks.cpu.vectors import VECTOR, load, splat, store
from sweep.side_networks.cpu.wide_attention import QUERIES, attend_wide

_ZERO, _ONE = np.float32(0), np.float32(1)


@compiled
def _enter(stream: Any, at: int, packed: Any, of_packed: int, adds: bool, n_tokens: int, parts: Any) -> None:
    """Add what a block adds to two panels of the stream, and add their squares to `parts`."""
    for i in range(0, n_tokens * VECTOR, VECTOR):
        value, value2 = load(stream, at + i), load(stream, at + n_tokens * VECTOR + i)
        if adds:
            value = value + load(packed, of_packed + i)
            value2 = value2 + load(packed, of_packed + n_tokens * VECTOR + i)
            store(stream, at + i, value)
            store(stream, at + n_tokens * VECTOR + i, value2)
        store(parts, i, fma(value, value, fma(value2, value2, load(parts, i))))


@compiled
def stream_forward(
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
    eps: Any,
    packed: Any,
    down: Any,
    ups: Any,
    biases: Any,
    keep: bool,
    qkv: Any,
    attended: Any,
    inverse: Any,
    log_sum: Any,
    last_stream: Any,
    pooled: Any,
) -> None:
    """Forward pass of some tasks.

    Args, the arrays float32 and contiguous:
        R: Rank, a multiple of `VECTOR`.
        first_task, last_task: Task `i` is lane `i % N` and group of images `i // N`.
        firsts, lasts, lengths, packed: As for `pack_streams`.
        starts, stops: Start and end of the tokens to pool, for every image, `(B,)`.
        causal: Whether a token only attends to itself and earlier tokens.
        width, eps: `D` before padding, and the LayerNorms' eps.
        down: `W_γᵀ` in panels, `(N, K, 3R / VECTOR, D, VECTOR)`.
        ups: `Ũ` in panels, `(N, K, D / VECTOR, R, VECTOR)`.
        biases: `W β`, `(N, K, 3R)`.
        keep: Whether a backward pass will follow. If not, only `pooled` is written, and the others may be empty.
        qkv: Written: `LN(x) W`, `(N, K, B·L, 3R)`.
        attended: Written: `A`, `(N, K, B·L, R)`.
        inverse, log_sum: Written: `1/sqrt(variance + eps)` and `log Σ exp(score)`, `(N, K, B·L)`.
        last_stream: Written: `x̃` of the last module in panels, `(N, B·L, D)`.
        pooled: Written: the mean of `A` over the tokens to pool, `(N, K, B, R)`.
    """
    N, K, n_panels = ups.shape[:3]
    m, B, L, D = packed.shape
    per_block = K // m
    most = 0
    for group in range(len(firsts)):
        most = max(most, (lasts[group] - firsts[group]) * L)
    own, A = np.zeros((most + VECTOR) * 3 * R, np.float32), np.zeros((most + VECTOR) * R, np.float32)
    parts, sums = np.zeros((most + VECTOR) * VECTOR, np.float32), np.zeros(most + VECTOR, np.float32)
    logs = np.zeros(most, np.float32)
    columns, scores = np.empty((L + VECTOR) * R, np.float32), np.empty(L * QUERIES, np.float32)
    hidden = hidden_keys()
    stream = last_stream.ravel() if keep else np.empty(most * D, np.float32)
    frozen, of_down, of_ups, of_biases = packed.ravel(), down.ravel(), ups.ravel(), biases.ravel()
    of_qkv, of_attended = qkv.ravel(), attended.ravel()
    of_inverse, of_log_sum, of_pooled = inverse.ravel(), log_sum.ravel(), pooled.ravel()
    for task in range(first_task, last_task):
        n, group = task % N, task // N
        first, last = firsts[group], lasts[group]
        T = 0
        for b in range(first, last):
            T += lengths[b]
        at = (n * B + first) * L * D if keep else 0
        copy(frozen, first * L * D, stream, at, T * D)
        for k in range(K):
            module, tokens = n * K + k, ((n * K + k) * B + first) * L
            parts[:] = _ZERO
            adds = k > 0 and k % per_block == 0
            for p in range(0, n_panels, 2):
                to = at + p * T * VECTOR
                if k:
                    up = ((module - 1) * n_panels + p) * R * VECTOR
                    multiply(
                        False,
                        T,
                        2,
                        (stream, to, VECTOR, T * VECTOR),
                        (A, 0, R, 1, 0),
                        (of_ups, up, VECTOR, R * VECTOR),
                        R,
                        1,
                    )
                _enter(stream, to, frozen, ((k // per_block) * B + first) * L * D + p * T * VECTOR, adds, T, parts)
            totals_of(parts, T, sums)
            for t in range(0, T, VECTOR):
                store(sums, t, splat(_ONE) / root(load(sums, t) / splat(width) + splat(eps)))
            project(stream, at, T, n_panels, of_down, module * 3 * R * D, own, 3 * R)
            for t in range(T):
                scale = splat(sums[t])
                for c in range(0, 3 * R, VECTOR):
                    value = fma(load(own, t * 3 * R + c), scale, load(of_biases, module * 3 * R + c))
                    store(own, t * 3 * R + c, value)
                    if keep:
                        store(of_qkv, (tokens + t) * 3 * R + c, value)
            t = 0
            for b in range(first, last):
                length = lengths[b]
                attend_wide(R, own, t * 3 * R, length, causal, hidden, columns, scores, A, t * R, logs, t)
                for c in range(0, R, VECTOR):
                    total = splat(_ZERO)
                    for i in range(t + starts[b], t + stops[b]):
                        total = total + load(A, i * R + c)
                    store(of_pooled, (module * B + b) * R + c, total / splat(np.float32(stops[b] - starts[b])))
                t += length
            if keep:
                copy(A, 0, of_attended, tokens * R, T * R)
                for t in range(T):
                    of_inverse[tokens + t] = sums[t]
                    of_log_sum[tokens + t] = logs[t]
