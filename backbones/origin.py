"""Where a backbone's weights come from, and how to build the same network without them."""

from backbones import UNTRAINED_PREFIX, is_path, is_text_name
from backbones.own import registered
from backbones.packaged import PACKAGED, PACKAGED_IMAGES

UNTRAINED_NAMES = ("tiny-untrained",)


def architecture_of(name: str) -> str:
    """The name under which `load_backbone` builds the same network with random weights, from no file and no network."""
    if name in UNTRAINED_NAMES or name.startswith(UNTRAINED_PREFIX) or is_path(name) or name in registered():
        return name
    return UNTRAINED_PREFIX + (PACKAGED_IMAGES[name].architecture if name in PACKAGED_IMAGES else name)


def origin_of(name: str) -> str:
    """Where the weights of the backbone `name` come from, and under which licence; Markdown, one paragraph."""
    if name in PACKAGED:
        return PACKAGED[name].origin
    if is_path(name):
        return f"Built by the file {name} of the person who made the run; ask them for the licence of its weights."
    if is_text_name(name):
        return f"Weights of a network of transformers, loaded from {name}; see there for their licence."
    return _origin_of_images(name)


def _origin_of_images(name: str) -> str:
    """Like `origin_of`, for a backbone that reads images."""
    import timm

    if name in registered():
        point = registered()[name]
        package = f"the Python package {point.dist.name} {point.dist.version}" if point.dist else "an installed package"
        return f"Built by {point.value} of {package}; see there for the licence of its weights."
    if architecture_of(name) == name:
        return "Seeded random weights: this backbone was never trained. It is for trying things out."
    config = timm.get_pretrained_cfg(name)
    if config is None:
        return "Weights published for timm; their licence is not known to sweep."
    source = f"https://huggingface.co/{config.hf_hub_id}" if config.hf_hub_id else str(config.url)
    licence = f"licence {config.license}" if config.license else "see there for their licence"
    origin = f", first published at {config.origin_url}" if config.origin_url else ""
    return f"Weights of timm's {name}, from {source}{origin}; {licence}."
