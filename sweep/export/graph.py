"""A model as a graph that runs without sweep: PyTorch's own exported program, or ONNX. Each is checked on images."""

import importlib.util
import warnings
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from sweep.errors import SweepError
from sweep.export.model import AdaptedModel
from sweep.task_kinds import REGRESSION, TaskKind

TOLERANCE = 1e-4
"""Largest difference of a logit, or of a number in deviations on train, that passes: single precision, summed in
another order."""

TRACED_BATCH = 2
CHECKED_BATCH = 3
INSTALL_ONNX = 'ONNX needs onnxscript and onnxruntime; python -m pip install -e ".[export]"'


def write_torch_export(model: AdaptedModel, path: Path) -> float:
    """Write the model as a `torch.export` program, for any number of images.

    Args:
        model: On the CPU.
        path: To write; `torch.export.load(path).module()` is the model again, without sweep.

    Returns:
        The largest difference between its logits and the model's.

    Raises:
        SweepError: The difference is above the tolerance.
    """
    with torch.no_grad():
        program = torch.export.export(model, (_images(model, TRACED_BATCH),), dynamic_shapes=_dynamic_shapes())
    torch.export.save(program, path)
    images = _images(model, CHECKED_BATCH)
    with torch.no_grad():
        return _checked(torch.export.load(path).module()(images), model, images, path)


def require_onnx() -> None:
    """Ask for the packages that ONNX takes before anything is made.

    Raises:
        SweepError: One of them is not installed.
    """
    if any(importlib.util.find_spec(package) is None for package in ("onnxscript", "onnxruntime")):
        raise SweepError(INSTALL_ONNX)


def write_onnx(model: AdaptedModel, path: Path) -> float:
    """Write the model as ONNX, from `images` to `logits` or `values`, for any number of images.

    Args:
        model: On the CPU.
        path: To write.

    Returns:
        The largest difference between the logits of ONNX Runtime and the model's.

    Raises:
        SweepError: The difference is above the tolerance, or a package is missing.
    """
    require_onnx()
    import onnxruntime

    with warnings.catch_warnings(), torch.no_grad():
        warnings.simplefilter("ignore")  # of PyTorch's exporter, about itself
        program = torch.onnx.export(
            model,
            (_images(model, TRACED_BATCH),),
            dynamo=True,
            dynamic_shapes=_dynamic_shapes(),
            input_names=["images"],
            output_names=[output_name(model.target.kind)],
            verbose=False,
        )
    assert program is not None
    program.save(path)
    images = _images(model, CHECKED_BATCH)
    session = onnxruntime.InferenceSession(path, providers=["CPUExecutionProvider"])
    (logits,) = session.run(None, {"images": images.numpy()})
    with torch.no_grad():
        return _checked(torch.from_numpy(np.asarray(logits)), model, images, path)


def output_name(kind: TaskKind) -> str:
    """What a model's outputs are called."""
    return "values" if kind is REGRESSION else "logits"


def _dynamic_shapes() -> dict[str, dict[int, torch.export.Dim]]:
    return {"images": {0: torch.export.Dim("batch")}}


def _images(model: AdaptedModel, count: int) -> Tensor:
    """Noise of the size and scale of transformed images, the same at every call."""
    side = model.backbone.image_size
    return torch.randn(count, 3, side, side, generator=torch.Generator().manual_seed(0))


def _checked(outputs: Tensor, model: AdaptedModel, images: Tensor, path: Path) -> float:
    scale = outputs.new_tensor(model.target.std or (1.0,))
    difference: float = ((outputs - model(images)) / scale).abs().max().item()
    if not difference <= TOLERANCE:
        raise SweepError(
            f"{path.name} gives logits that differ by {difference:.1e} from the model's, more than {TOLERANCE:.0e}; "
            f"nothing was exported. Leave the option out"
        )
    return difference
