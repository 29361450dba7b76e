"""A lane as plain numbers, which travel to another process or into a snapshot and become the same lane again."""

from collections.abc import Mapping
from dataclasses import dataclass, field

import torch
from torch import Tensor

from sweep.side_networks.spec import SideNetworkSpec
from sweep.study.lane_config import LaneConfig
from sweep.training.engine import Lane


@dataclass(frozen=True)
class LaneState:
    """A lane between two epochs.

    Attributes:
        config: Its hyperparameters.
        seed: Seed of its initial weights and of its dropout.
        epochs: Number of epochs that it has trained for.
        weights: Weights by name, on the CPU; None for the initial weights, which follow from the seed.
        optimizer: State of its optimizer by name, on the CPU; empty before the first step.
        fold: The fold that it is measured on and does not learn from; None without cross-validation.
    """

    config: LaneConfig
    seed: int
    epochs: int = 0
    weights: Mapping[str, Tensor] | None = None
    optimizer: Mapping[str, Tensor] = field(default_factory=dict)
    fold: int | None = None

    @classmethod
    def of(cls, lane: Lane) -> "LaneState":
        """The state of a lane whose module has its current weights; on a CPU it shares their memory."""
        weights, optimizer = _on_cpu(lane.module.state_dict()), _on_cpu(lane.optimizer_state)
        return cls(lane.config, lane.seed, lane.epochs, weights, optimizer, lane.fold)

    def lane(self, spec: SideNetworkSpec, device: torch.device) -> Lane:
        """The lane that has this state.

        Args:
            spec: Structure of its side-network.
            device: Device that it is to train on.

        Raises:
            RuntimeError: The weights are not those of such a side-network.
        """
        module = spec.lane(self.config.rank, self.seed, self.config)
        if self.weights is not None:
            module.load_state_dict(self.weights)
        return Lane(self.config, module.to(device), self.seed, dict(self.optimizer), self.epochs, self.fold)


def _on_cpu(state: Mapping[str, Tensor]) -> dict[str, Tensor]:
    return {name: tensor.detach().cpu() for name, tensor in state.items()}
