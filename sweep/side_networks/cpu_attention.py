"""Attention at a rank of a few, compiled for a CPU: scores live in registers, never in memory.

A stock kernel spends its time on `L × L` scores: at rank 8 a score costs more to store and load than to compute. Here
queries are worked on in blocks, all keys for each, with the loops over the rank unrolled and those over the block
vectorised.
"""

import math
from collections.abc import Callable
from functools import cache
from typing import Any

import numba
import numpy as np
from numba import njit, prange

numba.config.THREADING_LAYER = "omp"  # type: ignore[attr-defined]

MAX_UNROLLED_RANK = 16
"""Above this the products in attention are large enough for matrix kernels, and unrolled loops too long."""

VECTOR = 16
LARGEST_BLOCK = 256

# Sums may be reordered, which vectorising them takes; NaN and infinity keep their meaning.
_FAST = {"contract", "reassoc", "nsz"}
OPTIONS: dict[str, Any] = {"fastmath": _FAST, "error_model": "numpy", "cache": True, "parallel": True}

_ZERO, _ONE, _HALF = np.float32(0), np.float32(1), np.float32(0.5)
_LOWEST = np.float32(-3e38)
_SMALLEST_EXPONENT = np.float32(-60)
"""A probability below e^-60 changes no sum in single precision; kept, its products with small gradients would be
subnormal numbers, on which a processor is a hundred times slower."""

_LOG2_E = np.float32(math.log2(math.e))
_LN2_HIGH = np.float32(0.693359375)
_LN2_LOW = np.float32(math.log(2) - 0.693359375)
_E2, _E3, _E4, _E5, _E6, _E7 = (np.float32(1 / math.factorial(n)) for n in range(2, 8))


@njit(fastmath={"contract"}, error_model="numpy", cache=True)
def _exp(x: Any) -> Any:
    """e^x for x ≤ 0 to 2e-7 relative, 0 below e^-60: `2^n · e^f`, a Taylor polynomial for |f| ≤ ln(2)/2; vectorises."""
    vanishes = x < _SMALLEST_EXPONENT
    x = _SMALLEST_EXPONENT if vanishes else x
    n = np.floor(x * _LOG2_E + _HALF)
    f = x - n * _LN2_HIGH - n * _LN2_LOW
    e_f = (((((_E7 * f + _E6) * f + _E5) * f + _E4) * f + _E3) * f + _E2) * f * f + f + _ONE
    power = np.int32(np.int32(np.int32(n) + np.int32(127)) << np.int32(23))
    return _ZERO if vanishes else e_f * power.view(np.float32)


def block_size(tokens: int) -> int:
    """Queries to work on at a time: all of them if they are few, else equal parts; whole vectors either way."""
    n_blocks = -(-tokens // LARGEST_BLOCK)
    return -(-tokens // (n_blocks * VECTOR)) * VECTOR


@cache
def attention_forward(R: int, T: int) -> Callable[..., None]:
    """Attention for rank `R`, `T` queries at a time.

    Rows of a block lie `T` apart: a distance known when compiling is what lets the inner loops be vectorised.
    """

    @njit(**OPTIONS)  # type: ignore[untyped-decorator]
    def kernel(qkv: Any, out: Any, first: int, log_sum: Any) -> None:
        N, _, B, L = qkv.shape
        for task in prange(N * B):
            n, b = task // B, task % B
            keys = np.empty(L * 2 * R, np.float32)  # k and v of a token side by side
            for j in range(L):
                for c in range(2 * R):
                    keys[j * 2 * R + c] = qkv[n, R + c, b, j]
            queries = np.zeros((R + 1) * T, np.float32)  # the last row: each query's largest score
            sums = np.empty((R + 1) * T, np.float32)  # Σ p v; the last row: Σ p
            for start in range(0, L, T):
                width = min(T, L - start)
                for c in range(R):
                    for i in range(width):
                        queries[c * T + i] = qkv[n, c, b, start + i]
                    for i in range(width, T):
                        queries[c * T + i] = _ZERO
                queries[R * T :] = _LOWEST
                sums[:] = _ZERO
                for j in range(L):
                    for i in range(T):
                        score = _ZERO
                        for c in range(R):
                            score += queries[c * T + i] * keys[j * 2 * R + c]
                        queries[R * T + i] = max(queries[R * T + i], score)
                for j in range(L):
                    for i in range(T):
                        score = -queries[R * T + i]
                        for c in range(R):
                            score += queries[c * T + i] * keys[j * 2 * R + c]
                        p = _exp(score)
                        for c in range(R):
                            sums[c * T + i] += p * keys[j * 2 * R + R + c]
                        sums[R * T + i] += p
                for i in range(width):
                    log_sum[n, b, start + i] = queries[R * T + i] + math.log(sums[R * T + i])
                for c in range(R):
                    for i in range(width):
                        out[n, first + c, b, start + i] = sums[c * T + i] / sums[R * T + i]

    return kernel  # type: ignore[no-any-return]


@cache
def attention_backward(R: int, T: int) -> Callable[..., None]:
    """Gradient of attention: once over keys for blocks of queries, once over queries for blocks of keys.

    Probabilities are computed again in each, which costs less than keeping them or adding across a vector.
    """

    @njit(**OPTIONS)  # type: ignore[untyped-decorator]
    def kernel(qkv: Any, out: Any, d_out: Any, first: int, log_sum: Any, d_qkv: Any) -> None:
        N, _, B, L = qkv.shape
        S = 2 * R + 2  # of a query: q, the gradient g of its output, log Σ exp(score), g · output
        for task in prange(N * B):
            n, b = task // B, task % B
            keys = np.empty(L * 2 * R, np.float32)
            queries = np.zeros(L * S, np.float32)
            for j in range(L):
                for c in range(2 * R):
                    keys[j * 2 * R + c] = qkv[n, R + c, b, j]
                for c in range(R):
                    g = d_out[n, first + c, b, j]
                    queries[j * S + c] = qkv[n, c, b, j]
                    queries[j * S + R + c] = g
                    queries[j * S + 2 * R + 1] += g * out[n, first + c, b, j]
                queries[j * S + 2 * R] = log_sum[n, b, j]
            block = np.empty(S * T, np.float32)
            sums = np.empty(2 * R * T, np.float32)
            for start in range(0, L, T):
                width = min(T, L - start)
                block[:] = _ZERO
                for i in range(width):
                    for c in range(S):
                        block[c * T + i] = queries[(start + i) * S + c]
                sums[:] = _ZERO
                for j in range(L):
                    for i in range(T):
                        score = -block[2 * R * T + i]
                        d_p = -block[(2 * R + 1) * T + i]
                        for c in range(R):
                            score += block[c * T + i] * keys[j * 2 * R + c]
                            d_p += block[(R + c) * T + i] * keys[j * 2 * R + R + c]
                        d_score = _exp(score) * d_p
                        for c in range(R):
                            sums[c * T + i] += d_score * keys[j * 2 * R + c]
                for c in range(R):
                    for i in range(width):
                        d_qkv[n, c, b, start + i] = sums[c * T + i]

                block[:] = _ZERO
                for i in range(width):
                    for c in range(2 * R):
                        block[c * T + i] = keys[(start + i) * 2 * R + c]
                sums[:] = _ZERO
                for j in range(L):
                    for i in range(T):
                        score = -queries[j * S + 2 * R]
                        d_p = -queries[j * S + 2 * R + 1]
                        for c in range(R):
                            score += block[c * T + i] * queries[j * S + c]
                            d_p += block[(R + c) * T + i] * queries[j * S + R + c]
                        p = _exp(score)
                        d_score = p * d_p
                        for c in range(R):
                            sums[c * T + i] += d_score * queries[j * S + c]
                            sums[(R + c) * T + i] += p * queries[j * S + R + c]
                for c in range(2 * R):
                    for i in range(width):
                        d_qkv[n, R + c, b, start + i] = sums[c * T + i]

    return kernel  # type: ignore[no-any-return]
