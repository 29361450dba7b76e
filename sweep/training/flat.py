"""Lays the parameters of a stack side by side in a few matrices.

On a GPU, an update of a small tensor takes as long as its launch. A stack has a hundred parameters or more, and an
optimizer needs about ten operations for each. In a few matrices, the same update is a few dozen operations.
"""

from collections.abc import Callable, Mapping

import torch
from torch import Tensor


class FlatParameters:
    """Parameters of `N` lanes, in one matrix for each group of parameters that are updated alike.

    The parameters become views of the matrices, so an update of a matrix updates them in place.

    Args:
        params: Stacked parameters by name, each `(N, ...)`.
        group_of: Name of a parameter's group, from the parameter's name and tensor.

    Attributes:
        matrices: By name of the group, `(N, P)`, where `P` is the number of the group's parameters in a lane.
    """

    def __init__(self, params: Mapping[str, Tensor], group_of: Callable[[str, Tensor], str]):
        self._shapes = {name: p.shape[1:] for name, p in params.items()}
        self._sizes: dict[str, dict[str, int]] = {}
        for name, p in params.items():
            self._sizes.setdefault(group_of(name, p), {})[name] = self._shapes[name].numel()
        self.matrices = self.flat({name: p.detach() for name, p in params.items()})
        for group, matrix in self.matrices.items():
            for name, view in self.views(group, matrix).items():
                params[name].data = view

    def flat(self, tensors: Mapping[str, Tensor]) -> dict[str, Tensor]:
        """Copies of tensors by parameter, each `(N, ...)`, as matrices by group, each `(N, P)`."""
        return {
            group: torch.cat([tensors[name].reshape(len(tensors[name]), size) for name, size in sizes.items()], 1)
            for group, sizes in self._sizes.items()
        }

    def views(self, group: str, matrix: Tensor) -> dict[str, Tensor]:
        """The part of each parameter in a matrix of a group, `(N, ...)`; not a copy."""
        sizes = self._sizes[group]
        parts = zip(sizes, matrix.split(list(sizes.values()), 1), strict=True)
        return {name: part.view(len(matrix), *self._shapes[name]) for name, part in parts}
