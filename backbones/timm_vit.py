"""Adapter for timm's Vision Transformers, which uses their `forward_intermediates`."""

from collections.abc import Sequence
from typing import Any

import torch
from timm.layers.patch_embed import PatchEmbed
from timm.models import Beit, Eva, VisionTransformer
from torch import Tensor, nn

from backbones.frozen import FrozenBackbone
from backbones.protocol import Transform
from backbones.taps import Taps
from sweep.errors import UsageError


class TimmViT(FrozenBackbone):
    """A timm Vision Transformer: ViT, DeiT, DINOv2, DINOv3, the CLIP and SigLIP image towers, EVA-02, BEiT."""

    def __init__(self, name: str, network: nn.Module, transform: Transform, taps: Taps) -> None:
        """Wrap `network`, for which `is_plain_vit` holds and which was built for inputs of `transform.image_size`.

        Raises:
            UsageError: `taps` do not fit the blocks, or the patch size does not divide the image size.
        """
        model: Any = network
        image_size, patch_size = transform.image_size, int(model.patch_embed.patch_size[0])
        require_whole_patches(name, image_size, patch_size)
        super().__init__(
            name,
            network,
            transform,
            n_blocks=len(model.blocks),
            stage_indices=taps.of_blocks(name, len(model.blocks)),
            n_prefix_tokens=int(model.num_prefix_tokens),
        )
        self.widths = (int(model.embed_dim),) * len(self.stage_indices)
        self.tokens = (image_size // patch_size) ** 2 + self.n_prefix_tokens

    def _run(self, images: Tensor) -> list[Tensor]:
        model: Any = self.network
        entering: list[Tensor] = []
        hook = model.blocks[0].register_forward_pre_hook(lambda _block, args: entering.append(args[0]))
        try:
            taps = model.forward_intermediates(
                images,
                indices=[index - 1 for index in self.stage_indices[1:]],
                return_prefix_tokens=bool(self.n_prefix_tokens),
                norm=False,
                stop_early=True,  # blocks after the last stage are not computed
                output_fmt="NLC",
                intermediates_only=True,
            )
        finally:
            hook.remove()
        return [entering[0], *_whole_streams(taps)]

    def last_and_earlier(self, network: Any, images: Tensor, blocks: Sequence[int]) -> list[Tensor]:
        """The streams that leave some blocks of a network of this kind, then what leaves its last norm, `(B, L, D)`.

        Args:
            network: A copy of the adapter's network, maybe changed; unlike the adapter's own, it may have gradients.
            images: Images `(B, 3, H, W)`.
            blocks: How many blocks run before each of the first streams.
        """
        last, taps = network.forward_intermediates(
            images,
            indices=[*(block - 1 for block in blocks), self.n_blocks - 1],
            return_prefix_tokens=bool(self.n_prefix_tokens),
            norm=False,
            output_fmt="NLC",
        )
        return [*_whole_streams(taps[:-1]), last]


def _whole_streams(taps: Sequence[Any]) -> list[Tensor]:
    """Streams `(B, L, D)` of timm's intermediates, which keep class and register tokens apart if there are any."""
    return [tap if isinstance(tap, Tensor) else torch.cat((tap[1], tap[0]), dim=1) for tap in taps]


def is_plain_vit(network: nn.Module) -> bool:
    """Whether `TimmViT` can adapt this network: blocks of one width after an embedding of square patches."""
    return isinstance(network, VisionTransformer | Eva | Beit) and isinstance(network.patch_embed, PatchEmbed)


def require_whole_patches(name: str, image_size: int, patch_size: int) -> None:
    """Refuse an image that is not cut into whole patches; both sizes are sides in pixels.

    Raises:
        UsageError: `image_size` is not a multiple of `patch_size`.
    """
    if image_size < patch_size or image_size % patch_size:
        nearest = max(1, round(image_size / patch_size)) * patch_size
        raise UsageError(
            f"image size {image_size} is not a multiple of the patch size {patch_size} of {name!r}; give {nearest}"
        )
