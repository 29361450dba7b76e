"""Parameters of a lane's own rank inside a stack of a larger one.

Lanes of several ranks share a stack by padding every parameter with zeros up to the stack's rank. A parameter is drawn
at its own size, so padding changes no random number. The zeros lie at the end of every dimension, and they stay zero:
each gradient of the padding is a product with another part of the padding. So a padded lane computes exactly what the
module of its own rank computes, and `cut_to` cuts it out again.
"""

from collections.abc import Mapping, Sequence

import torch
import torch.nn.functional as F
from torch import Tensor, nn


def padded_normal(own: Sequence[int], padded: Sequence[int], deviation: float) -> nn.Parameter:
    """A parameter of normal random numbers, or of zeros where `deviation` is 0.

    Args:
        own: Its shape at the lane's own rank.
        padded: Its shape in the stack; no dimension is smaller.
        deviation: Standard deviation of the numbers.
    """
    values = torch.zeros(tuple(padded))
    if deviation:
        values[tuple(map(slice, own))] = deviation * torch.randn(tuple(own))
    return nn.Parameter(values)


def check_rank(rank: int, padded_rank: int) -> None:
    """Refuse a rank that does not fit into its stack.

    Raises:
        ValueError: `rank` is below 1 or above `padded_rank`.
    """
    if not 1 <= rank <= padded_rank:
        raise ValueError(f"rank {rank} does not lie between 1 and the stack's rank {padded_rank}")


def cut_to(like: Mapping[str, Tensor], state: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Cut a padded lane's tensors to the shapes of its own rank.

    Args:
        like: The `state_dict` of the unpadded module, or its shapes on the `meta` device.
        state: The lane's tensors by the same names.

    Returns:
        Copies, contiguous.
    """
    return {
        name: tensor[tuple(map(slice, like[name].shape))].clone(memory_format=torch.contiguous_format)
        for name, tensor in state.items()
    }


class PaddedLinear(nn.Module):
    """A linear layer between a lane's own sizes, padded to those of its stack.

    Args:
        own: Inputs and outputs of the lane.
        padded: Those of the stack.
        deviation: Standard deviation of the weights at the start; biases start at zero.
    """

    def __init__(self, own: tuple[int, int], padded: tuple[int, int], deviation: float):
        super().__init__()
        self.weight = padded_normal(own[::-1], padded[::-1], deviation)
        self.bias = nn.Parameter(torch.zeros(padded[1]))

    def forward(self, x: Tensor) -> Tensor:
        """`(..., inputs)` to `(..., outputs)`."""
        return F.linear(x, self.weight, self.bias)


class PaddedLayerNorm(nn.Module):
    """LayerNorm over a lane's own channels, however many zeros lie behind them.

    Args:
        rank: Channels of the lane.
        padded_rank: Channels of the stack.
    """

    eps = 1e-5
    own: Tensor

    def __init__(self, rank: int, padded_rank: int):
        super().__init__()
        own = (torch.arange(padded_rank) < rank).to(torch.get_default_dtype())
        self.weight = nn.Parameter(own.clone())
        self.bias = nn.Parameter(torch.zeros(padded_rank))
        self.register_buffer("own", own, persistent=False)

    def forward(self, x: Tensor) -> Tensor:
        """`(..., padded_rank)` to the same shape."""
        n_channels = self.own.sum()
        centred = (x - (x * self.own).sum(-1, keepdim=True) / n_channels) * self.own
        variance = centred.square().sum(-1, keepdim=True) / n_channels
        return centred * (variance + self.eps).rsqrt() * self.weight + self.bias
