"""Load timm's models by name, with published weights, with random weights, or with a state dict."""

import warnings
from collections.abc import Mapping
from functools import cache
from typing import Any

import timm
import torch
from torch import Tensor, nn

from backbones.frozen import FrozenBackbone
from backbones.hub import no_weights, overlay, weights_only
from backbones.protocol import Transform
from backbones.taps import Taps
from backbones.timm_levels import TimmLevels, has_levels
from backbones.timm_positions import resampled_positions
from backbones.timm_vit import TimmViT, is_plain_vit, require_whole_patches
from sweep.errors import SweepError, UsageError
from sweep.machine.seeds import seeded

FAMILY_NAMES = (
    "the Vision Transformers (ViT, DeiT, DINOv2, DINOv3, CLIP, SigLIP, EVA-02, BEiT), Swin, ConvNeXt, PVT v2, "
    "ResNet, RegNet, DenseNet, EfficientNet, MobileNetV3"
)


def pretrained(name: str, *, taps: Taps, image_size: int | None) -> FrozenBackbone:
    """Load a timm model with its published weights.

    Args:
        name: a timm model name, with or without a weights tag.
        taps: which blocks to read.
        image_size: side in pixels; None for the size it was trained with. Position embeddings are interpolated.

    Raises:
        UsageError: there is no adapter for timm's model of this name, or an option does not fit it.
        SweepError: the weights are not available.
    """
    sized = takes_image_size(name)
    config = timm.get_pretrained_cfg(name)
    if config is None or not (config.hf_hub_id or config.url):
        raise UsageError(f"timm publishes no weights for {name!r}; give a tag that has some, or untrained:{name}")
    source = overlay(name, config) if config.hf_hub_id else None
    options: dict[str, Any] = {"img_size": image_size} if sized and image_size is not None else {}
    try:
        with weights_only(), warnings.catch_warnings():
            # PyTorch warns of how timm resamples relative positions
            warnings.filterwarnings("ignore", category=UserWarning, module=r"timm\.layers\.interpolate")
            model = timm.create_model(name, pretrained=True, pretrained_cfg_overlay=source, num_classes=0, **options)
    except (OSError, RuntimeError) as error:
        raise SweepError(no_weights(name, f"{type(error).__name__}: {error}")) from error
    return adapt(name, model, taps=taps, image_size=image_size)


def untrained(
    name: str, architecture: str, *, taps: Taps, image_size: int | None, seed: int = 0, **options: Any
) -> FrozenBackbone:
    """Build a timm model with seeded random weights; the global random state is left as it was.

    Args:
        name: the name of the backbone.
        architecture: a timm model name.
        taps: which blocks to read.
        image_size: side in pixels; None for the architecture's default.
        seed: seed of the weights.
        **options: further arguments for timm's constructor.

    Raises:
        UsageError: there is no adapter for the architecture, or an option does not fit it.
    """
    if takes_image_size(architecture) and image_size is not None:
        options["img_size"] = image_size
    with seeded(seed):
        model = _create(name, architecture, **options)
    return adapt(name, model, taps=taps, image_size=image_size)


def from_weights(
    name: str, architecture: str, weights: Mapping[str, Tensor], *, taps: Taps, image_size: int
) -> FrozenBackbone:
    """Build a timm model for inputs of `image_size` pixels with `weights`, every key of which must fit.

    Raises:
        UsageError: `taps` or `image_size` do not fit the architecture.
    """
    options = {"img_size": image_size} if takes_image_size(architecture) else {}
    with seeded(0):  # every weight is replaced below
        model = _create(name, architecture, **options)
    if is_plain_vit(model):
        require_whole_patches(name, image_size, int(model.patch_embed.patch_size[0]))
    model.load_state_dict(resampled_positions(weights, model), strict=True)
    return adapt(name, model, taps=taps, image_size=image_size)


def adapt(name: str, model: Any, *, taps: Taps, image_size: int | None) -> FrozenBackbone:
    """Wrap a timm model in its adapter.

    Raises:
        UsageError: An option does not fit the model.
    """
    plain = is_plain_vit(model)
    transform = getattr(model, "transform", None)  # of a network that the user built
    if not isinstance(transform, Transform):
        config = model.pretrained_cfg
        transform = Transform(
            image_size=image_size or int(model.patch_embed.img_size[0] if plain else config["input_size"][-1]),
            mean=tuple(config["mean"]),
            std=tuple(config["std"]),
            interpolation=config["interpolation"],
        )
    backbone = (TimmViT if plain else TimmLevels)(name, model, transform, taps)
    backbone.crop_pct = float((getattr(model, "pretrained_cfg", None) or {}).get("crop_pct") or 1.0)
    return backbone


@cache
def takes_image_size(name: str) -> bool:
    """Whether timm's model `name` takes a single image size. This is found out without creating weights.

    Raises:
        UsageError: There is no adapter for it.
    """
    with torch.device("meta"):
        model: nn.Module = timm.create_model(name, pretrained=False, num_classes=0)
    if is_plain_vit(model):
        return True
    if not has_levels(model):
        raise UsageError(
            f"timm model {name!r} is a {type(model).__name__}, for which sweep has no adapter; it has "
            f"adapters for {FAMILY_NAMES}, and takes your own network (--backbone ./mine.py:build)"
        )
    return hasattr(model, "set_input_size")


def _create(name: str, architecture: str, **options: Any) -> Any:
    """Build a timm model with random weights and without a head."""
    try:
        return timm.create_model(architecture, pretrained=False, num_classes=0, **options)
    except (AssertionError, ArithmeticError, MemoryError, RuntimeError, TypeError, ValueError) as error:
        if "img_size" not in options:
            raise
        reason = (str(error) or type(error).__name__).splitlines()[0]
        raise UsageError(f"{name!r} cannot be built for images of {options['img_size']} px: {reason}") from error
