"""In which precision products with frozen streams are computed: the one place where numbers are rounded to bf16.

Under `bf16` the frozen streams, and what is multiplied with them, are rounded on their way into the product; sums are
made in fp32 and come back as fp32. So are queries, keys and values on their way into attention. Parameters,
optimizer, LayerNorm's statistics, softmax, losses and metrics stay fp32.
"""

from typing import Literal

import torch
from torch import Tensor

Precision = Literal["fp32", "bf16"]


def product_dtype(precision: Precision) -> torch.dtype | None:
    """What factors of a product are rounded to; None for not at all."""
    return torch.bfloat16 if precision == "bf16" else None


def require_fp32_sums() -> None:
    """Have a GPU add up the parts of a bf16 product in fp32, which PyTorch by default leaves to the library."""
    torch.backends.cuda.matmul.allow_bf16_reduced_precision_reduction = False


def write_product(out: Tensor, a: Tensor, frozen: Tensor) -> None:
    """`out = a @ frozen`, `(m, n)` from `(m, k)` and `(k, n)`; `a` is rounded to what `frozen` was rounded to."""
    if a.dtype == frozen.dtype:
        torch.mm(a, frozen, out=out)
    else:
        out.copy_(torch.mm(a.to(frozen.dtype), frozen))


def add_product(out: Tensor, a: Tensor, frozen: Tensor) -> None:
    """`out += a @ frozen`; see `write_product`."""
    if a.dtype == frozen.dtype:
        out.addmm_(a, frozen)
    else:
        out.add_(torch.mm(a.to(frozen.dtype), frozen))
