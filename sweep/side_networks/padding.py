"""Padding: lanes of different ranks in one stack.

Every parameter is padded with zeros to the stack's rank. A parameter is drawn at its own size, so padding changes no
random number. The zeros are at the end of every dimension. They stay zero, because each gradient of the padding is a
product with another part of the padding. So a padded lane computes exactly what a module of its own rank computes, and
`cut_to` removes the padding again.
"""

from collections.abc import Mapping, Sequence

import torch
import torch.nn.functional as F
from torch import Tensor, nn

COLUMNS = 16
"""The number of columns of a matrix of tokens is a multiple of this: 64 bytes.

On a CPU, the matrix library multiplies the matrices of the lanes one after the other. If a row of the result were not a
multiple of 16 bytes, the next lane's result would begin at another alignment, and other instructions would compute it
with other last bits.
"""


def padded_normal(own: Sequence[int], padded: Sequence[int], deviation: float) -> nn.Parameter:
    """A parameter with normal random numbers, or zeros if `deviation` is 0.

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
    """Check that a rank fits into its stack.

    Raises:
        ValueError: `rank` is below 1 or above `padded_rank`.
    """
    if not 1 <= rank <= padded_rank:
        raise ValueError(f"rank {rank} is not between 1 and the stack's rank {padded_rank}")


def cut_to(like: Mapping[str, Tensor], state: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Cut a padded lane's tensors to the shapes of its own rank.

    Args:
        like: The `state_dict` of the unpadded module; only its shapes are used, so it may be on the `meta` device.
        state: The lane's tensors by the same names.

    Returns:
        Contiguous copies by name.
    """
    return {
        name: tensor[tuple(map(slice, like[name].shape))].clone(memory_format=torch.contiguous_format)
        for name, tensor in state.items()
    }


class PaddedLinear(nn.Module):
    """A linear layer of a lane's own sizes, padded to the sizes of its stack.

    Args:
        own: Number of inputs and of outputs of the lane.
        padded: Number of inputs and of outputs in the stack.
        deviation: Standard deviation of the initial weights; biases start at zero.
    """

    def __init__(self, own: tuple[int, int], padded: tuple[int, int], deviation: float):
        super().__init__()
        self.weight = padded_normal(own[::-1], padded[::-1], deviation)
        self.bias = nn.Parameter(torch.zeros(padded[1]))

    def forward(self, x: Tensor) -> Tensor:
        """`(..., inputs)` to `(..., outputs)`."""
        return F.linear(x, self.weight, self.bias)


class PaddedLayerNorm(nn.Module):
    """LayerNorm over a lane's own channels; padding channels are ignored.

    Args:
        rank: Channels of the lane.
        padded_rank: Channels of the stack.
        trained: Whether weight and bias are trained. If not, they are ones and zeros.
    """

    eps = 1e-5
    own: Tensor
    weight: Tensor
    bias: Tensor

    def __init__(self, rank: int, padded_rank: int, *, trained: bool = True):
        super().__init__()
        own = (torch.arange(padded_rank) < rank).to(torch.get_default_dtype())
        for name, values in (("weight", own.clone()), ("bias", torch.zeros(padded_rank))):
            if trained:
                self.register_parameter(name, nn.Parameter(values))
            else:
                self.register_buffer(name, values, persistent=False)
        self.register_buffer("own", own, persistent=False)

    def forward(self, x: Tensor) -> Tensor:
        """`(..., padded_rank)` to the same shape."""
        n_channels = self.own.sum()
        centred = (x - (x * self.own).sum(-1, keepdim=True) / n_channels) * self.own
        variance = centred.square().sum(-1, keepdim=True) / n_channels
        return centred * (variance + self.eps).rsqrt() * self.weight + self.bias
