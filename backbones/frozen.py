"""The base class of all adapters: a network that stays as it was loaded, whatever the caller does."""

from abc import ABC, abstractmethod
from collections.abc import Mapping
from dataclasses import replace
from functools import cached_property
from typing import ClassVar, Self

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from backbones.protocol import Transform, weights_fingerprint
from backbones.sizes import Resize
from backbones.text_transform import TextTransform
from sweep.tasks.inputs import Kind


class FrozenBackbone(nn.Module, ABC):
    """A network that is always frozen and in eval mode; see `backbones.protocol.Backbone`.

    `train()` and `requires_grad_()` change nothing, so it can be part of a module that is being trained.

    Args:
        name: The name by which it is loaded.
        network: The network; it is changed in place.
        transform: Turns an image or a text into an input.
        n_blocks: Blocks of the network.
        stage_indices: How many blocks run before each stage.
        n_prefix_tokens: How many class and register tokens come first.

    Attributes:
        kind: What it reads.
        can_be_copied: Whether copies that share the weights may run at the same time, in several threads.
        widths: `D` of every stage.
        tokens: `L`, the same in all stages. Both are for the adapter to set.
        causal: Whether a token's features depend on the tokens before it alone.
        crop_pct: What the network's authors crop images to, see `Transform`; used where the user asks for a crop.
    """

    kind: ClassVar[Kind] = "images"
    can_be_copied: ClassVar[bool] = True
    widths: tuple[int, ...]
    tokens: int
    causal: bool = False
    crop_pct: float = 1.0

    def __init__(
        self,
        name: str,
        network: nn.Module,
        transform: Transform | TextTransform,
        *,
        n_blocks: int,
        stage_indices: tuple[int, ...],
        n_prefix_tokens: int,
    ) -> None:
        super().__init__()
        self.name = name
        self.transform: Transform | TextTransform = transform
        self.n_blocks = n_blocks
        self.stage_indices = stage_indices
        self.n_prefix_tokens = n_prefix_tokens
        self.network = network
        self._freeze()

    @property
    def image_size(self) -> int:
        """Side of the square input in pixels, for backbones that read images."""
        assert isinstance(self.transform, Transform)
        return self.transform.image_size

    def resizing(self, how: Resize) -> Self:
        """This backbone itself, with a transform that resizes images so; a crop that it has stays as it is."""
        assert isinstance(self.transform, Transform)
        default = self.crop_pct if how == "crop" else 1.0
        crop_pct = None if how == "squash" else self.transform.crop_pct or default
        self.transform = replace(self.transform, crop_pct=crop_pct)
        return self

    @property
    def size(self) -> str:
        """The size of the input, in words for the user."""
        return f"{self.image_size} px"

    @property
    def width(self) -> int:
        """`D` of the last stage."""
        return self.widths[-1]

    @cached_property
    def fingerprint(self) -> str:
        """SHA-256 over the weights' names, types, shapes and bytes."""
        return weights_fingerprint(self.network.state_dict())

    def take_weights(self, weights: Mapping[str, Tensor]) -> None:
        """Replace all weights and buffers, and with them the fingerprint.

        Raises:
            RuntimeError: The weights do not fit this network.
        """
        self.network.load_state_dict(dict(weights), strict=True)
        self.__dict__.pop("fingerprint", None)

    def share_weights(self, other: "FrozenBackbone") -> None:
        """Use the tensors of another backbone instead of own ones if all are equal, so that memory has them once."""
        own, others = self.network.state_dict(), other.network.state_dict()
        if own.keys() == others.keys() and all(_same(own[name], others[name]) for name in own):
            self.network.load_state_dict(others, strict=True, assign=True)
            self._freeze()

    def _freeze(self) -> None:
        self.network.eval()
        for parameter in self.network.parameters():
            parameter.requires_grad = False

    def train(self, mode: bool = True) -> Self:
        """Change nothing: the backbone stays in eval mode."""
        return self

    def requires_grad_(self, requires_grad: bool = True) -> Self:
        """Change nothing: the backbone's parameters stay frozen."""
        return self

    def stages(self, inputs: Tensor) -> list[Tensor]:
        """Run the network once; see `Backbone.stages`.

        Args:
            inputs: (B, 3, image_size, image_size) images, or (B, L) texts.

        Returns:
            ``len(stage_indices)`` tensors, the i-th of shape (B, L, widths[i]).
        """
        self._freeze()
        with torch.no_grad():  # not inference_mode: a side-network must be able to save these for its backward pass
            return self._run(inputs)

    @abstractmethod
    def _run(self, inputs: Tensor) -> list[Tensor]:
        """Compute the stages. The adapter defines this; the caller has frozen the network and disabled gradients."""

    def forward(self, inputs: Tensor) -> list[Tensor]:
        """Return `stages` of `inputs`."""
        return self.stages(inputs)

    def empty_inputs(self, count: int) -> Tensor:
        """Return a batch of blank inputs on the network's device, to find out the shapes of the stages."""
        first = next(self.network.parameters(), None)
        device = torch.device("cpu") if first is None else first.device
        return torch.zeros(count, 3, self.image_size, self.image_size, device=device)

    def random_inputs(self, count: int) -> Tensor:
        """Return noise with the size and scale of transformed images, on the CPU, the same at every call."""
        generator = torch.Generator().manual_seed(0)
        return torch.randn(count, 3, self.image_size, self.image_size, generator=generator)


def _same(a: Tensor, b: Tensor) -> bool:
    return a.dtype == b.dtype and a.device == b.device and torch.equal(a, b)


def pooled_tokens(grid: Tensor, size: tuple[int, int]) -> Tensor:
    """Average a grid (B, D, H, W) onto a grid of `size`; return it as tokens (B, L, D), row by row."""
    return F.adaptive_avg_pool2d(grid, size).flatten(2).mT.contiguous()
