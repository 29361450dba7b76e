"""In which precision products with frozen streams are computed: the one place where numbers are rounded to bf16.

Under `bf16` the frozen streams, and what is multiplied with them, are rounded on their way into the product; sums are
made in fp32 and come back as fp32. So are queries, keys and values on their way into attention. Parameters,
optimizer, LayerNorm's statistics, softmax, losses and metrics stay fp32.
"""

from typing import Any, Literal

import torch
import torch.nn.functional as F
from torch import Tensor

Precision = Literal["fp32", "bf16"]

SUMMED_AT_ONCE = 256
"""Terms of a CPU's product, of which the library makes one sum whatever the number of rows.

Longer sums are cut by MKL with AVX-512, into other parts for another number of rows or threads, and a lane's last bits
would depend on how many lanes are beside it. With 384 they did for 8 threads. No slower than the library's own cut.
"""

FEWEST_ROWS = 16
"""Of a CPU's product: the library takes another path for a few, with other last bits."""


def product_dtype(precision: Precision) -> torch.dtype | None:
    """What factors of a product are rounded to; None for not at all."""
    return torch.bfloat16 if precision == "bf16" else None


def require_fp32_sums() -> None:
    """Have a GPU add up the parts of a bf16 product in fp32, which PyTorch by default leaves to the library."""
    torch.backends.cuda.matmul.allow_bf16_reduced_precision_reduction = False


def write_product(out: Tensor, a: Tensor, frozen: Tensor) -> None:
    """`out = a @ frozen`, `(m, n)` from `(m, k)` and `(k, n)`; `a` is rounded to what `frozen` was rounded to.

    Args:
        out: Any memory layout.
        a: Rows of all lanes under one another. A row of `out` has the same bits whatever number of rows is beside it,
            which a library's product does not promise: see `SUMMED_AT_ONCE`.
        frozen: Shared by all lanes.
    """
    if a.dtype != frozen.dtype:
        out.copy_(torch.mm(a.to(frozen.dtype), frozen))
    elif a.device.type != "cpu":
        torch.mm(a, frozen, out=out)
    elif len(a) < FEWEST_ROWS:
        padded = a.new_empty(FEWEST_ROWS, out.shape[1])
        write_product(padded, F.pad(a, (0, 0, 0, FEWEST_ROWS - len(a))), frozen)
        out.copy_(padded[: len(a)])
    else:
        torch.mm(a[:, :SUMMED_AT_ONCE], frozen[:SUMMED_AT_ONCE], out=out)
        for first in range(SUMMED_AT_ONCE, a.shape[1], SUMMED_AT_ONCE):
            summed = slice(first, first + SUMMED_AT_ONCE)
            out.addmm_(a[:, summed], frozen[summed])


def add_product(out: Tensor, a: Tensor, frozen: Tensor) -> None:
    """`out += a @ frozen`; see `write_product`."""
    product = torch.empty_like(out)
    write_product(product, a, frozen)
    out += product


def product(a: Tensor, frozen: Tensor) -> Tensor:
    """`a @ frozen` as `write_product` has it, with a gradient for `a`. Under `vmap` all lanes are one product."""
    written: Tensor = _Product.apply(a, frozen)
    return written


class _Product(torch.autograd.Function):
    @staticmethod
    def forward(a: Tensor, frozen: Tensor) -> Tensor:
        out = a.new_empty(len(a), frozen.shape[1])
        write_product(out, a, frozen)
        return out

    @staticmethod
    def setup_context(ctx: Any, inputs: tuple[Tensor, Tensor], output: Tensor) -> None:
        ctx.save_for_backward(inputs[1])

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> tuple[Tensor, None]:
        (frozen,) = ctx.saved_tensors
        return product(grads[0], frozen.mT), None

    @staticmethod
    def vmap(info: Any, in_dims: tuple[int, None], a: Tensor, frozen: Tensor) -> tuple[Tensor, int]:
        rows = a.movedim(in_dims[0], 0)
        return product(rows.flatten(0, 1), frozen).unflatten(0, rows.shape[:2]), 0
