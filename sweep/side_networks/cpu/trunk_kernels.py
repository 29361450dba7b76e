"""All modules of one lane and image in one compiled task, forward and backward.

`rank_space.py` explains the names. Only sums of the products `Ũ_j S̃_k` over modules and the rank are needed, so the
products themselves are never formed. Let `P_k` be the lane's own stream of one image, kept in the processor's cache:

    P_k = Σ_{j<k} Ũ_jᵀ A_j          |x̃_k|² = |S̃_k|² + 2 <P_k, S̃_k> + <P_k, P_k>

A module adds to `P` and computes both products in one pass over it. In the backward pass, the gradient of `|x̃_k|²` is
one number per token, `w_k / 2`. With

    H_j = Σ_{k>j} w_k S̃_k           ω_j = Σ_{k>j} w_k           B_j = ω_j A_j

    dA_j += Ũ_j H_j + ω_j Σ_{i≤j} Ũ_j Ũ_iᵀ A_i + Σ_{i>j} Ũ_j Ũ_iᵀ B_i
    dŨ_j += A_j H_jᵀ + Σ_{i≤j} (B_j A_iᵀ) Ũ_i + Σ_{i>j} (A_j B_iᵀ) Ũ_i

where the tasks return the small matrices `B_j A_iᵀ`. A task reads and writes numbers of its own lane only, in an order
that depends on shapes alone; so a lane's result has the same bits in any stack.
"""

from typing import Any

import numpy as np

from sweep.side_networks.cpu.attention import attend, attend_backward
from sweep.side_networks.cpu.compile import compiled
from sweep.side_networks.cpu.products import (
    GROUP,
    OUTER_GROUP,
    add_outer,
    add_product,
    add_stream_gradients,
    add_to_stream,
)
from sweep.side_networks.cpu.vector_math import add_totals, fma, root
from sweep.side_networks.cpu.vectors import VECTOR, divisor, load, load_part, splat, store, store_part

_ZERO, _ONE, _TWO = np.float32(0), np.float32(1), np.float32(2)


@compiled
def _read(source: Any, at: int, row: int, rows: int, n_tokens: int, to: Any, first: int, stride: int) -> None:
    """Copy rows of tokens, `row` floats apart from `at` on, to rows that lie `stride` apart and end in zeros."""
    for c in range(rows):
        for t in range(0, stride, VECTOR):
            store(to, first + c * stride + t, load_part(source, at + c * row + t, n_tokens - t))


@compiled
def _write(source: Any, first: int, stride: int, rows: int, n_tokens: int, to: Any, at: int, row: int) -> None:
    """Copy rows back, and put zeros behind the tokens of the source."""
    for c in range(rows):
        for t in range(0, stride, VECTOR):
            value = load_part(source, first + c * stride + t, n_tokens - t)
            store(source, first + c * stride + t, value)
            store_part(to, at + c * row + t, n_tokens - t, value)


@compiled
def _fill(value: Any, start: int, stop: int, to: Any, first: int) -> None:
    """Set the numbers from `start` to `stop` of a row."""
    for i in range(start, stop, VECTOR):
        store_part(to, first + i, stop - i, splat(value))


@compiled
def _mean(row: Any, first: int, start: int, stop: int, scratch: Any) -> Any:
    """The mean of the numbers from `start` to `stop` of a row."""
    total = splat(_ZERO)
    for i in range(start, stop, VECTOR):
        total = total + load_part(row, first + i, stop - i)
    scratch[0] = _ZERO
    add_totals(scratch, 0, 1, (total,))
    return scratch[0] / np.float32(stop - start)


@compiled
def _normalise(
    own: Any, rows: int, stride: int, n_tokens: int, inverse: Any, biases: Any, bias: int, qkv: Any, at: int, row: int
) -> None:
    """From `W_γ x̃` to `LN(x) W`, in `own` and `qkv`, with `1/sqrt(variance + eps)` of every token."""
    for c in range(rows):
        of_row = splat(biases[bias + c])
        for t in range(0, stride, VECTOR):
            value = fma(load(own, c * stride + t), load(inverse, t), of_row)
            store(own, c * stride + t, value)
            store_part(qkv, at + c * row + t, n_tokens - t, value)


@compiled
def _normalise_backward(
    own: Any,
    d_own: Any,
    rows: int,
    stride: int,
    n_tokens: int,
    inverse: Any,
    biases: Any,
    bias: int,
    width: Any,
    qkv: Any,
    at: int,
    row: int,
    d_biases: Any,
    d_bias: int,
    w: Any,
) -> None:
    """From the gradient of `LN(x) W`, which `own` is, to that of `W_γ x̃`, in `d_own` and `qkv`; `w` is written."""
    w[:] = _ZERO
    for c in range(rows):
        total, of_row = splat(_ZERO), splat(biases[bias + c])
        for t in range(0, stride, VECTOR):
            grad = load(d_own, c * stride + t)
            total = total + grad
            store(w, t, fma(grad, load(own, c * stride + t) - of_row, load(w, t)))
            grad = grad * load(inverse, t)
            store(d_own, c * stride + t, grad)
            store_part(qkv, at + c * row + t, n_tokens - t, grad)
        add_totals(d_biases, d_bias + c, 1, (total,))
    for t in range(0, stride, VECTOR):
        scale = load(inverse, t)
        store(w, t, (splat(_ZERO) - load(w, t)) * scale * scale / splat(width))


@compiled
def trunk_forward(
    rank: Any,
    first_task: int,
    last_task: int,
    qkv: Any,
    attended: Any,
    inverse: Any,
    log_sum: Any,
    streams: Any,
    squares: Any,
    biases: Any,
    ups: Any,
    mixing: Any,
    width: Any,
    eps: Any,
    lengths: Any,
    starts: Any,
    stops: Any,
    causal: bool,
    pooled: Any,
) -> None:
    """Forward pass of some tasks.

    Args, the arrays float32 and contiguous:
        rank: `r` numbers.
        first_task, last_task: Task `i` is lane `i % N` and image `i // N`.
        qkv: `W_γ S̃`, `(K, N, 3r, B, L)`; becomes `LN(x) W`.
        attended: Written: `A`, `(K, N, r, B, L)`.
        inverse, log_sum: Written: `1/sqrt(variance + eps)` and `log Σ exp(score)`, `(K, N, B, L)`.
        streams, squares: `S̃`, `(m, B, L, D)`, and `|S̃|²`, `(m, B, L)`.
        biases, ups: `W β`, `(N, K, 3r)`, and `Ũ`, `(N, K, r, D)`.
        mixing: `W_γ Ũᵀ`, `(N, K, 3r, K·r)`, of which `k·r` columns are read.
        width, eps: `D` before padding, and the LayerNorms' eps.
        lengths: Number of tokens of every image, `(B,)`. After them, `S̃` is zero and nothing is written.
        starts, stops: Start and end of the tokens to pool, for every image, `(B,)`.
        causal: Whether a token only attends to itself and earlier tokens.
        pooled: Written: the mean of `A` over them, `(N, K·r, B)`.
    """
    R, group = len(rank), divisor(rank, 3, GROUP)
    K, N, _, B, L = qkv.shape
    D = ups.shape[3]
    modules_per_block = K // streams.shape[0]
    stride = (L + VECTOR - 1) // VECTOR * VECTOR
    A = np.zeros(K * R * stride, np.float32)
    own = np.zeros(3 * R * stride, np.float32)
    P = np.zeros((L + 1) * D, np.float32)
    sums = np.zeros(2 * stride, np.float32)
    logs, scale, scratch = np.empty(stride, np.float32), np.empty(stride, np.float32), np.empty(1, np.float32)
    n_tokens = L
    for task in range(first_task, last_task):
        n, b = task % N, task // N  # image by image: all lanes read its streams while they are in the cache
        if lengths[b] != n_tokens:  # rows lie elsewhere: zeros up to whole vectors again
            n_tokens = lengths[b]
            stride = (n_tokens + VECTOR - 1) // VECTOR * VECTOR
            A[:] = _ZERO
        start, stop = starts[b], stops[b]
        P[: (n_tokens + 1) * D] = _ZERO
        sums[:] = _ZERO
        for k in range(K):
            of_module, block, first = k * N + n, k // modules_per_block, k * R * stride
            of_qkv, of_tokens = (of_module * 3 * R * B + b) * L, (of_module * B + b) * L
            _read(qkv, of_qkv, B * L, 3 * R, n_tokens, own, 0, stride)
            add_product(group, own, 0, 3 * R, mixing, (n * K + k) * 3 * R * K * R, K * R, 1, A, k * R, stride)
            for t in range(0, stride, VECTOR):
                square = load_part(squares, (block * B + b) * L + t, n_tokens - t)
                square = fma(splat(_TWO), load(sums, t), square) + load(sums, stride + t)
                value = splat(_ONE) / root(square / splat(width) + splat(eps))
                store(scale, t, value)
                store_part(inverse, of_tokens + t, n_tokens - t, value)
            _normalise(own, 3 * R, stride, n_tokens, scale, biases.ravel(), (n * K + k) * 3 * R, qkv, of_qkv, B * L)
            attend(rank, own, stride, n_tokens, causal, A, first, logs)
            _write(logs, 0, stride, 1, n_tokens, log_sum, of_tokens, L)
            _write(A, first, stride, R, n_tokens, attended, (of_module * R * B + b) * L, B * L)
            for c in range(R):
                pooled[n, k * R + c, b] = _mean(A, first + c * stride, start, stop, scratch)
            if k + 1 < K:
                s = (((k + 1) // modules_per_block) * B + b) * L * D
                add_to_stream(rank, P, D, ups, (n * K + k) * R * D, A, first, stride, n_tokens, streams, s, sums)


@compiled
def trunk_backward(
    rank: Any,
    first_task: int,
    last_task: int,
    step: int,
    qkv: Any,
    attended: Any,
    inverse: Any,
    log_sum: Any,
    streams: Any,
    biases: Any,
    ups: Any,
    mixing: Any,
    gram: Any,
    width: Any,
    lengths: Any,
    starts: Any,
    stops: Any,
    causal: bool,
    d_pooled: Any,
    d_biases: Any,
    d_ups: Any,
    d_mixing: Any,
    d_gram: Any,
) -> None:
    """Backward pass of some tasks, where `G` groups of images have partial sums of their own.

    Args, beside those of the forward pass:
        rank: `r` numbers.
        first_task, last_task: Task `i` is lane `i % N` and group `i // N`.
        step: Number of the image within its group, counted from 0. Nothing is done if the group has fewer images.
        qkv: What the forward pass wrote; becomes the gradient with respect to what it read.
        gram: `Ũ Ũᵀ`, `(N, K·r, K·r)`.
        d_pooled: `(N, K·r, B)`.
        d_biases: Added to: `(G, N, K, 3r)`.
        d_ups: Added to, `A_j H_jᵀ`: `(G, N, K, r, D)`.
        d_mixing: Added to: as `mixing`, `(G, N, …)`.
        d_gram: Added to, `B_j A_iᵀ` for `i ≤ j`: `(G, N, K·r, K·r)`.
    """
    R, group, outer_group = len(rank), divisor(rank, 1, GROUP), divisor(rank, 1, OUTER_GROUP)
    K, N, _, B, L = qkv.shape
    G, D, KR = d_ups.shape[0], ups.shape[3], K * R
    modules_per_block = K // streams.shape[0]
    stride = (L + VECTOR - 1) // VECTOR * VECTOR
    A = np.zeros(KR * stride, np.float32)
    d_A = np.zeros(KR * stride, np.float32)
    weighted = np.zeros(KR * stride, np.float32)  # B
    own = np.zeros(3 * R * stride, np.float32)
    d_own = np.zeros(3 * R * stride, np.float32)
    mixed = np.zeros(R * stride, np.float32)
    logs, scale = np.empty(stride, np.float32), np.empty(stride, np.float32)
    H = np.zeros((L + 1) * D, np.float32)
    w, omega = np.zeros(stride, np.float32), np.zeros(stride, np.float32)
    n_tokens = L
    for task in range(first_task, last_task):
        g, n = task // N, task % N
        b = g * B // G + step
        if b == (g + 1) * B // G:
            continue
        lane = g * N + n
        if lengths[b] != n_tokens:
            n_tokens = lengths[b]
            stride = (n_tokens + VECTOR - 1) // VECTOR * VECTOR
            d_own[:] = _ZERO
        start, stop = starts[b], stops[b]
        d_A[:] = _ZERO
        weighted[:] = _ZERO
        H[: (n_tokens + 1) * D] = _ZERO
        omega[:] = _ZERO
        for k in range(K):
            _read(attended, ((k * N + n) * R * B + b) * L, B * L, R, n_tokens, A, k * R * stride, stride)
            for c in range(k * R, k * R + R):
                _fill(d_pooled[n, c, b] / np.float32(stop - start), start, stop, d_A, c * stride)
        for k in range(K - 1, -1, -1):
            first = k * R * stride
            if k + 1 < K:
                s = (((k + 1) // modules_per_block) * B + b) * L * D
                up, d_up = (n * K + k) * R * D, (lane * K + k) * R * D
                add_stream_gradients(rank, H, D, w, streams, s, ups, up, A, d_A, first, stride, n_tokens, d_ups, d_up)
                mixed[:] = _ZERO
                add_product(group, mixed, 0, R, gram, (n * KR + k * R) * KR, KR, 1, A, (k + 1) * R, stride)
                for c in range(0, R * stride, stride):
                    for t in range(0, stride, VECTOR):
                        to, weight = first + c + t, load(omega, t)
                        store(d_A, to, fma(weight, load(mixed, c + t), load(d_A, to)))
                        store(weighted, to, weight * load(A, to))
                # The modules after this one: `weighted` is still zero in front of it.
                after = (k + 1) * R
                add_product(
                    group,
                    d_A,
                    first,
                    R,
                    gram,
                    (n * KR + k * R) * KR + after,
                    KR,
                    1,
                    weighted[after * stride :],
                    KR - after,
                    stride,
                )
                add_outer(outer_group, d_gram, (lane * KR + k * R) * KR, KR, weighted, first, R, A, (k + 1) * R, stride)
            of_module = k * N + n
            of_qkv, of_tokens = (of_module * 3 * R * B + b) * L, (of_module * B + b) * L
            _read(qkv, of_qkv, B * L, 3 * R, n_tokens, own, 0, stride)
            _read(log_sum, of_tokens, L, 1, n_tokens, logs, 0, stride)
            _read(inverse, of_tokens, L, 1, n_tokens, scale, 0, stride)
            attend_backward(rank, own, stride, n_tokens, causal, A, d_A, first, logs, d_own)
            _normalise_backward(
                own,
                d_own,
                3 * R,
                stride,
                n_tokens,
                scale,
                biases.ravel(),
                (n * K + k) * 3 * R,
                width,
                qkv,
                of_qkv,
                B * L,
                d_biases,
                (lane * K + k) * 3 * R,
                w,
            )
            for t in range(0, stride, VECTOR):
                store(omega, t, load(omega, t) + load(w, t))
            row = (n * K + k) * 3 * R * KR
            add_product(group, d_A, 0, k * R, mixing, row, 1, KR, d_own, 3 * R, stride)
            add_outer(outer_group, d_mixing, (lane * K + k) * 3 * R * KR, KR, d_own, 0, 3 * R, A, k * R, stride)
