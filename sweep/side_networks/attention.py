"""Scaled dot-product attention for small ranks. Its `vmap` rule folds lanes into the batch.

At rank 8, most of the work of attention is in the `L × L` scores, not in the products. The kernel here processes a few
matrices at a time, so that scores are used while they are in the processor's cache. It recomputes them in the backward
pass instead of keeping `N·B·L·L` numbers. Under `torch.func.vmap`, PyTorch's own attention falls back to a loop over
lanes; the rule below makes one batch of `N·B` from `N` lanes of `B` images.
"""

from contextlib import nullcontext
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from sweep.machine.settings import computing_on

MATRICES_AT_A_TIME = 64
"""Score matrices that are computed at a time: 1 MB at 65 tokens in fp32. The fastest among 8 to 256, measured at 65 and
at 197 tokens."""

HEAD_MULTIPLE = 8
"""Fused kernels need a head's width to be a multiple of this."""


class _Attention(torch.autograd.Function):
    """softmax(q kᵀ + bias) v over the last two dimensions, `q` already scaled."""

    @staticmethod
    def forward(q: Tensor, k: Tensor, v: Tensor, bias: Tensor | None) -> Tensor:
        out = torch.empty_like(v, memory_format=torch.contiguous_format)
        parts = (x.split(MATRICES_AT_A_TIME) for x in (q, k, v, out))
        for part, (q_i, k_i, v_i, out_i) in enumerate(zip(*parts, strict=True)):
            torch.bmm(_probabilities(q_i, k_i, bias, part), v_i, out=out_i)
        return out

    @staticmethod
    def setup_context(ctx: Any, inputs: tuple[Tensor, Tensor, Tensor, Tensor | None], output: Tensor) -> None:
        *tensors, ctx.bias = inputs
        ctx.save_for_backward(*tensors)

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> tuple[Tensor, Tensor, Tensor, None]:
        inputs: tuple[Tensor, Tensor, Tensor] = ctx.saved_tensors
        outputs = tuple(torch.empty_like(x, memory_format=torch.contiguous_format) for x in inputs)
        parts = (x.split(MATRICES_AT_A_TIME) for x in (*inputs, grads[0], *outputs))
        for part, (q, k, v, grad, dq, dk, dv) in enumerate(zip(*parts, strict=True)):
            probabilities = _probabilities(q, k, ctx.bias, part)
            torch.bmm(probabilities.mT, grad, out=dv)
            d_probabilities = torch.bmm(grad, v.mT)
            d_scores = _softmax_backward(d_probabilities, probabilities)
            torch.bmm(d_scores, k, out=dq)
            torch.bmm(d_scores.mT, q, out=dk)
        return outputs[0], outputs[1], outputs[2], None

    @staticmethod
    def vmap(info: Any, in_dims: tuple[int | None, ...], *inputs: Any) -> tuple[Tensor, int]:
        lanes = info.batch_size
        *tensors, bias = inputs
        stacked = [
            x.unsqueeze(0).expand(lanes, *x.shape) if dim is None else x.movedim(dim, 0)
            for x, dim in zip(tensors, in_dims[:3], strict=True)
        ]
        if stacked[0].device.type != "cpu":
            q, k, v = (x.transpose(0, 1) for x in stacked)
            return attention_of_heads(q, k, v, bias), 1
        q, k, v = (x.flatten(0, 1) for x in stacked)
        out = attention_of_matrices(q, k, v, bias)
        return out.unflatten(0, (lanes, -1)), 0


def _probabilities(q: Tensor, k: Tensor, bias: Tensor | None, part: int) -> Tensor:
    """`softmax(q kᵀ + bias)` of some matrices.

    Args:
        q: `(n, L, r)`, at most `MATRICES_AT_A_TIME`.
        k: `(n, L, r)`.
        bias: Bias of a batch, `(B, 1, L)` or `(1, L, L)`. The matrices repeat this batch once per lane.
        part: Number of this part of the matrices.
    """
    if bias is None:
        return torch.softmax(torch.bmm(q, k.mT), -1)
    of_batch = torch.arange(part * MATRICES_AT_A_TIME, part * MATRICES_AT_A_TIME + len(q), device=q.device) % len(bias)
    return torch.softmax(torch.baddbmm(bias[of_batch], q, k.mT), -1)


def _softmax_backward(d_probabilities: Tensor, probabilities: Tensor) -> Tensor:
    """The gradient of the scores; it overwrites `d_probabilities`. PyTorch's own depends on the number of threads."""
    weighted = d_probabilities.mul_(probabilities)
    return weighted.addcmul_(probabilities, weighted.sum(-1, keepdim=True), value=-1)


class _Softmax(torch.autograd.Function):
    """Softmax over the last dimension. On a CPU, its gradient is computed on one thread, see `_softmax_backward`."""

    @staticmethod
    def forward(scores: Tensor) -> Tensor:
        return torch.softmax(scores, -1)

    @staticmethod
    def setup_context(ctx: Any, inputs: tuple[Tensor], output: Tensor) -> None:
        ctx.save_for_backward(output)

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> Tensor:
        (probabilities,) = ctx.saved_tensors
        with computing_on(1) if probabilities.device.type == "cpu" else nullcontext():
            return torch._softmax_backward_data(grads[0], probabilities, -1, probabilities.dtype)

    @staticmethod
    def vmap(info: Any, in_dims: tuple[int], scores: Tensor) -> tuple[Tensor, int]:
        out: Tensor = _Softmax.apply(scores.movedim(in_dims[0], 0))
        return out, 0


def softmax(scores: Tensor) -> Tensor:
    """Softmax over the last dimension, with the same bits on any number of threads. It is meant for small tensors."""
    if torch.compiler.is_compiling():  # torch.export needs plain operators
        return torch.softmax(scores, -1)
    out: Tensor = _Softmax.apply(scores)
    return out


def attention_of_matrices(q: Tensor, k: Tensor, v: Tensor, bias: Tensor | None = None) -> Tensor:
    """Attention over `(N·B, L, r)`, with lanes folded into the batch: sweep's kernel, for a CPU."""
    out: Tensor = _Attention.apply(q, k, v, bias)
    return out


def attention_of_heads(q: Tensor, k: Tensor, v: Tensor, bias: Tensor | None = None) -> Tensor:
    """Attention over `(B, N, L, r)`, with lanes as heads: PyTorch's fused kernel, for a GPU.

    Fused kernels read rows of whole 16-byte words, so the rank is padded with zeros to a multiple of 8. Zeros in
    queries and keys do not change a score, and the zeros in values are cut off again.
    """
    rank = q.shape[-1]
    padding = -rank % HEAD_MULTIPLE
    q, k, v = (F.pad(x, (0, padding)).contiguous() for x in (q, k, v))
    mask = None if bias is None else bias.unsqueeze(1).to(q.dtype)
    return F.scaled_dot_product_attention(q, k, v, attn_mask=mask, scale=1.0)[..., :rank]


def attention(q: Tensor, k: Tensor, v: Tensor, bias: Tensor | None = None) -> Tensor:
    """Attention for any stack of lanes. The queries must include the scale.

    Args:
        q: Queries times the attention scale, `(B, L, r)`.
        k: Keys, `(B, L, r)`.
        v: Values, `(B, L, r)`.
        bias: Added to the scores of all lanes, see `visible.py`.

    Returns:
        `softmax(q kᵀ + bias) v`, `(B, L, r)`; under `vmap`, `(N, B, L, r)` from one batch of `N·B`.
    """
    if torch.compiler.is_compiling():  # torch.export needs plain operators, for any number of images
        scores = q @ k.mT
        return torch.softmax(scores if bias is None else scores + bias, -1) @ v
    out: Tensor = _Attention.apply(q, k, v, bias)
    return out
