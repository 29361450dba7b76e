"""The precision of products with frozen streams. This is the only place where numbers are rounded to bf16.

Under `bf16`, the frozen streams and the matrices they are multiplied with are rounded before the product. Its sums are
computed in fp32 and returned as fp32. Queries, keys and values are rounded before attention in the same way.
Parameters, optimizer, LayerNorm's statistics, softmax, losses and metrics stay fp32.
"""

from contextlib import nullcontext
from typing import Any, Literal

import torch
import torch.nn.functional as F
from torch import Tensor

from sweep.machine.settings import on_all_threads

Precision = Literal["fp32", "bf16"]

LARGE_PRODUCT = 10**8
"""Multiply-adds of a product that is worth other threads than the operators around it have.

OpenMP ends threads when fewer are used, and starts them anew afterwards, which takes up to a tenth of a millisecond.
"""

SUMMED_AT_ONCE = 256
"""Terms of a product on a CPU that are summed at once.

MKL with AVX-512 splits longer sums into parts, and splits them differently for another number of rows or threads. A
lane's last bits would then depend on how many lanes are beside it. With 384 terms they did so for 8 threads. This is no
slower than the library's own way of splitting.
"""

FEWEST_ROWS = 16
"""Fewest rows of a product on a CPU: for fewer rows the library uses other code, with other last bits."""

WHOLE_COLUMNS = 16
"""The number of columns of a product on a CPU is a multiple of this.

Otherwise MKL computes the last columns by other code for some numbers of threads: with 24 columns from 3 threads on,
with 65 columns from 4 threads on. A lane's last bits would then depend on the number of threads.
"""


def product_dtype(precision: Precision) -> torch.dtype | None:
    """Return the type to which the factors of a product are rounded; None if they are not rounded."""
    return torch.bfloat16 if precision == "bf16" else None


def require_fp32_sums() -> None:
    """Make a GPU sum the parts of a bf16 product in fp32. By default PyTorch leaves this to the library."""
    torch.backends.cuda.matmul.allow_bf16_reduced_precision_reduction = False


def write_product(out: Tensor, a: Tensor, frozen: Tensor) -> None:
    """Compute `out = a @ frozen`, `(m, n)` from `(m, k)` and `(k, n)`; `a` is rounded to the type of `frozen`.

    Args:
        out: The result, in any memory layout.
        a: The rows of all lanes, one lane after another. A row of `out` has the same bits however many rows are beside
            it. The library's own product does not promise that; see `SUMMED_AT_ONCE`.
        frozen: The matrix that all lanes share.
    """
    if a.dtype != frozen.dtype:
        out.copy_(torch.mm(a.to(frozen.dtype), frozen))
    elif a.device.type != "cpu":
        torch.mm(a, frozen, out=out)
    elif len(a) < FEWEST_ROWS or frozen.shape[1] % WHOLE_COLUMNS:
        n_rows, n_columns = out.shape
        missing_rows, missing_columns = max(0, FEWEST_ROWS - n_rows), -n_columns % WHOLE_COLUMNS
        padded = a.new_empty(n_rows + missing_rows, n_columns + missing_columns)
        write_product(padded, F.pad(a, (0, 0, 0, missing_rows)), F.pad(frozen, (0, missing_columns)))
        out.copy_(padded[:n_rows, :n_columns])
    else:
        is_large = out.numel() * a.shape[1] >= LARGE_PRODUCT
        with on_all_threads() if is_large else nullcontext():
            torch.mm(a[:, :SUMMED_AT_ONCE], frozen[:SUMMED_AT_ONCE], out=out)
            for first in range(SUMMED_AT_ONCE, a.shape[1], SUMMED_AT_ONCE):
                summed = slice(first, first + SUMMED_AT_ONCE)
                out.addmm_(a[:, summed], frozen[summed])


def add_product(out: Tensor, a: Tensor, frozen: Tensor) -> None:
    """Compute `out += a @ frozen`; see `write_product`."""
    product = torch.empty_like(out)
    write_product(product, a, frozen)
    out += product


def product(a: Tensor, frozen: Tensor) -> Tensor:
    """Return `a @ frozen` as `write_product` computes it, with a gradient for `a`.

    Args:
        a: The rows of a lane, `(m, k)`, or of all lanes, `(N, m, k)`. Under `vmap`, all lanes share one product, too.
        frozen: `(k, n)`.
    """
    rows: Tensor = _Product.apply(a.flatten(0, -2), frozen)
    written: Tensor = rows.unflatten(0, a.shape[:-1])
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
