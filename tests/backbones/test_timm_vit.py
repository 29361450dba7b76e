"""The timm adapter: stages, freezing, fingerprints, names, and what happens without a network."""

from pathlib import Path

import pytest
import timm
import torch
from huggingface_hub import constants
from safetensors.torch import save_file

from backbones import BACKBONES, load_backbone
from backbones.frozen import FrozenBackbone
from backbones.protocol import weights_fingerprint
from sweep.errors import SweepError, UsageError


def tiny(cache_dir: Path, group_size: int = 1) -> FrozenBackbone:
    return load_backbone("tiny-untrained", group_size=group_size, cache_dir=cache_dir)


@pytest.mark.parametrize("group_size", [1, 2, 4])
def test_stages_are_the_tokens_between_the_blocks(tmp_path: Path, group_size: int) -> None:
    backbone = tiny(tmp_path, group_size)
    images = torch.randn(3, 3, 32, 32)
    vit = backbone.network
    with torch.no_grad():
        patches = vit.patch_embed(images)
        stream = torch.cat([vit.cls_token.expand(3, -1, -1), patches], dim=1) + vit.pos_embed
        expected = [stream]
        for number, block in enumerate(vit.blocks, start=1):
            stream = block(stream)
            if number % group_size == 0:
                expected.append(stream)
    stages = backbone.stages(images)
    assert backbone.stage_indices == tuple(range(0, 5, group_size))
    assert len(stages) == len(expected) == 4 // group_size + 1
    for got, want in zip(stages, expected, strict=True):
        assert got.shape == (3, backbone.tokens, backbone.width) == (3, 17, 32)
        torch.testing.assert_close(got, want, rtol=0, atol=0)


def test_blocks_after_the_last_stage_are_not_computed(tmp_path: Path) -> None:
    backbone = load_backbone("tiny-untrained", stages=(1, 2), cache_dir=tmp_path)
    called: list[int] = []
    for number, block in enumerate(backbone.network.blocks, start=1):
        block.register_forward_hook(lambda *_, number=number: called.append(number))
    images = torch.randn(3, 3, 32, 32)
    few = backbone.stages(images)
    assert called == [1, 2]
    for got, want in zip(few, tiny(tmp_path).stages(images), strict=False):
        assert torch.equal(got, want)


@pytest.mark.parametrize(
    ("name", "n_prefix_tokens", "tokens"),
    [
        ("untrained:vit_tiny_patch16_224", 1, 5),
        ("untrained:deit_tiny_distilled_patch16_224", 2, 6),
        ("untrained:vit_small_patch16_dinov3", 5, 9),
    ],
)
def test_prefix_tokens_come_first(tmp_path: Path, name: str, n_prefix_tokens: int, tokens: int) -> None:
    backbone = load_backbone(name, group_size=6, image_size=32, cache_dir=tmp_path)
    assert (backbone.n_prefix_tokens, backbone.tokens) == (n_prefix_tokens, tokens)
    changed = torch.zeros(1, 3, 32, 32)
    changed[:, :, :16, :16] = 1.0  # the first patch only
    first, second = backbone.stages(torch.zeros(1, 3, 32, 32))[0], backbone.stages(changed)[0]
    differs = (first != second).any(dim=-1)[0].nonzero().flatten().tolist()
    assert differs == [n_prefix_tokens]


def test_stages_can_feed_a_side_network_that_is_trained(tmp_path: Path) -> None:
    stage = tiny(tmp_path).stages(torch.randn(2, 3, 32, 32))[-1]
    weight = torch.zeros(32, requires_grad=True)
    (stage * weight).sum().backward()
    assert weight.grad is not None
    torch.testing.assert_close(weight.grad, stage.sum(dim=(0, 1)))


def test_untrained_weights_are_seeded_and_leave_the_global_state_alone(tmp_path: Path) -> None:
    torch.manual_seed(1)
    before = torch.get_rng_state()
    first = tiny(tmp_path)
    assert torch.equal(torch.get_rng_state(), before)
    torch.manual_seed(2)
    assert tiny(tmp_path).fingerprint == first.fingerprint


def test_fingerprint_sees_names_shapes_types_and_bytes() -> None:
    base = {"a": torch.arange(6.0), "b": torch.zeros(2)}
    variants = [
        {"a": torch.arange(6.0).view(2, 3), "b": base["b"]},
        {"c": base["a"], "b": base["b"]},
        {"a": torch.arange(6.0), "b": torch.tensor([0.0, -0.0])},
        {"a": torch.arange(6.0), "b": torch.zeros(2, dtype=torch.int32)},
    ]
    digests = {weights_fingerprint(weights) for weights in [base, *variants]}
    assert len(digests) == 5
    assert weights_fingerprint(dict(reversed(base.items()))) == weights_fingerprint(base)


def test_group_size_must_divide_the_blocks(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match=r"group size 3 does not divide the 4 blocks .*one of 1, 2, 4"):
        tiny(tmp_path, group_size=3)


@pytest.mark.parametrize("image_size", [8 * 10**6, 8 * 10**11, 8 * 10**30])
def test_an_image_size_beyond_all_memory_is_one_line(tmp_path: Path, image_size: int) -> None:
    with pytest.raises(UsageError, match=f"image-size {image_size} is too large for 'tiny-untrained'") as caught:
        load_backbone("tiny-untrained", image_size=image_size, cache_dir=tmp_path)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(("image_size", "remedy"), [(30, "give 32"), (3, "give 8"), (0, "positive")])
def test_image_size_must_be_whole_patches(tmp_path: Path, image_size: int, remedy: str) -> None:
    with pytest.raises(UsageError, match=remedy):
        load_backbone("tiny-untrained", group_size=1, image_size=image_size, cache_dir=tmp_path)


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("dinov2_smal_focus", "did you mean dinov2_small_focus"),
        ("vit_tiny_patch16_225", "vit_tiny_patch16_224"),
        ("vit_tiny_patch", "did you mean vit_tiny_patch16_224, "),
        ("untrained:vit_tiny_patch16_225", "untrained:vit_tiny_patch16_224"),
        ("untrained:", "unknown backbone 'untrained:'"),
        ("vgg11", "VGG, for which sweep has no adapter; it has adapters for the Vision Transformers"),
        ("vit_tiny_r_s16_p8_224", "VisionTransformer, for which sweep has no adapter"),
        ("untrained:test_maxvit", "MaxxVit, for which sweep has no adapter"),
        ("vit_tiny_patch16_224.augreg_in21", r"did you mean vit_tiny_patch16_224\.augreg_in21k"),
    ],
)
def test_unsuitable_names(tmp_path: Path, name: str, message: str) -> None:
    with pytest.raises(UsageError, match=message):
        load_backbone(name, group_size=1, cache_dir=tmp_path)


@pytest.fixture
def no_hub(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Point the hub's client at a closed port and an empty cache folder, which is returned."""
    monkeypatch.setattr(constants, "ENDPOINT", "http://127.0.0.1:9")
    monkeypatch.setattr(constants, "HF_HUB_CACHE", str(tmp_path))
    return tmp_path


def test_missing_hub_is_told_before_the_client_starts_to_retry(no_hub: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    asked = []
    monkeypatch.setattr("timm.models._hub.hf_hub_download", lambda *args, **kwargs: asked.append(args))
    with pytest.raises(SweepError, match=r"(?s)127\.0\.0\.1:9 does not answer.*dinov2_small_focus") as caught:
        load_backbone("vit_tiny_patch16_224", group_size=1, cache_dir=no_hub)
    assert caught.value.exit_code == 1
    assert not asked


def publish(hub: Path, name: str, weights: dict[str, torch.Tensor]) -> None:
    """Put weights where the hub's client keeps those of timm's model `name`."""
    repository = hub / f"models--{timm.get_pretrained_cfg(name).hf_hub_id.replace('/', '--')}"
    (repository / "refs").mkdir(parents=True)
    (repository / "refs" / "main").write_text("abc")
    (repository / "snapshots" / "abc").mkdir(parents=True)
    save_file(weights, repository / "snapshots" / "abc" / "model.safetensors")


def test_offline_weights_come_from_the_hub_cache(no_hub: Path) -> None:
    source = timm.create_model("vit_tiny_patch16_224", pretrained=False)
    publish(no_hub, "vit_tiny_patch16_224", source.state_dict())
    backbone = load_backbone("vit_tiny_patch16_224", group_size=12, cache_dir=no_hub)
    assert torch.equal(backbone.network.blocks[3].mlp.fc1.weight, source.blocks[3].mlp.fc1.weight)
    assert backbone.transform.mean == (0.5, 0.5, 0.5)
    assert (backbone.image_size, backbone.tokens) == (224, 197)


@pytest.mark.parametrize(
    ("name", "table"),
    [
        ("deit_tiny_patch16_224.fb_in1k", "pos_embed"),
        ("eva02_tiny_patch14_224.mim_in22k", "pos_embed"),
        pytest.param("vit_small_patch14_reg4_dinov2.lvd142m", "pos_embed", marks=pytest.mark.slow),
        pytest.param(
            "beit_base_patch16_224.in22k_ft_in22k",
            "blocks.1.attn.relative_position_bias_table",
            marks=pytest.mark.slow,
        ),
        ("swin_tiny_patch4_window7_224.ms_in1k", "layers.3.blocks.0.attn.relative_position_bias_table"),
    ],
)
def test_position_embeddings_are_interpolated_to_the_image_size(no_hub: Path, name: str, table: str) -> None:
    """Weights of timm's own size, all but the positions left alone; a smooth table stays smooth."""
    size = 112
    with torch.device("meta"):
        shapes = {key: like.shape for key, like in timm.create_model(name, pretrained=False).state_dict().items()}
    generator = torch.Generator().manual_seed(0)
    weights = {key: torch.randn(shape, generator=generator) * 0.02 for key, shape in shapes.items()}
    weights[table] = torch.full(shapes[table], 0.25)
    publish(no_hub, name, weights)
    backbone = load_backbone(name, stages=1, image_size=size, cache_dir=no_hub)
    state = backbone.network.state_dict()
    assert backbone.image_size == size
    assert state[table].shape != shapes[table]
    torch.testing.assert_close(state[table], torch.full_like(state[table], 0.25))
    kept = [key for key, tensor in state.items() if key in weights and tensor.shape == shapes[key]]
    assert len(kept) > 100
    assert all(torch.equal(state[key], weights[key]) for key in kept if weights[key].is_floating_point())
    side = backbone.image_size
    assert all(stage.isfinite().all() for stage in backbone.stages(torch.zeros(1, 3, side, side)))


@pytest.mark.slow
def test_every_listed_name_loads(cache_dir: Path) -> None:
    for name in BACKBONES:
        assert load_backbone(name, group_size=2, cache_dir=cache_dir).name == name


def test_the_small_listed_network_loads(tmp_path: Path) -> None:
    assert tiny(tmp_path).name == "tiny-untrained"
