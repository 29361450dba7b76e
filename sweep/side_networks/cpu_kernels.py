"""What rank space does besides matrix products, for single precision on a CPU: compiled loops over one lane's image.

PyTorch would make a pass over memory for every operation, and `L × L` scores on the way. Here a lane and image is one
task whose numbers stay in the processor's nearest cache, and tasks run on all cores. `torch_kernels.py` has the same
four functions in plain PyTorch, for every other device and precision.

Every task reads and writes numbers of its own lane only, in an order that depends on shapes alone; so a lane's result
has the same bits in any stack.
"""

from typing import Any

import numpy as np
import torch  # before numba starts its threads: both then use the OpenMP library that came with torch
from numba import njit, prange
from torch import Tensor

from sweep.side_networks import torch_kernels
from sweep.side_networks.cpu_attention import (
    MAX_UNROLLED_RANK,
    OPTIONS,
    attention_backward,
    attention_forward,
    block_size,
)

_ZERO, _ONE, _HALF, _TWO = np.float32(0), np.float32(1), np.float32(0.5), np.float32(2)


def attend(qkv: Tensor, attended: Tensor, first: int, log_sum: Tensor) -> None:
    """As `torch_kernels.attend`."""
    rank, tokens = qkv.shape[1] // 3, qkv.shape[3]
    if rank > MAX_UNROLLED_RANK:
        torch_kernels.attend(qkv, attended, first, log_sum)
        return
    kernel = attention_forward(rank, block_size(tokens))
    kernel(qkv.numpy(), attended.numpy(), first, log_sum.numpy())


def attend_backward(qkv: Tensor, attended: Tensor, d_attended: Tensor, first: int, log_sum: Tensor) -> Tensor:
    """As `torch_kernels.attend_backward`."""
    rank, tokens = qkv.shape[1] // 3, qkv.shape[3]
    if rank > MAX_UNROLLED_RANK:
        return torch_kernels.attend_backward(qkv, attended, d_attended, first, log_sum)
    kernel = attention_backward(rank, block_size(tokens))
    d_qkv = torch.empty_like(qkv)
    kernel(qkv.numpy(), attended.numpy(), d_attended.numpy(), first, log_sum.numpy(), d_qkv.numpy())
    return d_qkv


@njit(**OPTIONS)  # type: ignore[untyped-decorator]
def _normalise(
    qkv: Any,
    attended: Any,
    products: Any,
    streams: Any,
    quadratic: Any,
    square: Any,
    bias: Any,
    inverse: Any,
    width: Any,
    eps: Any,
) -> None:
    N, rows, B, L = qkv.shape
    k, _, r, _, _ = products.shape
    for task in prange(N * B):
        n, b = task // B, task % B
        added = np.zeros(L, np.float32)
        for j in range(k):
            for c in range(r):
                for i in range(L):
                    added[i] += attended[n, j * r + c, b, i] * products[j, n, c, b, i]
        if k > 0:
            for c in range(r):
                for i in range(L):
                    quadratic[n, b, i] += _TWO * attended[n, (k - 1) * r + c, b, i] * streams[n, c, b, i]
        for i in range(L):
            variance = (square[b, i] + _TWO * added[i] + quadratic[n, b, i]) / width
            inverse[n, b, i] = _ONE / np.sqrt(variance + eps)
        for c in range(rows):
            for i in range(L):
                qkv[n, c, b, i] = qkv[n, c, b, i] * inverse[n, b, i] + bias[n, c]


def normalise(
    qkv: Tensor,
    attended: Tensor,
    products: Tensor,
    streams: Tensor,
    quadratic: Tensor,
    square: Tensor,
    bias: Tensor,
    inverse: Tensor,
    width: int,
    eps: float,
) -> None:
    """As `torch_kernels.normalise`."""
    arrays = (x.numpy() for x in (qkv, attended, products, streams, quadratic, square, bias, inverse))
    _normalise(*arrays, np.float32(width), np.float32(eps))


@njit(**OPTIONS)  # type: ignore[untyped-decorator]
def _normalise_backward(
    d_qkv: Any,
    qkv: Any,
    attended: Any,
    d_attended: Any,
    products: Any,
    streams: Any,
    d_quadratic: Any,
    bias: Any,
    inverse: Any,
    width: Any,
    d_products: Any,
    d_streams: Any,
    d_bias: Any,
) -> None:
    N, rows, B, L = qkv.shape
    k, _, r, _, _ = products.shape
    for task in prange(N * B):
        n, b = task // B, task % B
        d_square = np.zeros(L, np.float32)
        for c in range(rows):
            total = _ZERO
            for i in range(L):
                g = d_qkv[n, c, b, i]
                total += g
                d_square[i] += g * (qkv[n, c, b, i] - bias[n, c])
                d_qkv[n, c, b, i] = g * inverse[n, b, i]
            d_bias[n, c, b] = total
        for i in range(L):
            d_square[i] *= -_HALF * inverse[n, b, i] * inverse[n, b, i] / width
            d_quadratic[n, b, i] += d_square[i]
            d_square[i] *= _TWO
        for j in range(k):
            for c in range(r):
                for i in range(L):
                    d_products[j, n, c, b, i] = d_square[i] * attended[n, j * r + c, b, i]
                    d_attended[n, j * r + c, b, i] += d_square[i] * products[j, n, c, b, i]
        if k > 0:
            for c in range(r):
                row = (k - 1) * r + c
                for i in range(L):
                    d_streams[n, c, b, i] = _TWO * d_quadratic[n, b, i] * attended[n, row, b, i]
                    d_attended[n, row, b, i] += _TWO * d_quadratic[n, b, i] * streams[n, c, b, i]


def normalise_backward(
    d_qkv: Tensor,
    qkv: Tensor,
    attended: Tensor,
    d_attended: Tensor,
    products: Tensor,
    streams: Tensor,
    d_quadratic: Tensor,
    bias: Tensor,
    inverse: Tensor,
    width: int,
    d_products: Tensor,
    d_streams: Tensor,
) -> Tensor:
    """As `torch_kernels.normalise_backward`."""
    d_bias = bias.new_empty(*bias.shape, qkv.shape[2])  # of every image
    before = (d_qkv, qkv, attended, d_attended, products, streams, d_quadratic, bias, inverse)
    after = (d_products, d_streams, d_bias)
    _normalise_backward(*(x.numpy() for x in before), np.float32(width), *(x.numpy() for x in after))
    return d_bias.sum(-1)
