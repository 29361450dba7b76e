"""The exported model: a frozen backbone and the side-networks it feeds, as one ordinary module."""

from collections.abc import Mapping, Sequence

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from backbones.frozen import FrozenBackbone
from backbones.protocol import Transform
from backbones.text_transform import TextTransform
from sweep.export.config import ModelConfig
from sweep.export.masks import grid_of
from sweep.tasks.kinds import SEGMENTATION
from sweep.tasks.targets import OF_CLASSES, Target


class AdaptedModel(nn.Module):
    """Maps images or texts to logits; for a regression, to numbers in the units of the targets.

    For segmentation, the logits are those of every pixel of the backbone's input, interpolated between its tokens.

    With one side-network, the output is its logits. Several side-networks share one forward pass of the backbone, and
    the output is the logarithm of the mean of their probabilities. In both cases `softmax` gives the probability of
    each class. Where an image may have several labels, `sigmoid` gives the probability of each label.

    The backbone stays frozen and in eval mode. The parameters of the side-networks can be trained further.

    Args:
        backbone: The backbone that feeds the side-networks.
        side_networks: One or more side-networks.
        class_names: The `C` names of the classes, in the order of the logits.
        target: How the outputs of the side-networks are to be read.

    Attributes:
        class_names: As given.
        target: As given.
        transform: Turns a Pillow image into `(3, H, W)`, or a text into `(L,)`; the model takes batches of these.
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
            images: Transformed images `(B, 3, H, W)`, or texts `(B, L)`.

        Returns:
            Logits `(B, C)`, or for segmentation `(B, C, H, W)`; with several side-networks that predict classes,
            log-probabilities; for a regression, numbers.
        """
        outputs = self.outputs(images)
        if self.target.kind is SEGMENTATION:
            return F.interpolate(grid_of(outputs), images.shape[-2:], mode="bilinear")
        return outputs

    def outputs(self, images: Tensor) -> Tensor:
        """Like `forward`; for segmentation, the logits of the patch tokens, `(B, P, C)`."""
        stages = self.backbone.stages(images)
        outputs = [self.target.decode(side_network(stages)) for side_network in self.side_networks]
        return outputs[0] if len(outputs) == 1 else self.target.together(torch.stack(outputs))


def assemble(backbone: FrozenBackbone, config: ModelConfig, states: Sequence[Mapping[str, Tensor]]) -> AdaptedModel:
    """Build a model in eval mode.

    Args:
        backbone: The backbone that `config` names.
        config: The model's configuration.
        states: The `state_dict` of each side-network.

    Raises:
        ValueError: A state does not fit its side-network.
    """
    members = zip(config.members, states, strict=True)
    side_networks = [config.side_network.trained(member.rank, state, member.config) for member, state in members]
    return AdaptedModel(backbone, side_networks, config.class_names, config.target).eval()
