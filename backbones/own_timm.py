"""Checks a timm network that the user built, and tries it on two images, before anything is computed with it."""

from typing import Any

import torch
from torch import Tensor, nn

from backbones.frozen import FrozenBackbone
from backbones.protocol import Transform
from backbones.timm_vit import is_plain_vit
from sweep.errors import UsageError
from sweep.machine.memory import is_out_of_memory

NEEDED_OF_CONFIG = ("mean", "std", "interpolation")
CHANNELS = 3
TOLERANCE = 1e-3
"""Largest difference of a stage between an image in a batch and alone, relative to its largest number: the rounding of
single precision."""


def require_fit(name: str, network: nn.Module) -> None:
    """Check that the adapters for timm's networks can take a network; if not, say what to build instead.

    Args:
        name: Name of the backbone.
        network: A network for which there is an adapter.

    Raises:
        UsageError: The network is not in single precision, has no transform, or is not made for square colour images.
    """
    model: Any = network
    for key, parameter in network.named_parameters():
        if parameter.dtype != torch.float32:
            raise _unfit(name, f"its {key} is of type {parameter.dtype}", "return network.float()")
    own = getattr(network, "transform", None)
    config = getattr(network, "pretrained_cfg", None) or {}
    missing = [key for key in NEEDED_OF_CONFIG if key not in config]
    if missing and not isinstance(own, Transform):
        remedy = "set network.transform = backbones.Transform(image_size=…, mean=…, std=…) before you return it"
        raise _unfit(name, f"it has no pretrained_cfg with {', '.join(missing)}", remedy)
    first = next((module for module in network.modules() if isinstance(module, nn.Conv2d)), None)
    if first is not None and first.in_channels != CHANNELS:
        raise _unfit(name, f"its images have {first.in_channels} channels, not {CHANNELS}", "build it with in_chans=3")
    if is_plain_vit(network):
        for what, sides in (("images", model.patch_embed.img_size), ("patches", model.patch_embed.patch_size)):
            if sides is not None and len(set(sides)) > 1:
                shape = " x ".join(map(str, sides))
                raise _unfit(name, f"its {what} of {shape} px are not square", "build it for square images and patches")


def try_on_two_images(backbone: FrozenBackbone) -> None:
    """Run a backbone on two images, and check its stages.

    Raises:
        UsageError: It fails, or its stages have wrong shapes, are not finite, or depend on the other images in a batch.
    """
    inputs = backbone.random_inputs(2).to(backbone.empty_inputs(1).device)
    try:
        stages, again, alone = (backbone.stages(batch) for batch in (inputs, inputs, inputs[:1]))
    except Exception as error:
        if is_out_of_memory(error):
            raise
        reason = (str(error) or type(error).__name__).splitlines()[0]
        raise UsageError(
            f"backbone {backbone.name!r} does not take images of {backbone.image_size} px: {type(error).__name__}: "
            f"{reason}; let build return a network for square colour images of that size, or give another --image-size"
        ) from error
    for number, (stage, repeated, one) in enumerate(zip(stages, again, alone, strict=True)):
        expected = (2, backbone.tokens, backbone.widths[number])
        if tuple(stage.shape) != expected:
            raise UsageError(
                f"backbone {backbone.name!r} returns stage {number} in the shape {tuple(stage.shape)}, but its parts "
                f"imply {expected}; let build return a network whose patches are square, without pooling between blocks"
            )
        if not stage.isfinite().all():
            raise UsageError(f"backbone {backbone.name!r} gives numbers in stage {number} that are not finite")
        if not torch.equal(stage, repeated) or _differs(stage[:1], one):
            raise UsageError(
                f"backbone {backbone.name!r} does not always return the same stage {number} for the same image, alone "
                f"and in a batch; let build return a network whose eval mode is deterministic"
            )


def _differs(one: Tensor, other: Tensor) -> bool:
    return bool((one - other).abs().max() > TOLERANCE * one.abs().max())


def _unfit(name: str, what: str, remedy: str) -> UsageError:
    return UsageError(f"backbone {name!r} cannot be adapted: {what}; {remedy}")
