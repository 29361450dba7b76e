"""All backbones whose weights travel inside published packages, by name."""

from collections.abc import Callable
from dataclasses import dataclass

from backbones import packaged_clip, packaged_efficientnet, packaged_swin, packaged_vit
from backbones.converted import InPackage
from backbones.packaged_images import PackagedImages
from backbones.packaged_minilm import MINILM, minilm_l6
from backbones.packaged_smollm import SMOLLM, smollm2_135m
from backbones.text_backbone import TextBackbone


@dataclass(frozen=True)
class PackagedTexts:
    """A backbone that reads texts, and what is known of it before anything is fetched.

    Attributes:
        weights: Where its weights come from.
        load: Loads it, given `taps`, `max_tokens` and `cache_dir`.
        family: Class of the network.
        n_blocks: Number of its blocks.
        width: `D`.
        n_parameters: Number of its parameters.
    """

    weights: InPackage
    load: Callable[..., TextBackbone]
    family: str
    n_blocks: int
    width: int
    n_parameters: int


PACKAGED_IMAGES: dict[str, PackagedImages] = {
    packaged.WEIGHTS.name: packaged.WEIGHTS
    for packaged in (packaged_vit, packaged_clip, packaged_swin, packaged_efficientnet)
}
PACKAGED_TEXTS: dict[str, PackagedTexts] = {
    MINILM.name: PackagedTexts(MINILM, minilm_l6, "BertModel", n_blocks=6, width=384, n_parameters=22_565_376),
    SMOLLM.name: PackagedTexts(SMOLLM, smollm2_135m, "LlamaModel", n_blocks=30, width=576, n_parameters=134_515_008),
}
PACKAGED: dict[str, InPackage] = {
    **PACKAGED_IMAGES,
    **{name: packaged.weights for name, packaged in PACKAGED_TEXTS.items()},
}
