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
    add_outer,
    add_product,
    add_stream_gradients,
    add_to_stream,
)
from sweep.side_networks.cpu.vectors import VECTOR, divisor

_ZERO, _ONE, _TWO = np.float32(0), np.float32(1), np.float32(2)


@compiled
def _read(source: Any, k: int, n: int, b: int, n_tokens: int, rows: Any, first: int, stride: int) -> None:
    """Copy the tokens of one module, lane and image of `(K, N, rows, B, L)` to rows that lie `stride` apart."""
    for c in range(source.shape[2]):
        for i in range(n_tokens):
            rows[first + c * stride + i] = source[k, n, c, b, i]


@compiled
def _normalise_backward(
    qkv: Any,
    own: Any,
    d_own: Any,
    stride: int,
    k: int,
    n: int,
    b: int,
    n_tokens: int,
    biases: Any,
    inverse: Any,
    width: Any,
    d_biases: Any,
    w: Any,
) -> None:
    """From the gradient of `LN(x) W`, which `own` is, to that of `W_γ x̃`, in `d_own` and `qkv`; `w` is written."""
    w[:] = _ZERO
    for c in range(qkv.shape[2]):
        total = _ZERO
        bias = biases[n, k, c]
        for i in range(n_tokens):
            grad = d_own[c * stride + i]
            total += grad
            w[i] += grad * (own[c * stride + i] - bias)
            grad *= inverse[k, n, b, i]
            d_own[c * stride + i] = grad
            qkv[k, n, c, b, i] = grad
        d_biases[n, k, c] += total
    for i in range(n_tokens):
        w[i] *= -inverse[k, n, b, i] * inverse[k, n, b, i] / width


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
    R, group = len(rank), divisor(rank, 3, 4)
    K, N, _, B, L = qkv.shape
    D = ups.shape[3]
    modules_per_block = K // streams.shape[0]
    stride = (L + VECTOR - 1) // VECTOR * VECTOR
    A = np.zeros(K * R * stride, np.float32)
    own = np.zeros(3 * R * stride, np.float32)
    P = np.zeros((L + 1) * D, np.float32)
    sums = np.zeros(2 * stride, np.float32)
    logs = np.empty(stride, np.float32)
    n_tokens = L
    for task in range(first_task, last_task):
        n, b = task % N, task // N  # image by image: all lanes read its streams while they are in the cache
        if lengths[b] != n_tokens:  # rows lie elsewhere: zeros up to whole vectors again
            n_tokens = lengths[b]
            stride = (n_tokens + VECTOR - 1) // VECTOR * VECTOR
            A[:] = _ZERO
            own[:] = _ZERO
        start, stop = starts[b], stops[b]
        P[: (n_tokens + 1) * D] = _ZERO
        sums[:] = _ZERO
        for k in range(K):
            block = k // modules_per_block
            _read(qkv, k, n, b, n_tokens, own, 0, stride)
            add_product(group, own, 0, 3 * R, mixing, (n * K + k) * 3 * R * K * R, K * R, 1, A, k * R, stride)
            for i in range(n_tokens):
                square = squares[block, b, i] + _TWO * sums[i] + sums[stride + i]
                inverse[k, n, b, i] = _ONE / np.sqrt(square / width + eps)
            for c in range(3 * R):
                for i in range(n_tokens):
                    value = own[c * stride + i] * inverse[k, n, b, i] + biases[n, k, c]
                    own[c * stride + i] = value
                    qkv[k, n, c, b, i] = value
            attend(rank, own, stride, n_tokens, causal, A, k * R * stride, logs)
            for i in range(n_tokens):
                log_sum[k, n, b, i] = logs[i]
            for c in range(R):
                total = _ZERO
                for i in range(start, stop):
                    total += A[(k * R + c) * stride + i]
                pooled[n, k * R + c, b] = total / np.float32(stop - start)
                for i in range(n_tokens):
                    attended[k, n, c, b, i] = A[(k * R + c) * stride + i]
                for i in range(n_tokens, stride):
                    A[(k * R + c) * stride + i] = _ZERO
            if k + 1 < K:
                s = (((k + 1) // modules_per_block) * B + b) * L * D
                up, first = (n * K + k) * R * D, k * R * stride
                add_to_stream(rank, P, D, ups, up, A, first, stride, n_tokens, streams, s, sums)


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
    R, group = len(rank), divisor(rank, 1, 4)
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
    logs = np.zeros(stride, np.float32)
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
            A[:] = _ZERO
            own[:] = _ZERO
            d_own[:] = _ZERO
            logs[:] = _ZERO
        start, stop = starts[b], stops[b]
        d_A[:] = _ZERO
        weighted[:] = _ZERO
        H[: (n_tokens + 1) * D] = _ZERO
        omega[:] = _ZERO
        for k in range(K):
            _read(attended, k, n, b, n_tokens, A, k * R * stride, stride)
            for c in range(R):
                grad = d_pooled[n, k * R + c, b] / np.float32(stop - start)
                for i in range(start, stop):
                    d_A[(k * R + c) * stride + i] = grad
        for k in range(K - 1, -1, -1):
            first = k * R * stride
            if k + 1 < K:
                s = (((k + 1) // modules_per_block) * B + b) * L * D
                up, d_up = (n * K + k) * R * D, (lane * K + k) * R * D
                add_stream_gradients(rank, H, D, w, streams, s, ups, up, A, d_A, first, stride, n_tokens, d_ups, d_up)
                mixed[:] = _ZERO
                add_product(group, mixed, 0, R, gram, (n * KR + k * R) * KR, KR, 1, A, (k + 1) * R, stride)
                for c in range(R):
                    for i in range(stride):
                        d_A[first + c * stride + i] += omega[i] * mixed[c * stride + i]
                        weighted[first + c * stride + i] = omega[i] * A[first + c * stride + i]
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
                add_outer(group, d_gram, (lane * KR + k * R) * KR, KR, weighted, first, R, A, (k + 1) * R, stride)
            _read(qkv, k, n, b, n_tokens, own, 0, stride)
            for i in range(n_tokens):
                logs[i] = log_sum[k, n, b, i]
            attend_backward(rank, own, stride, n_tokens, causal, A, d_A, first, logs, d_own)
            _normalise_backward(qkv, own, d_own, stride, k, n, b, n_tokens, biases, inverse, width, d_biases[g], w)
            for i in range(n_tokens):
                omega[i] += w[i]
            row = (n * K + k) * 3 * R * KR
            add_product(group, d_A, 0, k * R, mixing, row, 1, KR, d_own, 3 * R, stride)
            add_outer(group, d_mixing, (lane * K + k) * 3 * R * KR, KR, d_own, 0, 3 * R, A, k * R, stride)
