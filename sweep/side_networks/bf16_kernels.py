"""The kernels of `torch_kernels.py`, with queries, keys and values rounded to bf16 before attention."""

import torch
from torch import Tensor

from sweep.side_networks import torch_kernels
from sweep.side_networks.torch_kernels import normalise, normalise_backward

__all__ = ["attend", "attend_backward", "normalise", "normalise_backward"]


def attend(qkv: Tensor, attended: Tensor, first: int, log_sum: Tensor, *, bias: Tensor | None = None) -> None:
    """See `torch_kernels.attend`."""
    torch_kernels.attend(qkv, attended, first, log_sum, torch.bfloat16, bias)


def attend_backward(
    qkv: Tensor, attended: Tensor, d_attended: Tensor, first: int, log_sum: Tensor, *, bias: Tensor | None = None
) -> Tensor:
    """See `torch_kernels.attend_backward`."""
    return torch_kernels.attend_backward(qkv, attended, d_attended, first, log_sum, torch.bfloat16, bias)
