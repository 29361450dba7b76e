"""Write a model as a graph that runs without sweep: a `torch.export` program, or ONNX. Each graph is checked."""

import importlib.util
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from sweep.errors import SweepError
from sweep.export.model import AdaptedModel
from sweep.tasks.inputs import Kind
from sweep.tasks.kinds import DETECTION, REGRESSION, TaskKind

TOLERANCE = 1e-4
"""The largest difference of a logit that is accepted (for numbers, in standard deviations of the training data).

Differences of this size come from single precision with sums in another order."""

TRACED_BATCH = 2
CHECKED_BATCH = 3
INSTALL_ONNX = 'ONNX needs onnxscript and onnxruntime; python -m pip install -e ".[export]"'


def write_torch_export(model: AdaptedModel, path: Path) -> float:
    """Write the model as a `torch.export` program, for any number of images or texts.

    Args:
        model: The model, on the CPU.
        path: The file to write. `torch.export.load(path).module()` is the model again, without sweep.

    Returns:
        The largest difference between the logits of the graph and the model.

    Raises:
        SweepError: The difference is above the tolerance, or PyTorch cannot make a graph of the model.
    """
    inputs = model.backbone.random_inputs(CHECKED_BATCH)
    with torch.no_grad(), _made(model, path):
        example = model.backbone.random_inputs(TRACED_BATCH)
        torch.export.save(torch.export.export(model, (example,), dynamic_shapes=_dynamic_shapes()), path)
        outputs = torch.export.load(path).module()(inputs)
    return _checked(outputs, model, inputs, path)


def require_onnx() -> None:
    """Check that the packages for ONNX are installed, before anything is written.

    Raises:
        SweepError: One of them is not installed.
    """
    if any(importlib.util.find_spec(package) is None for package in ("onnxscript", "onnxruntime")):
        raise SweepError(INSTALL_ONNX)


def write_onnx(model: AdaptedModel, path: Path) -> float:
    """Write the model as ONNX, from `images` or `tokens` to `logits`, `values` or `cells`, for any batch size.

    Args:
        model: The model, on the CPU.
        path: The file to write.

    Returns:
        The largest difference between the logits of ONNX Runtime and the model.

    Raises:
        SweepError: The difference is above the tolerance, a package is missing, or PyTorch cannot make a graph of the
            model.
    """
    require_onnx()
    import onnxruntime

    inputs, name = model.backbone.random_inputs(CHECKED_BATCH), input_name(model.backbone.kind)
    with warnings.catch_warnings(), torch.no_grad(), _made(model, path):
        warnings.simplefilter("ignore")  # warnings of PyTorch's exporter about its own code
        program = torch.onnx.export(
            model,
            (model.backbone.random_inputs(TRACED_BATCH),),
            dynamo=True,
            dynamic_shapes=_dynamic_shapes(),
            input_names=[name],
            output_names=[output_name(model.target.kind)],
            verbose=False,
        )
        assert program is not None
        program.save(path)
        session = onnxruntime.InferenceSession(path, providers=["CPUExecutionProvider"])
        (outputs,) = session.run(None, {name: inputs.numpy()})
    return _checked(torch.from_numpy(np.asarray(outputs)), model, inputs, path)


def input_name(kind: Kind) -> str:
    """Return the name of a model's inputs."""
    return "tokens" if kind == "texts" else "images"


def output_name(kind: TaskKind) -> str:
    """Return the name of a model's outputs."""
    return {REGRESSION: "values", DETECTION: "cells"}.get(kind, "logits")


def _dynamic_shapes() -> dict[str, dict[int, torch.export.Dim]]:
    return {"images": {0: torch.export.Dim("batch")}}


@contextmanager
def _made(model: AdaptedModel, path: Path) -> Iterator[None]:
    """Turn an error into one that names the file and the backbone."""
    try:
        yield
    except OSError:  # such as a full disk, which is not the network's fault
        raise
    except Exception as error:  # PyTorch and ONNX Runtime raise errors of many types
        lines = str(error).strip().splitlines()
        raise SweepError(
            f"{path.name} cannot be written for a model with the backbone {model.backbone.name}: "
            f"{lines[0] if lines else type(error).__name__}; nothing was exported. Leave the option out"
        ) from error


def _checked(outputs: Tensor, model: AdaptedModel, inputs: Tensor, path: Path) -> float:
    scale = outputs.new_tensor(model.target.std or (1.0,))
    with torch.no_grad():
        difference: float = ((outputs - model(inputs)) / scale).abs().max().item()
    if not difference <= TOLERANCE:
        raise SweepError(
            f"{path.name} gives logits that differ by {difference:.1e} from the model's, more than {TOLERANCE:.0e}; "
            f"nothing was exported. Leave the option out"
        )
    return difference
