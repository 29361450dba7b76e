"""Losses that a study file defines itself: `Study(losses={"poly1": poly1})`.

Such a loss is an ordinary PyTorch function of one lane: `poly1(outputs, labels, epsilon=1.0)` returns the loss of every
image, `(B,)`. Further parameters are values of `LaneConfig.extra` with the same names.

A lane's configuration, which is also saved to files, refers to the loss by this text: `own:`, the name, and the first
digits of the SHA-256 of the file that defines it. Code is only executed if the user gives that file.
"""

import inspect
from collections.abc import Callable, Mapping, Sequence
from functools import cache
from typing import TYPE_CHECKING, Any

from sweep.errors import UsageError
from sweep.machine.user_code import line_of, source_digest

if TYPE_CHECKING:  # names of losses are known without PyTorch
    from torch import Tensor

OWN = "own:"
OwnLoss = Callable[..., "Tensor"]

_given: dict[str, OwnLoss] = {}


@cache
def own_loss(name: str, function: OwnLoss) -> str:
    """Register a study's own loss, and return the text by which a lane's configuration refers to it."""
    text = f"{OWN}{name}:{source_digest(function, name)}"
    _given[text] = function
    return text


def is_own(loss: str) -> bool:
    """Whether a configuration refers to a loss of a study file."""
    return loss.startswith(OWN)


def given_names() -> tuple[str, ...]:
    """Names of the losses of the study files that this process was given."""
    return tuple(dict.fromkeys(text.split(":")[1] for text in _given))


def given_losses() -> dict[str, OwnLoss]:
    """All losses that this process was given, by the text that `own_loss` returned."""
    return dict(_given)


def take_losses(losses: Mapping[str, OwnLoss]) -> None:
    """Take what `given_losses` returned in another process."""
    _given.update(losses)


def loss_of_images(loss: str, extra: Mapping[str, Any]) -> Callable[["Tensor", "Tensor"], "Tensor"]:
    """A loss with the parameters of a lane: maps outputs `(B, C)` and labels to the loss of every image, `(B,)`.

    Args:
        loss: The text that `own_loss` returned.
        extra: `LaneConfig.extra` of the lane.

    Raises:
        UsageError: This process was not given its file, or the file has changed. Later: the function raises an error,
            or does not return one loss for each image.
    """
    _, name, digest = [*loss.split(":", maxsplit=2), "", ""][:3]
    if loss not in _given:
        raise UsageError(
            f"the loss {name[:80]} is from a study file whose SHA-256 begins with {digest[:12]}, and files are "
            f"executed only if you give them: --study FILE, with the unchanged file"
        )
    function = _given[loss]
    accepted = list(inspect.signature(function).parameters)[2:]
    values = {parameter: extra[parameter] for parameter in accepted if parameter in extra}

    def of_images(outputs: "Tensor", labels: "Tensor") -> "Tensor":
        try:
            losses = function(outputs, labels, **values)
        except Exception as error:
            raise UsageError(
                f"the study's loss {name} failed: {type(error).__name__}: {error} ({line_of(function, error)})"
            ) from error
        if getattr(losses, "shape", None) != outputs.shape[:1]:
            raise UsageError(
                f"the study's loss {name} must return a loss for each of {len(outputs)} images, as PyTorch's losses do "
                f"with reduction='none'; it returned {_described(losses)}"
            )
        return losses

    return of_images


def losses_of_lanes(loss: str, extras: Sequence[Mapping[str, Any]]) -> Callable[["Tensor", "Tensor"], "Tensor"]:
    """Like `loss_of_images`, for several lanes: maps outputs `(n, B, C)` to losses `(n, B)`.

    Lanes are computed one after another, because a lane's bits must not depend on its position in the stack, and some
    of PyTorch's functions round differently at different positions of a tensor.
    """
    import torch

    of_lanes = [loss_of_images(loss, extra) for extra in extras]

    def of_images(outputs: "Tensor", labels: "Tensor") -> "Tensor":
        return torch.stack([of_lane(own, labels) for of_lane, own in zip(of_lanes, outputs, strict=True)])

    return of_images


def _described(value: object) -> str:
    shape = getattr(value, "shape", None)
    return f"a tensor of shape {tuple(shape)}" if shape is not None else repr(value)[:80]
