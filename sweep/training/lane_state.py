"""A lane as plain numbers: what travels to another process, or into a snapshot, and becomes the same lane again."""

from collections.abc import Mapping
from dataclasses import dataclass, field

import numpy as np
import torch
from torch import Tensor

from sweep.side_networks.spec import SideNetworkSpec
from sweep.study.lane_config import LaneConfig
from sweep.training.engine import Lane

Arrays = Mapping[str, np.ndarray]


@dataclass(frozen=True)
class LaneState:
    """A lane between two epochs.

    Attributes:
        config: Its hyperparameters.
        seed: Seed of its initial weights and of its dropout.
        epochs: Epochs that it has trained for.
        weights: Weights by name; None for the initial weights, which follow from the seed.
        optimizer: State of its optimizer by name; empty before the first step.
    """

    config: LaneConfig
    seed: int
    epochs: int = 0
    weights: Arrays | None = None
    optimizer: Arrays = field(default_factory=dict)

    @classmethod
    def of(cls, lane: Lane) -> "LaneState":
        """The state of a lane whose module has its current weights."""
        weights, optimizer = as_arrays(lane.module.state_dict()), as_arrays(lane.optimizer_state)
        return cls(lane.config, lane.seed, lane.epochs, weights, optimizer)

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
            module.load_state_dict(as_tensors(self.weights))
        return Lane(self.config, module.to(device), self.seed, as_tensors(self.optimizer), self.epochs)


def as_arrays(state: Mapping[str, Tensor]) -> dict[str, np.ndarray]:
    """Tensors as arrays in the host's memory, copied."""
    return {name: tensor.detach().cpu().numpy().copy() for name, tensor in state.items()}


def as_tensors(state: Arrays) -> dict[str, Tensor]:
    """Arrays as tensors, copied."""
    return {name: torch.from_numpy(np.array(array)) for name, array in state.items()}
