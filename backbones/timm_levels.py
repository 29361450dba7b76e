"""Adapter for timm's backbones with levels: convolutional networks and hierarchical transformers.

From level to level the grid becomes coarser and the tokens wider. Every stage is averaged onto the grid of the last
block, so all stages have the same number of tokens. Their widths are not changed.
"""

from collections.abc import Callable, Iterable
from typing import Any, TypeVar

import torch
from timm.models import (
    ConvNeXt,
    DenseNet,
    EfficientNet,
    MobileNetV3,
    PyramidVisionTransformerV2,
    RegNet,
    ResNet,
    SwinTransformer,
    SwinTransformerV2,
)
from torch import Tensor, nn

from backbones.frozen import FrozenBackbone, pooled_tokens
from backbones.protocol import Transform
from backbones.taps import Taps
from sweep.errors import UsageError

Levels = list[list[nn.Module]]
T = TypeVar("T")


def _each(levels: Iterable[Any]) -> Levels:
    return [list(level) for level in levels]


def _blocks_of(levels: Iterable[Any]) -> Levels:
    return [list(level.blocks) for level in levels]


def _dense_blocks(model: Any) -> Levels:
    return [[block] for name, block in model.features.named_children() if name.startswith("denseblock")]


FAMILIES: dict[type[nn.Module], Callable[[Any], Levels]] = {
    SwinTransformer: lambda model: _blocks_of(model.layers),
    SwinTransformerV2: lambda model: _blocks_of(model.layers),
    ConvNeXt: lambda model: _blocks_of(model.stages),
    PyramidVisionTransformerV2: lambda model: _blocks_of(model.stages),
    ResNet: lambda model: _each([model.layer1, model.layer2, model.layer3, model.layer4]),
    RegNet: lambda model: [list(level.children()) for level in (model.s1, model.s2, model.s3, model.s4)],
    DenseNet: _dense_blocks,
    EfficientNet: lambda model: _each(model.blocks),
    MobileNetV3: lambda model: _each(model.blocks),
}
"""Functions that return a network's blocks by level. A dense block counts as one, because it grows in width."""

CHANNELS_LAST = (SwinTransformer, SwinTransformerV2)
LEAST_IMAGE_SIZE = 32


class TimmLevels(FrozenBackbone):
    """A timm network of one of the `FAMILIES`.

    Stage `z_0` is the input of the first block. A stage ends after every g-th block of a level, and at its end.
    """

    def __init__(self, name: str, network: nn.Module, transform: Transform, taps: Taps) -> None:
        """Wrap `network`, for which `has_levels` holds, and run it once to find out its grids and widths.

        Raises:
            UsageError: `taps` do not fit the blocks, or the network does not take images of this size.
        """
        levels = _levels_of(network)
        if transform.image_size < LEAST_IMAGE_SIZE:
            raise UsageError(
                f"image size {transform.image_size} is too small for {name!r}; give {LEAST_IMAGE_SIZE} or more"
            )
        super().__init__(
            name,
            network,
            transform,
            n_blocks=sum(map(len, levels)),
            stage_indices=taps.of_levels(name, [len(level) for level in levels]),
            n_prefix_tokens=0,
        )
        self._channels_last = isinstance(network, CHANNELS_LAST)
        try:
            shapes = self._tapped(self.empty_inputs(1), lambda grid: grid.shape)
        except (AssertionError, RuntimeError, ValueError) as error:
            reason = str(error).splitlines()[0] if str(error) else type(error).__name__
            raise UsageError(f"{name!r} does not take images of {transform.image_size} px: {reason}") from error
        self.widths = tuple(int(shape[1]) for shape in shapes)
        self._grid = (int(shapes[-1][2]), int(shapes[-1][3]))
        self.tokens = self._grid[0] * self._grid[1]

    def _run(self, images: Tensor) -> list[Tensor]:
        return self._tapped(images, lambda grid: pooled_tokens(grid, self._grid))

    def _tapped(self, images: Tensor, take: Callable[[Tensor], T]) -> list[T]:
        """Collect a value from the grid (B, D_i, H_i, W_i) that enters the first block, and from chosen later ones.

        It is collected at once, because a later block may overwrite the grid.
        """
        blocks = [block for level in _levels_of(self.network) for block in level]
        taken: list[T] = []

        def entering(_block: nn.Module, args: tuple[Tensor, ...]) -> None:
            taken.append(take(self._as_grid(args[0])))

        def leaving(_block: nn.Module, _args: tuple[Tensor, ...], out: Tensor) -> None:
            taken.append(take(self._as_grid(out)))

        hooks = [blocks[0].register_forward_pre_hook(entering)]
        hooks += [blocks[index - 1].register_forward_hook(leaving) for index in self.stage_indices[1:]]
        network: Any = self.network
        try:
            with torch.no_grad():
                network.forward_features(images)
        finally:
            for hook in hooks:
                hook.remove()
        return taken

    def _as_grid(self, tap: Tensor) -> Tensor:
        if tap.ndim == 3:  # (B, L, D) of a square grid
            side = int(tap.shape[1] ** 0.5)
            return torch.unflatten(tap.mT, 2, (side, side))
        return tap.permute(0, 3, 1, 2) if self._channels_last else tap


def has_levels(network: nn.Module) -> bool:
    """Whether `TimmLevels` can adapt this network."""
    return isinstance(network, tuple(FAMILIES))


def _levels_of(network: nn.Module) -> Levels:
    return next(levels(network) for family, levels in FAMILIES.items() if isinstance(network, family))
