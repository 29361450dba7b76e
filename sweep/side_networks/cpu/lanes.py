"""Lanes under `vmap` as one dimension more of a kernel's arrays."""

from collections.abc import Sequence

from torch import Tensor


def folded(n_lanes: int, dims: Sequence[int | None], tensors: Sequence[Tensor]) -> list[Tensor]:
    """Tensors whose first dimension already counts lanes, with those that `vmap` adds.

    Args:
        n_lanes: That `vmap` adds.
        dims: Where each tensor has them; None where it has none, and all lanes share it.
        tensors: Each `(n, …)` without them.

    Returns:
        Each `(n_lanes · n, …)`, contiguous.
    """
    return [
        (x.unsqueeze(0).expand(n_lanes, *x.shape) if dim is None else x.movedim(dim, 0)).flatten(0, 1).contiguous()
        for x, dim in zip(tensors, dims, strict=True)
    ]
