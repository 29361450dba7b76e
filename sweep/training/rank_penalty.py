"""The penalty on the gates of a learned rank, for every lane of a stack; see `sweep/side_networks/gated.py`."""

from collections.abc import Mapping, Sequence

import torch
from torch import Tensor

from sweep.side_networks.gated import RANK_GATES, SPEED
from sweep.study.lane_config import LaneConfig


class RankPenalty:
    """Adds the penalty's gradient to the gradients of a stack.

    Args:
        params: Stacked parameters by name, each `(N, ...)`. The gates are read in every step.
        configs: `N` lanes.
    """

    def __init__(self, params: Mapping[str, Tensor], configs: Sequence[LaneConfig]):
        self.gates = {name: p for name, p in params.items() if name.endswith(RANK_GATES)}
        like = next(iter(params.values()))
        strengths = [SPEED * config.rank_penalty for config in configs]
        self.strengths = torch.tensor(strengths, dtype=like.dtype, device=like.device).unsqueeze(-1)

    def __call__(self, grads: Mapping[str, Tensor]) -> Mapping[str, Tensor]:
        """Gradients of the loss with the penalty, from those without it, by parameter name, each `(N, ...)`."""
        added = {name: grads[name] + self.strengths * (gates > 0) for name, gates in self.gates.items()}
        return {**grads, **added} if added else grads
