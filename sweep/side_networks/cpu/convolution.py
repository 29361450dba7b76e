"""A depthwise 3 x 3 convolution over the rows of a ladder, for a whole stack of lanes, in single precision on a CPU.

The sums have the order, and so the bits, of `ladder_rows.convolution_of_rows`, which PyTorch computes elsewhere.
"""

from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from backbones.grid import grid_side
from sweep.side_networks.convolution import KERNEL
from sweep.side_networks.cpu.compile import compiled, has_kernels
from sweep.side_networks.cpu.tasks import on_threads

_ZERO = np.float32(0)


def fits(x: Tensor) -> bool:
    """Whether the kernels take such rows: those of all lanes, in single precision on a CPU."""
    return x.dim() == 3 and has_kernels(x.device, x.dtype)


def convolved(x: Tensor, weight: Tensor, n_images: int, n_tokens: int, n_prefix_tokens: int) -> Tensor:
    """Every channel of every image convolved with weights of its own; zero for prefix tokens and for padding.

    Args:
        x: The rows of all lanes, `(N, r, T)`. The columns are the tokens of all images, one image after another,
            followed by padding.
        weight: `(N, r, 3, 3)`.
        n_images: Number of images `B`.
        n_tokens: Number of tokens of an image, `L`. Those after the prefix make a square grid.
        n_prefix_tokens: Class and register tokens before the patch tokens.

    Returns:
        `(N, r, T)`.
    """
    out: Tensor = _Convolution.apply((n_images, n_tokens, n_prefix_tokens), x.contiguous(), weight)
    return out


class _Convolution(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, sizes: tuple[int, int, int], x: Tensor, weight: Tensor) -> Tensor:
        ctx.sizes = sizes
        ctx.save_for_backward(x, weight)
        out = torch.zeros_like(x)
        _run(sizes, x, weight, out)
        return out

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> tuple[None, Tensor, Tensor]:
        x, weight = ctx.saved_tensors
        (grad,) = grads
        grad, d_x = grad.contiguous(), torch.zeros_like(x)
        _run(ctx.sizes, grad, weight.flip(-2, -1), d_x)
        of_grid, framed = _of_grid(grad, ctx.sizes), F.pad(_of_grid(x, ctx.sizes), (1, 1, 1, 1))
        side, d_weight = of_grid.shape[-1], torch.empty_like(weight)
        for row in range(KERNEL):
            for column in range(KERNEL):
                shifted = framed[..., row : row + side, column : column + side]
                d_weight[..., row, column] = (of_grid * shifted).sum((-3, -2, -1))
        return None, d_x, d_weight


def _of_grid(rows: Tensor, sizes: tuple[int, int, int]) -> Tensor:
    """The patch tokens of rows as grids, `(N, r, B, side, side)`."""
    n_images, n_tokens, n_prefix_tokens = sizes
    patches = rows[..., : n_images * n_tokens].unflatten(-1, (n_images, n_tokens))[..., n_prefix_tokens:]
    side = grid_side(n_tokens, n_prefix_tokens)
    of_grid: Tensor = patches.unflatten(-1, (side, side))
    return of_grid


def _run(sizes: tuple[int, int, int], x: Tensor, weight: Tensor, out: Tensor) -> None:
    """Write the convolution of `x` to `out`. With the weights reversed, it is the gradient of the input."""
    n_images, n_tokens, n_prefix_tokens = sizes
    side = grid_side(n_tokens, n_prefix_tokens)
    arrays = (x.numpy(), weight.contiguous().numpy(), out.numpy())
    of_images = (n_images, n_tokens, n_prefix_tokens, side)
    on_threads(lambda first, last: _convolve(first, last, *of_images, *arrays), x.shape[0] * x.shape[1])


@compiled
def _framed(x: Any, n: int, c: int, first: int, side: int, frame: Any) -> None:
    """Copy a grid of tokens into the middle of a frame of zeros, `(side + 2, side + 2)`."""
    for i in range(side):
        for j in range(side):
            frame[i + 1, j + 1] = x[n, c, first + i * side + j]


@compiled
def _convolve(
    first_task: int, last_task: int, B: int, L: int, n_prefix: int, side: int, x: Any, weight: Any, out: Any
) -> None:
    """Task `i` is channel `i % r` of lane `i // r`; the arrays are those of `convolved`."""
    frame = np.zeros((side + 2, side + 2), np.float32)
    for task in range(first_task, last_task):
        n, c = task // x.shape[1], task % x.shape[1]
        for b in range(B):
            first = b * L + n_prefix
            _framed(x, n, c, first, side, frame)
            for i in range(side):
                for j in range(side):
                    total = _ZERO
                    for row in range(KERNEL):
                        for column in range(KERNEL):
                            total += weight[n, c, row, column] * frame[i + row, j + column]
                    out[n, c, first + i * side + j] = total
