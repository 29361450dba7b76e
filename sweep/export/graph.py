"""A model as a graph that runs without sweep: PyTorch's own exported program, or ONNX. Each is checked."""

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
from sweep.tasks.kinds import REGRESSION, TaskKind

TOLERANCE = 1e-4
"""Largest difference of a logit, or of a number in deviations on train, that passes: single precision, summed in
another order."""

TRACED_BATCH = 2
CHECKED_BATCH = 3
INSTALL_ONNX = 'ONNX needs onnxscript and onnxruntime; python -m pip install -e ".[export]"'


def write_torch_export(model: AdaptedModel, path: Path) -> float:
    """Write the model as a `torch.export` program, for any number of images or texts.

    Args:
        model: On the CPU.
        path: To write; `torch.export.load(path).module()` is the model again, without sweep.

    Returns:
        The largest difference between its logits and the model's.

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
    """Ask for the packages that ONNX takes before anything is made.

    Raises:
        SweepError: One of them is not installed.
    """
    if any(importlib.util.find_spec(package) is None for package in ("onnxscript", "onnxruntime")):
        raise SweepError(INSTALL_ONNX)


def write_onnx(model: AdaptedModel, path: Path) -> float:
    """Write the model as ONNX, from `images` or `tokens` to `logits` or `values`, for any number of them.

    Args:
        model: On the CPU.
        path: To write.

    Returns:
        The largest difference between the logits of ONNX Runtime and the model's.

    Raises:
        SweepError: The difference is above the tolerance, a package is missing, or PyTorch cannot make a graph of the
            model.
    """
    require_onnx()
    import onnxruntime

    inputs, name = model.backbone.random_inputs(CHECKED_BATCH), input_name(model.backbone.kind)
    with warnings.catch_warnings(), torch.no_grad(), _made(model, path):
        warnings.simplefilter("ignore")  # of PyTorch's exporter, about itself
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
    """What a model's inputs are called."""
    return "tokens" if kind == "texts" else "images"


def output_name(kind: TaskKind) -> str:
    """What a model's outputs are called."""
    return "values" if kind is REGRESSION else "logits"


def _dynamic_shapes() -> dict[str, dict[int, torch.export.Dim]]:
    return {"images": {0: torch.export.Dim("batch")}}


@contextmanager
def _made(model: AdaptedModel, path: Path) -> Iterator[None]:
    """Say which file cannot be made of which backbone."""
    try:
        yield
    except OSError:  # of a full disk, say: the folder's error, not the network's
        raise
    except Exception as error:  # of PyTorch and ONNX Runtime, about a network: a dozen types
        lines = str(error).strip().splitlines()
        raise SweepError(
            f"{path.name} cannot be made of a model beside {model.backbone.name}: "
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
