"""Weights read out of an ONNX file by name. The file's graph is never run."""

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import numpy.typing as npt
import torch

Array = npt.NDArray[Any]


class OnnxWeights:
    """The constants of an ONNX file: by their own names, or by the nodes that read them.

    An exporter names biases and norms after the module they belong to, but not the weights of linear layers: those
    are found through the node that multiplies with them, which is named after the module.

    Args:
        content: The file.
    """

    def __init__(self, content: bytes):
        import onnx
        from onnx import numpy_helper

        graph = onnx.load_model_from_string(content).graph
        self._arrays: dict[str, Array] = {tensor.name: numpy_helper.to_array(tensor) for tensor in graph.initializer}
        self._inputs: dict[str, list[str]] = {node.name: list(node.input) for node in graph.node}

    def named(self, name: str) -> Array:
        """Return the constant `name`."""
        return self._arrays[name]

    def read_by(self, node: str) -> Array:
        """Return the one constant among the inputs of `node`."""
        (name,) = (name for name in self._inputs[node] if name in self._arrays)
        return self._arrays[name]

    def linear(self, module: str) -> Array:
        """Return the weight (out, in) of the linear layer `module`, such as ``/encoder/layer.0/mlp/fc1``.

        An int8 weight is dequantised: each output channel is multiplied by its scale, and the zero point is 0.
        """
        if f"{module}/MatMul" in self._inputs:
            return self._arrays[self._inputs[f"{module}/MatMul"][1]].T
        quantised = self._inputs[f"{module}/MatMul_quant"][1]
        name = quantised.removesuffix("_quantized")
        scale, zero_point = self._arrays[f"{name}_scale"], self._arrays[f"{name}_zero_point"]
        assert not zero_point.any()
        dequantised: Array = self._arrays[quantised].astype(np.float32) * scale
        return dequantised.T


def block_weights(
    onnx: OnnxWeights,
    block: str,
    node: str,
    *,
    norms: Mapping[str, str],
    linears: Mapping[str, str],
    queries_keys_values: Sequence[str],
) -> dict[str, Array]:
    """Return the weights of one transformer block under timm's names within the block.

    Args:
        onnx: The file's constants.
        block: Prefix of the block's own constants.
        node: Prefix of the block's nodes.
        norms: Names of the block's norms in the file, and timm's.
        linears: Names of its linear layers in the file, and timm's.
        queries_keys_values: Names of the three linear layers that timm has as one, in its order.
    """
    found: dict[str, Array] = {}
    for theirs, ours in norms.items():
        for kind in ("weight", "bias"):
            found[f"{ours}.{kind}"] = onnx.named(f"{block}.{theirs}.{kind}")

    def weight(module: str) -> Array:
        return onnx.linear(f"{node}/{module.replace('.', '/')}")

    def bias(module: str) -> Array:
        return onnx.named(f"{block}.{module}.bias")

    for theirs, ours in linears.items():
        found[f"{ours}.weight"], found[f"{ours}.bias"] = weight(theirs), bias(theirs)
    found["attn.qkv.weight"] = np.concatenate([weight(module) for module in queries_keys_values])
    found["attn.qkv.bias"] = np.concatenate([bias(module) for module in queries_keys_values])
    return found


def tensors_of(arrays: dict[str, Array]) -> dict[str, torch.Tensor]:
    """Return `arrays` as contiguous float32 tensors."""
    return {name: torch.from_numpy(np.array(array, dtype=np.float32, order="C")) for name, array in arrays.items()}
