"""The shipped model: a frozen backbone and the side-networks it feeds, as one ordinary module."""

from collections.abc import Mapping, Sequence

import torch
from torch import Tensor, nn

from backbones.frozen import FrozenBackbone
from backbones.protocol import Transform
from backbones.text_transform import TextTransform
from sweep.export.config import ModelConfig
from sweep.tasks.targets import OF_CLASSES, Target


class AdaptedModel(nn.Module):
    """Images, or texts, to logits, or to numbers in the units of a regression's targets.

    One side-network gives its logits. Several share one forward pass of the backbone, and give the logarithm of the
    mean of their probabilities: `softmax` of either is the probability of each class. Where an image may have several
    labels, `sigmoid` of either is the probability of each.

    The backbone stays frozen and in eval mode; the side-networks' parameters can be trained on.

    Args:
        backbone: What feeds the side-networks.
        side_networks: One or more.
        class_names: `C` names, in the order of the logits.
        target: What the outputs of side-networks say.

    Attributes:
        class_names: As given.
        target: As given.
        transform: Turns a PIL image into `(3, H, W)`, or a text into `(L,)`, what the model takes a batch of.
    """

    def __init__(
        self,
        backbone: FrozenBackbone,
        side_networks: Sequence[nn.Module],
        class_names: Sequence[str],
        target: Target = OF_CLASSES,
    ):
        super().__init__()
        self.backbone = backbone
        self.side_networks = nn.ModuleList(side_networks)
        self.class_names = tuple(class_names)
        self.target = target
        self.transform: Transform | TextTransform = backbone.transform

    def forward(self, images: Tensor) -> Tensor:
        """Classify images, or texts.

        Args:
            images: Transformed, `(B, 3, H, W)`; texts `(B, L)`.

        Returns:
            Logits, `(B, C)`; of classes, log-probabilities where there are several side-networks; or numbers.
        """
        stages = self.backbone.stages(images)
        outputs = [self.target.decode(side_network(stages)) for side_network in self.side_networks]
        return outputs[0] if len(outputs) == 1 else self.target.together(torch.stack(outputs))


def assemble(backbone: FrozenBackbone, config: ModelConfig, states: Sequence[Mapping[str, Tensor]]) -> AdaptedModel:
    """Put a model together, in eval mode.

    Args:
        backbone: The one that `config` names.
        config: What the model is.
        states: One `state_dict` a member.

    Raises:
        ValueError: A state does not fit its member.
    """
    members = zip(config.members, states, strict=True)
    side_networks = [config.side_network.trained(member.rank, state) for member, state in members]
    return AdaptedModel(backbone, side_networks, config.class_names, config.target).eval()
