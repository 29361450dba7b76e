"""The exported model: a frozen backbone and the side-networks it feeds, as one ordinary module."""

from collections.abc import Mapping, Sequence

import torch
import torch.nn.functional as F
from PIL import Image
from torch import Tensor, nn

from backbones.frozen import FrozenBackbone
from backbones.protocol import Transform
from backbones.text_transform import TextTransform
from sweep.errors import UsageError
from sweep.export.config import ModelConfig
from sweep.export.detections import MIN_SCORE, cells_of, found_in_image
from sweep.export.masks import grid_of
from sweep.tasks.boxes import Detections
from sweep.tasks.kinds import DETECTION, SEGMENTATION
from sweep.tasks.targets import OF_CLASSES, Target


class AdaptedModel(nn.Module):
    """Maps images or texts to logits; for a regression, to numbers in the units of the targets.

    For segmentation, the logits are those of every pixel of the backbone's input, interpolated between its tokens. For
    detection, every cell has logits and a box, see `forward`; `detect` finds the boxes of an image.

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
            log-probabilities; for a regression, numbers. For detection `(B, S, C + 4)`: each of the `S` cells has a
            logit for every class, whose sigmoid is the score, and the left, upper, right and lower edge of a box as
            fractions of the backbone's input.
        """
        outputs = self.outputs(images)
        if self.target.kind is DETECTION:
            return cells_of(outputs)
        if self.target.kind is SEGMENTATION:
            return F.interpolate(grid_of(outputs), images.shape[-2:], mode="bilinear")
        return outputs

    def outputs(self, images: Tensor) -> Tensor:
        """Like `forward`; for segmentation and detection, the outputs of the patch tokens, `(B, P, C)`."""
        stages = self.backbone.stages(images)
        outputs = [self.target.decode(side_network(stages)) for side_network in self.side_networks]
        return outputs[0] if len(outputs) == 1 else self.target.together(torch.stack(outputs))

    @torch.no_grad()
    def detect(self, image: Image.Image, *, min_score: float = MIN_SCORE) -> Detections:
        """Find boxes in an image, for a model of detection.

        Args:
            image: The image, of any size.
            min_score: Score that a box must exceed.

        Returns:
            Boxes, best first: `corners` `(k, 4)` in pixels of the image, `scores` `(k,)`, and `classes` `(k,)`, which
            are indices of `class_names`. Of boxes of a class that overlap much, the best is kept.

        Raises:
            UsageError: The model is not of detection.
        """
        if self.target.kind is not DETECTION:
            raise UsageError(
                f"the model was trained for {self.target.kind.name}, so it finds no boxes; call it instead"
            )
        assert isinstance(self.transform, Transform)
        batch = self.transform(image).unsqueeze(0).to(next(self.parameters()).device)
        outputs = self.outputs(batch)[0].cpu()
        return found_in_image(outputs, len(self.class_names), self.transform, image.size, min_score=min_score)


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
