"""The tests that every backbone adapter must pass.

Networks whose weights cannot be installed as a package get random weights with a fixed seed.
"""

import copy
import itertools
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from backbones import BACKBONES, Taps, Transform, load_backbone
from backbones.frozen import FrozenBackbone
from backbones.own import OwnBackbone
from backbones.text_backbone import TextBackbone
from backbones.text_models import built
from backbones.text_transform import BEYOND
from backbones.timm_models import untrained
from sweep.errors import UsageError

SMALL_VIT = {"embed_dim": 32, "depth": 4, "num_heads": 2}

# adapter: (timm's architecture, image size, options that make it small; some families have a small network in timm)
TIMM: dict[str, tuple[str, int, dict[str, Any]]] = {
    "vit": ("test_vit", 32, {}),
    "vit without class token": ("vit_base_patch16_gap_224", 32, SMALL_VIT),
    "deit": ("deit_tiny_distilled_patch16_224", 48, SMALL_VIT),
    "deit3": ("deit3_small_patch16_224", 32, SMALL_VIT),
    "dinov2": ("vit_small_patch14_dinov2", 42, SMALL_VIT),
    "dinov2 with registers": ("vit_small_patch14_reg4_dinov2", 28, SMALL_VIT),
    "dinov3": ("vit_small_patch16_dinov3", 32, SMALL_VIT),
    "eva02": ("eva02_tiny_patch14_224", 28, SMALL_VIT),
    "clip": ("vit_base_patch32_clip_224", 64, SMALL_VIT),
    "siglip": ("vit_base_patch16_siglip_224", 32, SMALL_VIT),
    "beit": ("beit_base_patch16_224", 32, SMALL_VIT),
    "beitv2": ("beitv2_base_patch16_224", 48, SMALL_VIT),
    "swin": ("swin_tiny_patch4_window7_224", 64, {"embed_dim": 12, "depths": (1, 2, 3, 1), "num_heads": (1, 2, 3, 4)}),
    "swinv2": ("swinv2_tiny_window8_256", 64, {"embed_dim": 12, "depths": (1, 1, 2, 1), "num_heads": (1, 2, 3, 4)}),
    "convnext": ("test_convnext", 64, {}),
    "pvt": ("pvt_v2_b0", 64, {"embed_dims": (8, 16, 24, 32), "num_heads": (1, 2, 3, 4)}),
    "resnet": ("test_resnet", 64, {}),
    "resnet with bottlenecks": ("resnet50", 64, {"layers": (1, 1, 2, 1), "base_width": 8}),
    "regnet": ("regnetx_002", 64, {}),
    "densenet": ("densenet121", 64, {"growth_rate": 4, "block_config": (1, 2, 3, 2)}),
    "efficientnet": ("test_efficientnet", 64, {}),
    "mobilenet": ("mobilenetv3_small_050", 64, {}),
}
PACKAGED = {"dinov2_small_focus": 28, "clip_base_patch16": 32, "swin_base_detector": 64, "efficientnet_lite0": 48}
OWN = ("own grids", "own tokens")
SMALL_TEXT = {
    "hidden_size": 32,
    "num_hidden_layers": 4,
    "num_attention_heads": 2,
    "num_key_value_heads": 2,
    "intermediate_size": 48,
    "vocab_size": 64,
    "max_position_embeddings": 40,
    **{f"{kind}_token_id": 1 for kind in ("bos", "eos", "pad")},
}
TEXT: dict[str, dict[str, Any]] = {
    "bert": {},
    "roberta": {"max_position_embeddings": 42},
    "distilbert": {"n_layers": 4, "dim": 32, "hidden_dim": 48, "n_heads": 2},
    "modernbert": {"cls_token_id": 1, "sep_token_id": 1},
    "gpt2": {"n_embd": 32, "n_layer": 4, "n_head": 2, "n_positions": 40},
    "gpt_neox": {},
    "opt": {"ffn_dim": 48, "word_embed_proj_dim": 32},
    "llama": {},
    "qwen3": {"head_dim": 16},
}
"""Configurations of text networks, by the name of their kind in transformers."""

DECODERS = ("gpt2", "gpt_neox", "opt", "llama", "qwen3")
ADAPTERS = [*TIMM, *PACKAGED, *OWN, *TEXT, "minilm_l6"]


class Net(nn.Module):
    """A network as a user may bring one. It returns grids or tokens, and has layers that must be frozen."""

    def __init__(self, as_tokens: bool) -> None:
        super().__init__()
        self.transform = Transform(24, (0.5, 0.5, 0.5), (0.5, 0.5, 0.5))
        self.as_tokens, stride = as_tokens, 1 if as_tokens else 2
        widths = (8, 8, 8, 8) if as_tokens else (4, 8, 12, 12)
        self.stem = nn.Conv2d(3, widths[0], 4, stride=4)
        self.blocks = nn.ModuleList(
            nn.Sequential(nn.Conv2d(d, e, 3, stride, 1), nn.BatchNorm2d(e), nn.GELU(), nn.Dropout(0.5))
            for d, e in itertools.pairwise(widths)
        )

    def stages(self, images: Tensor) -> tuple[Tensor, ...]:
        z = [self.stem(images)]
        for block in self.blocks:
            z.append(block(z[-1]))
        return tuple(stage.flatten(2).mT for stage in z) if self.as_tokens else tuple(z)


Build = Callable[[Taps], FrozenBackbone]


def builder(name: str, cache_dir: Path) -> Build:
    """Return a function that builds the adapter for the given taps."""
    if name == "minilm_l6":
        return lambda taps: load_backbone(
            name, group_size=taps.group_size, stages=taps.stages, max_tokens=24, cache_dir=cache_dir
        )
    if name in TEXT:
        return lambda taps: text_backbone(name, taps)
    if name in PACKAGED:
        return lambda taps: load_backbone(
            name, group_size=taps.group_size, stages=taps.stages, image_size=PACKAGED[name], cache_dir=cache_dir
        )
    if name in OWN:
        return lambda taps: OwnBackbone(name, Net(name == "own tokens"), taps, source=b"")
    architecture, image_size, options = TIMM[name]

    def build(taps: Taps) -> FrozenBackbone:
        backbone = untrained(name, architecture, taps=taps, image_size=image_size, **options)
        generator = torch.Generator().manual_seed(0)
        for parameter in backbone.network.parameters():  # some networks initialise their blocks to the identity
            parameter.add_(0.05 * torch.randn(parameter.shape, generator=generator))
        return backbone

    return build


def text_backbone(name: str, taps: Taps) -> TextBackbone:
    """A text network with random weights, whose tokenizer knows no word."""
    from tokenizers import Tokenizer
    from tokenizers.models import WordLevel

    config = json.dumps({"model_type": name, **SMALL_TEXT, **TEXT[name]})
    tokenizer = Tokenizer(WordLevel({"[UNK]": 0}, unk_token="[UNK]")).to_str()
    return built(name, config, tokenizer, taps=taps, max_tokens=40)


@pytest.fixture(scope="module", params=ADAPTERS)
def backbone(request: pytest.FixtureRequest, cache_dir: Path) -> FrozenBackbone:
    """Each adapter, with a tap after every block."""
    built_now = builder(request.param, cache_dir)(Taps(group_size=1))
    assert built_now.name == request.param
    return built_now


def images_for(backbone: FrozenBackbone, n_images: int = 2) -> Tensor:
    """Random images, or random texts of which the last one is shorter."""
    if backbone.kind == "texts":
        ids = torch.randint(4, 60, (n_images, backbone.tokens), generator=torch.Generator().manual_seed(0))
        ids[-1, backbone.tokens // 3 :] = BEYOND
        return ids
    side = backbone.image_size
    return torch.randn(n_images, 3, side, side, generator=torch.Generator().manual_seed(0))


def test_every_listed_name_is_tested() -> None:
    """Those that are not among the adapters here are loaded by name in other files."""
    assert set(BACKBONES) - set(ADAPTERS) == {"tiny-untrained", "smollm2_135m"}


def test_stages_are_as_declared(backbone: FrozenBackbone) -> None:
    stages = backbone.stages(images_for(backbone))
    assert len(stages) == len(backbone.stage_indices) == len(backbone.widths) > 2
    assert (backbone.stage_indices[0], backbone.stage_indices[-1]) == (0, backbone.n_blocks)
    assert backbone.width == backbone.widths[-1]
    assert backbone.tokens > backbone.n_prefix_tokens >= 0
    for stage, width in zip(stages, backbone.widths, strict=True):
        assert stage.shape == (2, backbone.tokens, width)
        assert stage.isfinite().all()
        assert stage.std() > 0
    for before, after in itertools.pairwise(stages):
        assert before.shape != after.shape or not torch.equal(before, after)


def test_backbone_stays_frozen(backbone: FrozenBackbone) -> None:
    images = images_for(backbone)
    expected = backbone.stages(images)
    state = {name: tensor.clone() for name, tensor in backbone.network.state_dict().items()}
    for module in backbone.network.modules():
        if isinstance(module, nn.Dropout):
            module.p = 0.5
    nn.Sequential(backbone).train()
    backbone.train().requires_grad_(True)
    assert not any(module.training for module in backbone.network.modules())
    backbone.network.train()
    backbone.network.requires_grad_(True)
    stages = backbone.stages(images.requires_grad_(images.is_floating_point()))
    assert not any(stage.requires_grad for stage in stages)
    assert not any(parameter.requires_grad for parameter in backbone.parameters())
    for got, want in zip(stages, expected, strict=True):
        assert torch.equal(got, want)
    for name, tensor in backbone.network.state_dict().items():
        assert torch.equal(tensor, state[name]), name


def test_an_images_stages_do_not_depend_on_its_batch(backbone: FrozenBackbone) -> None:
    """An image gives the same stages alone and in a batch, apart from rounding in single precision."""
    images = images_for(backbone)
    together, alone = backbone.stages(images), backbone.stages(images[1:])
    for batch, one in zip(together, alone, strict=True):
        assert (batch[1:] - one).abs().max() < 1e-4 * batch.abs().max()


def test_decoders_are_causal(backbone: FrozenBackbone) -> None:
    assert backbone.causal == (backbone.name in DECODERS)
    if backbone.causal:
        texts = images_for(backbone)
        other = texts.clone()
        other[0, -1] = 60
        for one, stage in zip(backbone.stages(texts), backbone.stages(other), strict=True):
            assert (one - stage)[0, :-1].abs().max() < 1e-5 * one.abs().max()


@pytest.mark.parametrize("name", ["dinov2 with registers", "swin", "densenet", "efficientnet", "gpt2", "bert"])
def test_stages_chosen_by_list_count_and_group_are_those_of_all(name: str, cache_dir: Path) -> None:
    build = builder(name, cache_dir)
    backbone = build(Taps())
    n = backbone.n_blocks
    images = images_for(backbone)
    every = backbone.stages(images)
    for taps in (Taps(stages=(1, n - 1)), Taps(stages=2), Taps(stages=n), Taps(group_size=n)):
        chosen = build(taps)
        assert chosen.stage_indices[0] == 0
        if isinstance(taps.stages, int):
            assert len(chosen.stage_indices) == taps.stages + 1
        if isinstance(taps.stages, tuple):
            assert chosen.stage_indices == (0, *taps.stages)
        assert chosen.widths == tuple(backbone.widths[i] for i in chosen.stage_indices)
        if chosen.tokens == backbone.tokens:  # otherwise the stages are averaged onto a different last grid
            for stage, index in zip(chosen.stages(images), chosen.stage_indices, strict=True):
                torch.testing.assert_close(stage, every[index], rtol=0, atol=0)


@pytest.mark.parametrize("stages", [0, 5, (), (0, 1), (2, 1), (1, 1), (1, 5)])
def test_missing_stages_are_refused(stages: int | tuple[int, ...]) -> None:
    for indices in (Taps(stages=stages).of_blocks, lambda name, n: Taps(stages=stages).of_levels(name, [1, n - 1])):
        with pytest.raises(UsageError, match=r"--stages .*'net'"):
            indices("net", 4)


def test_stages_end_with_their_level() -> None:
    assert Taps(group_size=2).of_levels("net", [3, 4, 1]) == (0, 2, 3, 5, 7, 8)
    assert Taps(group_size=9).of_levels("net", [3, 4, 1]) == (0, 3, 7, 8)
    assert Taps(stages=4).of_blocks("net", 12) == (0, 3, 6, 9, 12)
    assert Taps(stages=5).of_blocks("net", 12) == (0, 2, 5, 7, 10, 12)


@pytest.mark.parametrize(
    "backbone",
    [pytest.param(name, marks=pytest.mark.slow if name in PACKAGED else ()) for name in ADAPTERS],
    indirect=True,
    scope="module",
)
def test_fingerprint_is_that_of_the_weights(backbone: FrozenBackbone) -> None:
    other = copy.deepcopy(backbone)
    state = {name: tensor.clone() for name, tensor in other.network.state_dict().items()}
    other.take_weights(state)
    assert other.fingerprint == backbone.fingerprint
    seen = {backbone.fingerprint}
    names = [name for name, tensor in state.items() if tensor.is_floating_point()]
    buffers = [name for name, _ in other.network.named_buffers() if name in state]
    for name in {names[0], names[-1], *buffers[:1]}:
        changed = {**state, name: state[name] + 1}
        other.take_weights(changed)
        assert other.fingerprint not in seen, name
        seen.add(other.fingerprint)
    with pytest.raises(RuntimeError):
        other.take_weights({names[0]: state[names[0]]})
