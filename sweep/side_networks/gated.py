"""LAST with a learned rank: each rank of a module has a gate, and a penalty closes the gates that are worth little.

This rule is sweep's own. A gate `g_c ≥ 0` multiplies the part that rank `c` has in both products of a module:

    scores   Σ_c g_c q_c k_cᵀ / sqrt(r)
    output   Σ_c g_c a_c U_c                          a_c: rank c of the attention output,  U_c: its row of W_up

    loss     the task's loss + λ Σ g_c                λ: `LaneConfig.rank_penalty`;  the sum is over all modules

    gate     g_c = 8 relu(θ_c),  θ_c = 1/8 at the start

At the start all gates are 1, and the side-network is LAST. Once `θ_c` falls below zero, the gate is exactly zero and
gets no gradient any more, so the rank is out for the rest of the training. So the ranks that are left are not chosen
by a threshold, and to leave out the others does not change the function.

The factor 8 lets a gate move eight times as fast as a weight. AdamW moves every parameter by about its learning rate in
a step, and at that speed a gate would need hundreds of steps to close.
"""

from collections.abc import Mapping
from typing import cast

import torch
from torch import Tensor, nn

from sweep.side_networks.attention import attention
from sweep.side_networks.last import LowRankAttention

RANK_GATES = "rank_gates"
"""How the name of a parameter ends that holds `θ`: these parameters have the penalty."""

SPEED = 8.0
"""How much faster a gate moves than a weight. A power of two, so that gates are exactly 1 at the start."""


def opened(gates: Tensor) -> Tensor:
    """The gates `g` of parameters `θ`."""
    return SPEED * torch.relu(gates)


class GatedAttention(LowRankAttention):
    """A module of LAST with a gate for each rank; arguments as `LowRankAttention`."""

    def __init__(self, width: int, rank: int, padded_rank: int):
        super().__init__(width, rank, padded_rank)
        self.rank_gates = nn.Parameter((torch.arange(padded_rank) < rank).to(torch.get_default_dtype()) / SPEED)

    def forward(self, x: Tensor, bias: Tensor | None = None) -> Tensor:
        """Apply the module to a residual stream; arguments as `LowRankAttention`. Without ranks it changes nothing."""
        if not len(self.rank_gates):
            return x
        h, gates = self.norm(x), opened(self.rank_gates)
        out: Tensor = x + self.up(gates * attention(self.scale * gates * self.q(h), self.k(h), self.v(h), bias))
        return out

    def rows(self) -> tuple[Tensor, Tensor]:
        """As `LowRankAttention.rows`, with the gates multiplied in."""
        gates = opened(self.rank_gates).unsqueeze(-1)
        return torch.cat([self.scale * gates * self.q.weight, self.k.weight, self.v.weight]), gates * self.up.weight.T

    def resize(self, n_ranks: int) -> None:
        """Keep the first `n_ranks` ranks. The attention scale stays that of the rank that was trained."""
        for layer in (self.q, self.k, self.v):
            layer.weight = nn.Parameter(layer.weight[:n_ranks].detach().clone())
        self.up.weight = nn.Parameter(self.up.weight[:, :n_ranks].detach().clone())
        self.rank_gates = nn.Parameter(self.rank_gates[:n_ranks].detach().clone())


def effective_ranks(state: Mapping[str, Tensor]) -> Tensor | None:
    """How many ranks each lane has left, as the mean over its modules.

    Args:
        state: Parameters by name; those of a stack have a lane dimension first, and so has the result.

    Returns:
        The number of ranks, `(N,)`, or a scalar for one lane; None if the side-network has no gates.
    """
    of_modules = [(gates > 0).sum(-1) for name, gates in state.items() if name.endswith(RANK_GATES)]
    return torch.stack(of_modules).double().mean(0) if of_modules else None


def without_closed_ranks(state: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """The weights of a lane without the ranks whose gates are closed.

    Args:
        state: The `state_dict` of a LAST with `GatedAttention`.
    """
    left = dict(state)
    for name, gates in state.items():
        if name.endswith(RANK_GATES):
            module, is_open = name.removesuffix(RANK_GATES), gates > 0
            left[name] = gates[is_open]
            left |= {f"{module}{row}.weight": state[f"{module}{row}.weight"][is_open] for row in "qkv"}
            left[f"{module}up.weight"] = state[f"{module}up.weight"][:, is_open].contiguous()
    return left


def resize_modules(side_network: nn.Module, state: Mapping[str, Tensor]) -> None:
    """Give every module as many ranks as the weights in `state` have for it, which may be fewer than it has."""
    for name, module in side_network.named_modules():
        gates = state.get(f"{name}.{RANK_GATES}")
        if isinstance(module, GatedAttention) and gates is not None and gates.dim() == 1:
            module.resize(len(gates))


def penalty(side_network: nn.Module) -> Tensor:
    """`Σ g_c` over all gates, a scalar; zero if there are none."""
    named = side_network.named_parameters()
    gates = [opened(parameter).sum() for name, parameter in named if name.endswith(RANK_GATES)]
    return cast("Tensor", sum(gates)) if gates else torch.zeros(())
