"""The shipped model: a frozen backbone and the side-networks it feeds, as one ordinary module."""

import math
from collections.abc import Mapping, Sequence

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from backbones.frozen import FrozenBackbone
from backbones.protocol import Transform
from backbones.text_transform import TextTransform
from sweep.export.config import ModelConfig


class AdaptedModel(nn.Module):
    """Images, or texts, to logits.

    One side-network gives its logits. Several share one forward pass of the backbone, and give the logarithm of the
    mean of their probabilities: `softmax` of either is the probability of each class.

    The backbone stays frozen and in eval mode; the side-networks' parameters can be trained on.

    Args:
        backbone: What feeds the side-networks.
        side_networks: One or more.
        class_names: `C` names, in the order of the logits.

    Attributes:
        class_names: As given.
        transform: Turns a PIL image into `(3, H, W)`, or a text into `(L,)`, what the model takes a batch of.
    """

    def __init__(self, backbone: FrozenBackbone, side_networks: Sequence[nn.Module], class_names: Sequence[str]):
        super().__init__()
        self.backbone = backbone
        self.side_networks = nn.ModuleList(side_networks)
        self.class_names = tuple(class_names)
        self.transform: Transform | TextTransform = backbone.transform

    def forward(self, images: Tensor) -> Tensor:
        """Classify images, or texts.

        Args:
            images: Transformed, `(B, 3, H, W)`; texts `(B, L)`.

        Returns:
            Logits, `(B, C)`; log-probabilities where there are several side-networks.
        """
        stages = self.backbone.stages(images)
        logits = [side_network(stages) for side_network in self.side_networks]
        if len(logits) == 1:
            only: Tensor = logits[0]
            return only
        log_p = F.log_softmax(torch.stack(logits), dim=-1)  # (N, B, C)
        return log_p.logsumexp(0) - math.log(len(logits))


def assemble(backbone: FrozenBackbone, config: ModelConfig, states: Sequence[Mapping[str, Tensor]]) -> AdaptedModel:
    """Put a model together, in eval mode.

    Args:
        backbone: The one that `config` names.
        config: What the model is.
        states: One `state_dict` a member.

    Raises:
        RuntimeError: A state does not fit its member.
    """
    side_networks = []
    for member, state in zip(config.members, states, strict=True):
        side_network = config.side_network.plain(member.rank)
        side_network.load_state_dict(state)
        side_networks.append(side_network)
    return AdaptedModel(backbone, side_networks, config.class_names).eval()
