"""Runs a layer that is written for one lane, inside a side-network that computes all lanes of a stack at once."""

from torch import Tensor, nn
from torch.func import functional_call, vmap


def of_each_lane(layer: nn.Module, *inputs: Tensor | None, shared: Tensor | None = None) -> Tensor:
    """The outputs of a layer for every lane, `(N, …)`.

    Args:
        layer: The layer; its parameters and buffers have a first dimension `N`.
        inputs: The inputs of every lane, each `(N, …)` or None.
        shared: The last input, which is the same for all lanes.
    """
    tensors = {**dict(layer.named_parameters()), **dict(layer.named_buffers())}

    def of_lane(tensors: dict[str, Tensor], *own: Tensor | None) -> Tensor:
        out: Tensor = functional_call(layer, tensors, (*own, shared))
        return out

    in_dims = (0, *(None if x is None else 0 for x in inputs))
    outputs: Tensor = vmap(of_lane, in_dims=in_dims)(tensors, *inputs)
    return outputs
