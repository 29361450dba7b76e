"""LayerNorm and MLP of a ladder's rung for a whole stack of lanes, in single precision on a CPU.

The kernels are in `rung_kernels.py`. A lane's `h` is `(r, T)`: channels are rows, and `T` is a multiple of
`ladder_rows.COLUMNS`. Channels that are padding must be zero. Under `vmap`, one call computes all lanes.
"""

from collections.abc import Callable
from typing import Any

import numpy as np
import torch
from torch import Tensor

from sweep.side_networks.cpu.compile import has_kernels
from sweep.side_networks.cpu.lanes import folded
from sweep.side_networks.cpu.rung_kernels import (
    BLOCK,
    ROWS_AT_ONCE,
    mlp_backward,
    mlp_forward,
    norm_backward,
    norm_forward,
)
from sweep.side_networks.cpu.tasks import on_threads
from sweep.side_networks.padding import PaddedLayerNorm, PaddedLinear

GROUPS = 4
"""Groups into which a lane's columns are divided. Each has its own sum of gradients, so several cores train a lane.

The number is a constant, because the way in which a sum is split decides its last bits.
"""


def fits(h: Tensor) -> bool:
    """Whether the kernels take such rows."""
    return has_kernels(h.device, h.dtype) and h.shape[-2] % len(ROWS_AT_ONCE) == 0


def normalised(norm: PaddedLayerNorm, h: Tensor) -> Tensor:
    """`norm` over the channels of `h`, `(r, T)`, or of all lanes, `(N, r, T)`."""
    return _applied(_NORM, norm.eps, h, norm.own, norm.weight, norm.bias)


def with_mlp(norm: PaddedLayerNorm, up: PaddedLinear, down: PaddedLinear, h: Tensor) -> Tensor:
    """`h + down(gelu(up(norm(h))))`, `(r, T)`, or of all lanes, `(N, r, T)`."""
    weights = (norm.weight, norm.bias, up.weight, up.bias, down.weight, down.bias)
    return _applied(_WITH_MLP, norm.eps, h, norm.own, *weights)


def _applied(function: Any, eps: float, h: Tensor, *tensors: Tensor) -> Tensor:
    """The function of all lanes, or of one lane as if it were all."""
    if h.dim() == 3:
        out: Tensor = function.apply(eps, h.contiguous(), *tensors)
        return out
    of_one: Tensor = function.apply(eps, *(x.unsqueeze(0) for x in (h, *tensors)))
    return of_one.squeeze(0)


def _of_rows(forward_kernel: Callable[..., None], backward_kernel: Callable[..., None]) -> Any:
    """A function of eps, `h` `(N, r, T)`, the own channels `(N, r)`, and weights `(N, …)` as the kernels take them."""

    class OfRows(torch.autograd.Function):
        @staticmethod
        def forward(eps: float, h: Tensor, own: Tensor, *weights: Tensor) -> Tensor:
            return _forward(forward_kernel, eps, h, own, weights)

        @staticmethod
        def setup_context(ctx: Any, inputs: tuple[Any, ...], output: Tensor) -> None:
            ctx.eps, *tensors = inputs
            ctx.save_for_backward(*tensors)

        @staticmethod
        def backward(ctx: Any, *grads: Tensor) -> tuple[Tensor | None, ...]:
            return _backward(backward_kernel, ctx, grads[0])

        @staticmethod
        def vmap(info: Any, in_dims: tuple[int | None, ...], *inputs: Any) -> tuple[Tensor, int]:
            eps, *tensors = inputs
            out: Tensor = OfRows.apply(eps, *folded(info.batch_size, in_dims[1:], tensors))
            return out.unflatten(0, (info.batch_size, -1)), 0

    return OfRows


def _forward(kernel: Callable[..., None], eps: float, h: Tensor, own: Tensor, weights: tuple[Tensor, ...]) -> Tensor:
    out = torch.empty_like(h)
    arrays = (x.numpy() for x in (h, _ranks(own), *weights))
    _run(kernel, len(h) * -(-h.shape[2] // BLOCK), *arrays, np.float32(eps), out.numpy())
    return out


def _backward(kernel: Callable[..., None], ctx: Any, grad: Tensor) -> tuple[Tensor | None, ...]:
    h, own, *weights = ctx.saved_tensors
    d_h = torch.empty_like(h)
    d_weights = [w.new_zeros(len(w), GROUPS, w[0].numel()) for w in weights]
    *but_last, _ = weights  # a bias that is added last changes no gradient
    before = (x.numpy() for x in (h, _ranks(own), *but_last))
    after = (x.numpy() for x in (grad.contiguous(), d_h, *d_weights))
    _run(kernel, len(h) * GROUPS, *before, np.float32(ctx.eps), *after)
    return None, d_h, None, *(d.sum(1).view_as(w) for d, w in zip(d_weights, weights, strict=True))


def _ranks(own: Tensor) -> Tensor:
    """Number of channels of every lane without padding, `(N,)`."""
    return own.sum(1).to(torch.int64)


def _run(kernel: Callable[..., None], n_tasks: int, *arguments: Any) -> None:
    on_threads(lambda first, last: kernel(ROWS_AT_ONCE, first, last, *arguments), n_tasks)


_NORM = _of_rows(norm_forward, norm_backward)
_WITH_MLP = _of_rows(mlp_forward, mlp_backward)
