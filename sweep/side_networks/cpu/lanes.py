"""Folds the lanes of `vmap` into the first dimension of a kernel's arrays."""

from collections.abc import Sequence

from torch import Tensor


def folded(n_lanes: int, dims: Sequence[int | None], tensors: Sequence[Tensor]) -> list[Tensor]:
    """Fold the lanes that `vmap` adds into the first dimension of tensors, which counts lanes already.

    Args:
        n_lanes: Number of lanes that `vmap` adds.
        dims: The dimension of these lanes in each tensor; None if all lanes share the tensor.
        tensors: Tensors, each `(n, …)` without these lanes.

    Returns:
        Tensors, each `(n_lanes · n, …)`, contiguous.
    """
    return [
        (x.unsqueeze(0).expand(n_lanes, *x.shape) if dim is None else x.movedim(dim, 0)).flatten(0, 1).contiguous()
        for x, dim in zip(tensors, dims, strict=True)
    ]
