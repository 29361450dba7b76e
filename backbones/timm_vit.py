"""Adapter for timm's Vision Transformers, standing on their `forward_intermediates`."""

import contextlib
import os
import urllib.error
import urllib.request
from collections.abc import Iterator, Mapping
from typing import Any, Self

import timm
import torch
from huggingface_hub import constants, try_to_load_from_cache
from timm.layers.patch_embed import PatchEmbed
from timm.models import Eva, PretrainedCfg, VisionTransformer
from torch import nn

from backbones.protocol import Transform, weights_fingerprint
from sweep.errors import SweepError, UsageError

HUB_PROBE_SECONDS = 5.0
WEIGHTS_ONLY_VARIABLE = "TORCH_FORCE_WEIGHTS_ONLY_LOAD"
HUB_FILES = ("model.safetensors", "pytorch_model.bin")


class TimmViT(nn.Module):
    """A timm Vision Transformer, always frozen and in eval mode; see `backbones.protocol.Backbone`.

    `train()` and `requires_grad_()` change nothing, so it may sit inside a module that is being trained.
    """

    def __init__(self, name: str, vit: nn.Module, transform: Transform, *, group_size: int) -> None:
        """Take over `vit`, a `VisionTransformer` or `Eva` whose input side is `transform.image_size`.

        Raises:
            UsageError: `group_size` does not divide the number of blocks, or the patch size the image size.
        """
        super().__init__()
        model: Any = vit
        self.name = name
        self.width = int(model.embed_dim)
        self.n_blocks = len(model.blocks)
        self.n_prefix_tokens = int(model.num_prefix_tokens)
        self.image_size = transform.image_size
        self.transform = transform
        patch_size = int(model.patch_embed.patch_size[0])
        if self.image_size < patch_size or self.image_size % patch_size:
            nearest = max(1, round(self.image_size / patch_size)) * patch_size
            raise UsageError(
                f"image size {self.image_size} is not a multiple of the patch size {patch_size} of {name!r}; "
                f"give {nearest}"
            )
        self.tokens = (self.image_size // patch_size) ** 2 + self.n_prefix_tokens
        divisors = [g for g in range(1, self.n_blocks + 1) if self.n_blocks % g == 0]
        if group_size not in divisors:
            raise UsageError(
                f"group size {group_size} does not divide the {self.n_blocks} blocks of {name!r}; "
                f"give one of {', '.join(map(str, divisors))}"
            )
        self.group_size = group_size
        self.stage_indices = tuple(range(0, self.n_blocks + 1, group_size))
        self.vit = vit
        self._freeze()
        self.fingerprint = weights_fingerprint(vit.state_dict())

    def _freeze(self) -> None:
        self.vit.eval()
        for parameter in self.vit.parameters():
            parameter.requires_grad = False

    def train(self, mode: bool = True) -> Self:
        """Change nothing: the backbone stays in eval mode."""
        return self

    def requires_grad_(self, requires_grad: bool = True) -> Self:
        """Change nothing: the backbone's parameters never get a gradient."""
        return self

    def stages(self, images: torch.Tensor) -> list[torch.Tensor]:
        """Run the network once; see `Backbone.stages`.

        Args:
            images: (B, 3, image_size, image_size).

        Returns:
            ``len(stage_indices)`` tensors of shape (B, L, D).
        """
        model: Any = self.vit
        self._freeze()
        entering: list[torch.Tensor] = []
        hook = model.blocks[0].register_forward_pre_hook(lambda _block, args: entering.append(args[0]))
        try:
            with torch.no_grad():  # not inference_mode: a side-network must be able to save these for its backward
                taps = model.forward_intermediates(
                    images,
                    indices=[index - 1 for index in self.stage_indices[1:]],
                    return_prefix_tokens=True,
                    norm=False,
                    output_fmt="NLC",
                    intermediates_only=True,
                )
                if self.n_prefix_tokens:
                    taps = [torch.cat((prefix, patches), dim=1) for patches, prefix in taps]
        finally:
            hook.remove()
        return [entering[0], *taps]

    def forward(self, images: torch.Tensor) -> list[torch.Tensor]:
        """Return `stages` of `images`."""
        return self.stages(images)


def pretrained_vit(name: str, *, group_size: int, image_size: int | None) -> TimmViT:
    """Load a timm Vision Transformer with the weights published for it.

    Args:
        name: a timm model name, with or without a weights tag.
        group_size: g, blocks between two stages.
        image_size: side in pixels; None for the size it was trained at. Position embeddings are interpolated.

    Raises:
        UsageError: timm's model of this name is not a Vision Transformer, or an option does not fit it.
        SweepError: the weights cannot be had.
    """
    _require_vit(name)
    config = timm.get_pretrained_cfg(name)
    if config is None or not (config.hf_hub_id or config.url):
        raise UsageError(f"timm publishes no weights for {name!r}; give a tag that has some, or untrained:{name}")
    overlay = _hub_overlay(name, config) if config.hf_hub_id else None
    options: dict[str, Any] = {} if image_size is None else {"img_size": image_size}
    try:
        with _weights_only():
            vit = timm.create_model(name, pretrained=True, pretrained_cfg_overlay=overlay, num_classes=0, **options)
    except (OSError, RuntimeError) as error:
        raise SweepError(_no_weights(name, f"{type(error).__name__}: {error}")) from error
    return _adapt(name, vit, group_size=group_size, image_size=image_size)


@contextlib.contextmanager
def _weights_only() -> Iterator[None]:
    """Make `torch.load` refuse a file that brings code, also where a version of timm would have let it."""
    before = os.environ.get(WEIGHTS_ONLY_VARIABLE)
    os.environ[WEIGHTS_ONLY_VARIABLE] = "1"
    try:
        yield
    finally:
        if before is None:
            del os.environ[WEIGHTS_ONLY_VARIABLE]
        else:
            os.environ[WEIGHTS_ONLY_VARIABLE] = before


def untrained_vit(
    name: str, architecture: str, *, group_size: int, image_size: int | None, seed: int = 0, **options: Any
) -> TimmViT:
    """Build a timm Vision Transformer with seeded random weights; the global random state is left as it was.

    Args:
        name: what the backbone is called.
        architecture: a timm model name.
        group_size: g, blocks between two stages.
        image_size: side in pixels; None for the architecture's own.
        seed: seed of the weights.
        **options: further arguments for timm's constructor.

    Raises:
        UsageError: the architecture is not a Vision Transformer, or an option does not fit it.
    """
    _require_vit(architecture)
    if image_size is not None:
        options["img_size"] = image_size
    with torch.random.fork_rng(devices=[]):
        torch.default_generator.manual_seed(seed)
        vit = timm.create_model(architecture, pretrained=False, num_classes=0, **options)
    return _adapt(name, vit, group_size=group_size, image_size=image_size)


def vit_from_weights(
    name: str, architecture: str, weights: Mapping[str, torch.Tensor], *, group_size: int, image_size: int
) -> TimmViT:
    """Build a timm Vision Transformer of `image_size` pixels with `weights`, every key of which must fit."""
    with torch.random.fork_rng(devices=[]):
        vit = timm.create_model(architecture, pretrained=False, num_classes=0, img_size=image_size)
    vit.load_state_dict(dict(weights), strict=True)
    return _adapt(name, vit, group_size=group_size, image_size=image_size)


def _adapt(name: str, vit: Any, *, group_size: int, image_size: int | None) -> TimmViT:
    config = vit.pretrained_cfg
    transform = Transform(
        image_size=image_size or int(vit.patch_embed.img_size[0]),
        mean=tuple(config["mean"]),
        std=tuple(config["std"]),
        interpolation=config["interpolation"],
    )
    return TimmViT(name, vit, transform, group_size=group_size)


def _require_vit(name: str) -> None:
    """Raise `UsageError` unless timm's model `name` is a Vision Transformer; no weights are made for it."""
    with torch.device("meta"):
        model = timm.create_model(name, pretrained=False, num_classes=0)
    plain = isinstance(model, VisionTransformer | Eva) and isinstance(model.patch_embed, PatchEmbed)
    if not plain:
        raise UsageError(
            f"timm model {name!r} is a {type(model).__name__}, not a plain Vision Transformer; "
            f"give one of `timm.list_models('vit_*')`"
        )


def _hub_overlay(name: str, config: PretrainedCfg) -> dict[str, Any] | None:
    """Point timm at cached weights when the hub does not answer; None when timm can fetch them itself.

    The hub's client repeats a failed request for most of a minute before it gives up; one short request first
    tells a missing network at once.
    """
    if not constants.HF_HUB_OFFLINE and _hub_answers():
        return None
    repository = str(config.hf_hub_id)
    for file in (config.hf_hub_filename,) if config.hf_hub_filename else HUB_FILES:
        cached = try_to_load_from_cache(repository, file)
        if isinstance(cached, str) and os.path.isfile(cached):
            return {"file": cached, "custom_load": False}  # the hub's files are plain state dicts
    state = "HF_HUB_OFFLINE is set" if constants.HF_HUB_OFFLINE else f"{constants.ENDPOINT} does not answer"
    raise SweepError(_no_weights(name, f"{state}, and {repository} is not in its local cache"))


def _hub_answers() -> bool:
    try:
        with urllib.request.urlopen(constants.ENDPOINT, timeout=HUB_PROBE_SECONDS):
            return True
    except urllib.error.HTTPError:
        return True
    except (OSError, ValueError):
        return False


def _no_weights(name: str, reason: str) -> str:
    return (
        f"no weights for {name!r}: {reason}.\n"
        f"Fetch them where there is a network, with\n"
        f"    python -c \"import timm; timm.create_model('{name}', pretrained=True)\"\n"
        f"and copy the cache (the folder HF_HOME, ~/.cache/huggingface) here; or use the packaged backbone "
        f"dinov2_small_focus"
    )
