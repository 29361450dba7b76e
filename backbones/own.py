"""A backbone of the user's own: any `nn.Module` that computes stages, given by `./mine.py:build` or an entry point.

`build` returns either a network of timm that sweep has an adapter for, with the user's weights, or a module with

    transform         a `backbones.Transform`: image to input
    stages(images)    (B, 3, H, W) to a list: the input of the first block, then the output of each block; tokens
                      (B, L, D_i) or grids (B, D_i, H_i, W_i), which are averaged onto the last grid
    n_prefix_tokens   class and register tokens in front of the others; 0 if left out

`build` may take `image_size` and then gets the size that the user asked for. The module is checked on two images.
"""

import hashlib
import inspect
from collections.abc import Callable, Sequence
from functools import cached_property
from importlib.metadata import EntryPoint, entry_points
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from backbones import is_path
from backbones.frozen import FrozenBackbone, pooled_tokens
from backbones.own_timm import require_fit, try_on_two_images
from backbones.protocol import Transform, weights_fingerprint
from backbones.taps import Taps
from backbones.timm_levels import has_levels
from backbones.timm_models import adapt
from backbones.timm_vit import is_plain_vit
from sweep.errors import UsageError
from sweep.machine.memory import is_out_of_memory
from sweep.machine.seeds import seeded
from sweep.machine.user_code import execute, line_of

GROUP = "sweep.backbones"
TOLERANCE = 1e-3
"""The largest accepted difference of a stage between an image in a batch and alone, relative to its largest number."""


def registered() -> dict[str, EntryPoint]:
    """Return the backbones of installed packages by name."""
    return {point.name: point for point in entry_points(group=GROUP)}


def own_backbone(name: str, *, taps: Taps, image_size: int | None) -> FrozenBackbone:
    """Build a user's backbone.

    Args:
        name: ``PATH.py:FUNCTION``, or the name of an entry point.
        taps: Which blocks to read.
        image_size: Side in pixels; None for the backbone's default.

    Raises:
        UsageError: There is no such file or function, it fails, or its result breaks the protocol.
    """
    build = _function_of_file(name) if is_path(name) else _function_of_package(name)
    options: dict[str, Any] = {}
    if image_size is not None and _takes_image_size(build):
        options["image_size"] = image_size
    try:
        with seeded(0, seeds_itself=True):  # what `build` does not seed by itself is the same every time
            network = build(**options)
    except UsageError:
        raise
    except Exception as error:
        raise UsageError(
            f"backbone {name!r} failed to build: {type(error).__name__}: {error} ({line_of(build, error)})"
        ) from error
    if not isinstance(network, nn.Module):
        raise UsageError(f"backbone {name!r} must build a torch.nn.Module, not {network!r}")
    if is_plain_vit(network) or has_levels(network):
        require_fit(name, network)
    fixed_size: int | None = None
    if is_plain_vit(network):
        vit: Any = network
        fixed_size = int(vit.patch_embed.img_size[0])
    elif isinstance(transform := getattr(network, "transform", None), Transform):
        fixed_size = transform.image_size
    if image_size is not None and fixed_size not in (None, image_size):
        raise UsageError(
            f"backbone {name!r} takes images of {fixed_size} px, not {image_size}; leave --image-size out, or add the "
            f"argument image_size to its build"
        )
    if is_plain_vit(network) or has_levels(network):
        backbone = adapt(name, network, taps=taps, image_size=image_size)
        try_on_two_images(backbone)
        return backbone
    return OwnBackbone(name, network, taps, source=_source_of(build))


class OwnBackbone(FrozenBackbone):
    """A user's module that follows the protocol; see the docstring of this file."""

    can_be_copied = False  # it may keep in variables of its file what it notes while it runs

    def __init__(self, name: str, network: nn.Module, taps: Taps, *, source: bytes) -> None:
        """Wrap `network`, and check what it does with two images.

        Args:
            name: The name by which it is loaded.
            network: The user's module.
            taps: Which blocks to read.
            source: Source of the file that built it. The stages depend on it, so it is part of the fingerprint.

        Raises:
            UsageError: `network` breaks the protocol, or `taps` do not fit it.
        """
        stages, transform = getattr(network, "stages", None), getattr(network, "transform", None)
        if not callable(stages):
            raise UsageError(
                f"backbone {name!r} is a {type(network).__name__}: it has no method stages(images), and is not a "
                f"network of timm that sweep has an adapter for; see docs/backbones.md"
            )
        if not isinstance(transform, Transform):
            raise UsageError(f"backbone {name!r} needs a backbones.Transform as its transform, not {transform!r}")
        n_prefix_tokens = getattr(network, "n_prefix_tokens", 0)
        if not isinstance(n_prefix_tokens, int) or n_prefix_tokens < 0:
            raise UsageError(f"backbone {name!r} has n_prefix_tokens {n_prefix_tokens!r}; give a number, 0 for none")
        super().__init__(name, network, transform, n_blocks=0, stage_indices=(0,), n_prefix_tokens=n_prefix_tokens)
        self._source = source
        self._check()
        self.stage_indices = taps.of_blocks(name, self.n_blocks)
        self.widths = tuple(self.widths[index] for index in self.stage_indices)

    @cached_property
    def fingerprint(self) -> str:
        """SHA-256 over the weights and the file that uses them."""
        weights = weights_fingerprint(self.network.state_dict())
        return hashlib.sha256(weights.encode() + self._source).hexdigest()

    def _run(self, images: Tensor) -> list[Tensor]:
        every = _tokens_of(self._found(images))
        return [every[index] for index in self.stage_indices]

    def _found(self, images: Tensor) -> list[Tensor]:
        """Run the user's module, and check that it returns a list of tensors."""
        network: Any = self.network
        try:
            found = network.stages(images)
        except Exception as error:
            if is_out_of_memory(error):
                raise
            where = line_of(network.stages, error)
            raise UsageError(f"backbone {self.name!r} failed: {type(error).__name__}: {error} ({where})") from error
        if not isinstance(found, list | tuple) or not all(isinstance(stage, Tensor) for stage in found):
            raise self._wrong(f"must return a list of tensors, not {_described(found)}")
        return list(found)

    def _check(self) -> None:
        """Find out the shapes of all stages, and check that the module follows the protocol."""
        side = self.image_size
        images = torch.randn(2, 3, side, side, generator=torch.Generator().manual_seed(0))
        images = images.to(self.empty_inputs(1).device)
        before = weights_fingerprint(self.network.state_dict())
        with torch.no_grad():
            found, again, alone = (self._found(batch) for batch in (images, images, images[:1]))
        self._check_shapes(found)
        if weights_fingerprint(self.network.state_dict()) != before:
            raise self._wrong("changes its own weights or buffers when it runs; in eval mode it must not")
        for number, (stage, repeated, one) in enumerate(zip(found, again, alone, strict=True)):
            if not torch.equal(stage, repeated):
                raise self._wrong(f"returns another stage {number} for the same images; in eval mode it must not")
            if one.shape[0] != 1 or (stage[:1] - one).abs().max() > TOLERANCE * stage.abs().max():
                raise self._wrong(
                    f"returns another stage {number} for an image alone than for the same image in a batch"
                )
        stages = _tokens_of(found)
        self.n_blocks = len(stages) - 1
        self.tokens = stages[0].shape[1]
        self.widths = tuple(stage.shape[2] for stage in stages)
        if self.n_prefix_tokens >= self.tokens:
            raise self._wrong(f"has {self.n_prefix_tokens} prefix tokens, but only {self.tokens} tokens in all")

    def _check_shapes(self, found: Sequence[Tensor]) -> None:
        if len(found) < 2:
            raise self._wrong(f"returns {len(found)} stages; it must return at least two, before and after a block")
        shapes = ", ".join(str(tuple(stage.shape)) for stage in found)
        n_dims = {stage.ndim for stage in found}
        if n_dims not in ({3}, {4}) or any(stage.shape[0] != 2 for stage in found):
            raise self._wrong(
                f"must return tokens (B, L, D) or grids (B, D, H, W), all of one kind; for 2 images it returns {shapes}"
            )
        if n_dims == {3} and len({stage.shape[1] for stage in found}) > 1:
            raise self._wrong(
                f"must return the same number of tokens L in all stages, not {shapes}. Only grids may differ in size: "
                f"sweep averages them onto the last one"
            )
        if n_dims == {4} and self.n_prefix_tokens:
            raise self._wrong(
                f"returns grids, which have no prefix tokens, but its n_prefix_tokens is {self.n_prefix_tokens}"
            )
        for number, stage in enumerate(found):
            if not stage.is_floating_point() or not stage.isfinite().all():
                raise self._wrong(f"returns numbers in stage {number} that are not finite floats")

    def _wrong(self, what: str) -> UsageError:
        return UsageError(f"backbone {self.name!r}: its stages(images) {what}")


def _tokens_of(found: Sequence[Tensor]) -> list[Tensor]:
    """Return the stages as tokens; grids are averaged onto the last one."""
    if found[0].ndim == 3:
        return list(found)
    return [pooled_tokens(stage, (found[-1].shape[2], found[-1].shape[3])) for stage in found]


def _described(found: object) -> str:
    if isinstance(found, list | tuple):
        return f"a {type(found).__name__} of {', '.join(sorted({type(part).__name__ for part in found}))}"
    return f"a {type(found).__name__}"


def _function_of_file(name: str) -> Callable[..., object]:
    file, _, function = name.partition(":")
    path = Path(file).expanduser()
    if not function:
        raise UsageError(f"backbone {name!r} names a file but no function in it; give {file}:build")
    if not path.is_file():
        raise UsageError(f"backbone {name!r}: there is no file {path}")
    module = execute(path.resolve(), kind="backbone")
    found: object = getattr(module, function, None)
    if not callable(found):
        functions = [key for key, value in vars(module).items() if inspect.isfunction(value) and key[0] != "_"]
        has = f"it has {', '.join(functions)}" if functions else "it has none"
        raise UsageError(f"backbone {name!r}: {path} has no function {function}; {has}")
    return found


def _function_of_package(name: str) -> Callable[..., object]:
    point = registered()[name]
    try:
        found: object = point.load()
    except Exception as error:
        raise UsageError(
            f"backbone {name!r} is registered as {point.value}, which cannot be loaded: {type(error).__name__}: {error}"
        ) from error
    if not callable(found):
        raise UsageError(f"backbone {name!r} is registered as {point.value}, which is not a function: {found!r}")
    return found


def _takes_image_size(build: Callable[..., object]) -> bool:
    try:
        return "image_size" in inspect.signature(build).parameters
    except ValueError:  # a callable without a signature
        return False


def _source_of(build: Callable[..., object]) -> bytes:
    """Return the source of the file that defines `build`; empty if there is none."""
    try:
        file = inspect.getsourcefile(build)
        return b"" if file is None else Path(file).read_bytes()
    except (TypeError, OSError):
        return b""
