"""Attention with a few heads over the rows of a ladder, for a whole stack of lanes, in single precision on a CPU."""

from typing import Any

import numpy as np
import torch
from torch import Tensor

from sweep.side_networks.cpu.attention import MAX_UNROLLED_RANK, attend, attend_backward
from sweep.side_networks.cpu.compile import compiled, has_kernels
from sweep.side_networks.cpu.lanes import folded
from sweep.side_networks.cpu.tasks import on_threads
from sweep.side_networks.cpu.vectors import VECTOR

_ZERO = np.float32(0)


def fits(qkv: Tensor, width: int) -> bool:
    """Whether the kernels can compute these rows with heads of this width."""
    return has_kernels(qkv.device, qkv.dtype) and width <= MAX_UNROLLED_RANK


def attended(qkv: Tensor, n_heads: int, n_tokens: int, lengths: Tensor, *, causal: bool) -> Tensor:
    """`softmax(q kᵀ) v` of every image and head.

    Args:
        qkv: Scaled queries, keys and values of all heads, `(3·H·w, T)`, or of all lanes, `(N, 3·H·w, T)`. The columns
            are the tokens of all images, one image after another, followed by padding.
        n_heads: Number of heads `H`.
        n_tokens: Number of tokens `L`.
        lengths: Number of tokens of every image or text, `(B,)`. Padding after them is not attended to, and gets zeros.
        causal: Whether a token only attends to itself and earlier tokens.

    Returns:
        `(H·w, T)`, or of all lanes, `(N, H·w, T)`. Under `vmap` all lanes are one call.
    """
    if qkv.dim() == 3:
        out: Tensor = _Heads.apply(n_heads, n_tokens, lengths, causal, qkv.contiguous())[0]
        return out
    of_one: Tensor = _Heads.apply(n_heads, n_tokens, lengths, causal, qkv.unsqueeze(0))[0]
    return of_one.squeeze(0)


class _Heads(torch.autograd.Function):
    """All lanes at once, `(N, 3·H·w, T)`.

    Outputs: `(N, H·w, T)`, and `log Σ exp(score)` of every query, `(N, H, T)`.
    """

    @staticmethod
    def forward(n_heads: int, n_tokens: int, lengths: Tensor, causal: bool, qkv: Tensor) -> tuple[Tensor, Tensor]:
        n_lanes, rows, n_columns = qkv.shape
        out, log_sum = qkv.new_zeros(n_lanes, rows // 3, n_columns), qkv.new_empty(n_lanes, n_heads, n_columns)
        arrays = (lengths.numpy(), n_tokens, causal, qkv.numpy(), out.numpy(), log_sum.numpy())
        width = (0,) * (rows // (3 * n_heads))
        on_threads(lambda first, last: _forward(width, first, last, *arrays), n_lanes * len(lengths))
        return out, log_sum

    @staticmethod
    def setup_context(ctx: Any, inputs: tuple[Any, ...], output: tuple[Tensor, Tensor]) -> None:
        _, ctx.n_tokens, lengths, ctx.causal, qkv = inputs
        ctx.mark_non_differentiable(output[1])
        ctx.save_for_backward(lengths, qkv, *output)

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> tuple[Tensor | None, ...]:
        lengths, qkv, out, log_sum = ctx.saved_tensors
        d_qkv = torch.zeros_like(qkv)
        arrays = (x.numpy() for x in (qkv, out, log_sum, grads[0].contiguous(), d_qkv))
        arguments = (lengths.numpy(), ctx.n_tokens, ctx.causal, *arrays)
        width = (0,) * (out.shape[1] // log_sum.shape[1])
        on_threads(lambda first, last: _backward(width, first, last, *arguments), len(qkv) * len(lengths))
        return None, None, None, None, d_qkv

    @staticmethod
    def vmap(
        info: Any, in_dims: tuple[int | None, ...], *inputs: Any
    ) -> tuple[tuple[Tensor, Tensor], tuple[int, None]]:
        *sizes, qkv = inputs
        out, log_sum = _Heads.apply(*sizes, *folded(info.batch_size, in_dims[4:], [qkv]))
        return (out.unflatten(0, (info.batch_size, -1)), log_sum), (0, None)


@compiled
def _read(
    source: Any, n: int, row: int, rows: int, column: int, n_tokens: int, to: Any, first: int, stride: int
) -> None:
    """Copy one image's tokens of some rows to rows that lie `stride` apart."""
    for c in range(rows):
        for i in range(n_tokens):
            to[first + c * stride + i] = source[n, row + c, column + i]


@compiled
def _write(
    source: Any, first: int, stride: int, n: int, row: int, rows: int, column: int, n_tokens: int, to: Any
) -> None:
    """Copy rows that are `stride` apart back to the tokens of one image; the inverse of `_read`."""
    for c in range(rows):
        for i in range(n_tokens):
            to[n, row + c, column + i] = source[first + c * stride + i]


@compiled
def _forward(
    width: Any,
    first_task: int,
    last_task: int,
    lengths: Any,
    L: int,
    causal: bool,
    qkv: Any,
    out: Any,
    log_sum: Any,
) -> None:
    """Task `i` is image `i % B` of lane `i // B`; `width` is `w` numbers, and the arrays are those of `_Heads`."""
    w, B, H = len(width), len(lengths), log_sum.shape[1]
    longest = (L + VECTOR - 1) // VECTOR * VECTOR
    own, A = np.zeros(3 * w * longest, np.float32), np.zeros(w * longest, np.float32)
    logs = np.empty(longest, np.float32)
    for task in range(first_task, last_task):
        n, b = task // B, task % B
        n_tokens, column = lengths[b], b * L
        stride = (n_tokens + VECTOR - 1) // VECTOR * VECTOR
        own[:] = _ZERO
        for h in range(H):
            for part in range(3):
                _read(qkv, n, (part * H + h) * w, w, column, n_tokens, own, part * w * stride, stride)
            attend(width, own, stride, n_tokens, causal, A, 0, logs)
            _write(A, 0, stride, n, h * w, w, column, n_tokens, out)
            for i in range(n_tokens):
                log_sum[n, h, column + i] = logs[i]


@compiled
def _backward(
    width: Any,
    first_task: int,
    last_task: int,
    lengths: Any,
    L: int,
    causal: bool,
    qkv: Any,
    out: Any,
    log_sum: Any,
    d_out: Any,
    d_qkv: Any,
) -> None:
    """The backward pass; tasks as in `_forward`. `d_qkv` is only written for the tokens that an image has."""
    w, B, H = len(width), len(lengths), log_sum.shape[1]
    longest = (L + VECTOR - 1) // VECTOR * VECTOR
    own, d_own = np.zeros(3 * w * longest, np.float32), np.zeros(3 * w * longest, np.float32)
    A, d_A = np.zeros(w * longest, np.float32), np.zeros(w * longest, np.float32)
    logs = np.zeros(longest, np.float32)
    for task in range(first_task, last_task):
        n, b = task // B, task % B
        n_tokens, column = lengths[b], b * L
        stride = (n_tokens + VECTOR - 1) // VECTOR * VECTOR
        own[:] = _ZERO
        A[:] = _ZERO
        d_A[:] = _ZERO
        logs[:] = _ZERO
        for h in range(H):
            for part in range(3):
                _read(qkv, n, (part * H + h) * w, w, column, n_tokens, own, part * w * stride, stride)
            _read(out, n, h * w, w, column, n_tokens, A, 0, stride)
            _read(d_out, n, h * w, w, column, n_tokens, d_A, 0, stride)
            for i in range(n_tokens):
                logs[i] = log_sum[n, h, column + i]
            attend_backward(width, own, stride, n_tokens, causal, A, d_A, 0, logs, d_own)
            for part in range(3):
                _write(d_own, part * w * stride, stride, n, (part * H + h) * w, w, column, n_tokens, d_qkv)
