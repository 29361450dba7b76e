"""Weights that the head of every lane starts with, in place of random numbers."""

from dataclasses import dataclass

import torch
from torch import Tensor, nn

from sweep.side_networks.head import Head


@dataclass(frozen=True, eq=False)
class HeadStart:
    """The weights of the linear head over the normalised last stage.

    Attributes:
        weight: `(C, D)`.
        bias: `(C,)`.
    """

    weight: Tensor
    bias: Tensor

    @torch.no_grad()
    def give(self, side_network: nn.Module) -> None:
        """Set the weights of a newly initialised side-network whose head reads the last stage."""
        head = head_of(side_network)
        head.linear.weight.copy_(self.weight)
        head.linear.bias.copy_(self.bias)


def head_of(side_network: nn.Module) -> Head:
    """The head that reads the last stage.

    Raises:
        ValueError: There is none.
    """
    head = getattr(side_network, "head", None)
    head = getattr(head, "pooled", head)  # of a ladder
    if not isinstance(head, Head):
        raise ValueError(f"the head of {type(side_network).__name__} does not read the last stage")
    return head
