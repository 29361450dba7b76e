"""The protocol of a backbone: what the rest of sweep may use, whatever library the network comes from."""

import hashlib
import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import ClassVar, Protocol

import numpy as np
import torch
from PIL import Image

from backbones.text_transform import TextTransform
from sweep.tasks.inputs import Kind

LONGEST_RATIO = 8
"""Largest ratio of an image's sides. What exceeds it is cut off before the image is resized and cropped."""


@dataclass(frozen=True)
class Transform:
    """Turns an image into a backbone's input: RGB, resized to a square, normalised.

    Attributes:
        image_size: side of the square, in pixels.
        mean: per-channel mean subtracted from values in 0…1.
        std: per-channel standard deviation divided by.
        interpolation: a Pillow resampling filter, in lower case.
        crop_pct: None to squash the whole image into the square. Else the image keeps its proportions, as in timm: its
            shorter side becomes `image_size / crop_pct` pixels, and the square in its centre is cut out; with 1 that is
            the largest square in it.
    """

    image_size: int
    mean: tuple[float, float, float]
    std: tuple[float, float, float]
    interpolation: str = "bicubic"
    crop_pct: float | None = None

    @property
    def resized_side(self) -> int:
        """The shorter side of the image before the square is cut out of it; without a crop, of the square."""
        return self.image_size if self.crop_pct is None else math.floor(self.image_size / self.crop_pct)

    def __call__(self, image: Image.Image) -> torch.Tensor:
        """Return `image`, of any mode and size, as float32 of shape (3, image_size, image_size)."""
        resized = self._resized(to_rgb(image))
        # numpy, not torch: images are prepared in threads, and each would start torch's own threads on top
        pixels = np.asarray(resized).transpose(2, 0, 1)
        values = pixels.astype(np.float32, order="C")  # by channel, then in place: this takes a third of the time
        values /= np.float32(255)
        values -= np.asarray(self.mean, dtype=np.float32)[:, None, None]
        values /= np.asarray(self.std, dtype=np.float32)[:, None, None]
        return torch.from_numpy(values)

    def seen_box(self, width: int, height: int) -> tuple[float, float, float, float]:
        """The part of an image that the square shows: left, top, right and bottom, in pixels of the image.

        Args:
            width: width of the image, in pixels.
            height: height of the image, in pixels.
        """
        if self.crop_pct is None:
            return 0.0, 0.0, float(width), float(height)
        side, shorter = self.resized_side, min(width, height)
        kept = [min(length, LONGEST_RATIO * shorter) for length in (width, height)]
        box: list[tuple[float, float]] = []
        for length, inner in zip((width, height), kept, strict=True):
            start = round((length - inner) / 2)
            resized = side * inner // shorter
            first = round((resized - self.image_size) / 2)
            scale = inner / resized
            box.append((start + first * scale, start + (first + self.image_size) * scale))
        (left, right), (top, bottom) = box
        return left, top, min(right, width), min(bottom, height)

    def _resized(self, image: Image.Image) -> Image.Image:
        resampling, size = Image.Resampling[self.interpolation.upper()], self.image_size
        if self.crop_pct is None:
            return image.resize((size, size), resampling)
        side, shorter = self.resized_side, min(image.size)
        if max(image.size) > LONGEST_RATIO * shorter:  # a thread of an image would become a giant on the way
            image = _centre(image, *(min(length, LONGEST_RATIO * shorter) for length in image.size))
        width, height = (side * length // shorter for length in image.size)
        return _centre(image.resize((width, height), resampling), size, size)


def _centre(image: Image.Image, width: int, height: int) -> Image.Image:
    left, top = round((image.width - width) / 2), round((image.height - height) / 2)
    return image.crop((left, top, left + width, top + height))


def to_rgb(image: Image.Image) -> Image.Image:
    """Return `image` in mode RGB: 16-bit greys scaled to 8 bits, an alpha channel dropped."""
    if image.mode == "RGB":
        return image
    if image.mode.startswith("I;16"):
        grey = (np.asarray(image).astype(np.uint16) >> 8).astype(np.uint8)
        return Image.fromarray(grey).convert("RGB")
    if image.mode in ("P", "PA"):
        return image.convert("RGBA").convert("RGB")
    return image.convert("RGB")


class Backbone(Protocol):
    """A frozen pretrained network that is divided into stages.

    Attributes:
        name: the name by which it was loaded.
        kind: what it reads, images or texts.
        widths: D, the width of a token, in every stage; they may differ.
        width: D of the last stage.
        n_blocks: n, the number of blocks.
        stage_indices: how many blocks run before each stage; the first number is 0.
        n_prefix_tokens: the number of class and register tokens, which come first.
        tokens: L, the number of all tokens with the prefix, the same in all stages.
        causal: whether a token's features depend only on itself and the tokens before it, as in a text decoder.
        size: the size of the input, in words for the user.
        transform: turns an image or a text into an input.
        fingerprint: SHA-256 over everything except the input that the stages depend on: weights, configuration,
            tokenizer, and code that is not part of sweep or timm.
    """

    name: str
    kind: ClassVar[Kind]
    widths: tuple[int, ...]
    n_blocks: int
    stage_indices: tuple[int, ...]
    n_prefix_tokens: int
    tokens: int
    causal: bool
    transform: Transform | TextTransform

    @property
    def width(self) -> int:
        """See above."""

    @property
    def size(self) -> str:
        """See above."""

    @property
    def fingerprint(self) -> str:
        """See above."""

    def stages(self, inputs: torch.Tensor) -> list[torch.Tensor]:
        """Run the frozen network once and return its stages.

        Args:
            inputs: transformed images or texts, (B, …), on the backbone's device.

        Returns:
            The tokens that enter block 0, then those that leave the chosen blocks, before any final norm. The i-th
            tensor is (B, L, widths[i]). None requires a gradient. For texts they are `backbones.stages.Stages`.
        """
        ...

    def empty_inputs(self, count: int) -> torch.Tensor:
        """Return a batch of blank inputs on the backbone's device."""
        ...


def weights_fingerprint(weights: Mapping[str, torch.Tensor]) -> str:
    """Return the SHA-256 hex digest over the names, types, shapes and bytes of `weights`."""
    digest = hashlib.sha256()
    for name in sorted(weights):
        tensor = weights[name].detach().cpu().contiguous()
        digest.update(f"{name} {tensor.dtype} {tuple(tensor.shape)}\n".encode())
        digest.update(tensor.reshape(-1).view(torch.uint8).numpy().data)
    return digest.hexdigest()
