"""Where a backbone's weights come from, and how to build the same network without them."""

from backbones import UNTRAINED_PREFIX, is_path, is_text_name, packaged_minilm
from backbones.own import registered
from backbones.packaged_efficientnet import WEIGHTS as EFFICIENTNET
from backbones.packaged_vit import WEIGHTS as VIT

UNTRAINED_NAMES = ("tiny-untrained",)
PACKAGED = {weights.name: weights for weights in (VIT, EFFICIENTNET)}


def architecture_of(name: str) -> str:
    """The name under which `load_backbone` builds the same network with random weights, from no file and no network."""
    if name in UNTRAINED_NAMES or name.startswith(UNTRAINED_PREFIX) or is_path(name) or name in registered():
        return name
    return UNTRAINED_PREFIX + (PACKAGED[name].architecture if name in PACKAGED else name)


def origin_of(name: str) -> str:
    """Say where the weights of a backbone come from and what their licence is, as a paragraph of Markdown."""
    if name == packaged_minilm.NAME:
        return (
            f"Weights out of the Python package {packaged_minilm.PACKAGE} {packaged_minilm.VERSION} (licence: "
            f"{packaged_minilm.LICENCE}). {packaged_minilm.REMARK}"
        )
    if is_path(name):
        return f"Built by the file {name} of whoever made the run; ask them for its weights' licence."
    if is_text_name(name):
        return f"Weights of transformers, by the name or folder {name}; ask there for their licence."
    return _origin_of_images(name)


def _origin_of_images(name: str) -> str:
    """Like `origin_of`, for a backbone that reads images."""
    import timm

    if name in registered():
        point = registered()[name]
        package = f"the Python package {point.dist.name} {point.dist.version}" if point.dist else "an installed package"
        return f"Built by {point.value} of {package}; ask there for its weights' licence."
    if architecture_of(name) == name:
        return "Seeded random weights: this backbone was never trained. It is for trying things out."
    if name in PACKAGED:
        packaged = PACKAGED[name]
        return (
            f"Weights out of the Python package {packaged.package} {packaged.version} (licence: {packaged.licence}). "
            f"{packaged.remark}"
        )
    config = timm.get_pretrained_cfg(name)
    if config is None:
        return "Weights published for timm; their licence is not known to sweep."
    source = f"https://huggingface.co/{config.hf_hub_id}" if config.hf_hub_id else str(config.url)
    licence = f"licence {config.license}" if config.license else "their licence stands there"
    origin = f", first published at {config.origin_url}" if config.origin_url else ""
    return f"Weights of timm's {name}, from {source}{origin}; {licence}."
