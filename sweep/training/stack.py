"""A stack: `N` side-networks of one shape, with their parameters stacked.

A stack can hold any side-network. The module must take the list of stages and return logits. Parameters and buffers are
stacked with `stack_module_state`, and `vmap` runs the lanes. Values that a module computes from the stages alone have
no lane dimension, so `vmap` computes them once for all lanes.

A module whose `takes_lanes` is true is written for stacked parameters itself: it is called once, without `vmap`.
"""

import copy
from collections.abc import Callable, Mapping, Sequence
from contextlib import closing

import torch
from torch import Tensor, nn
from torch.func import functional_call, stack_module_state, vmap

from sweep.errors import UsageError
from sweep.features.batches import StageData
from sweep.machine.settings import computing_lanes
from sweep.training.interrupts import interruptible

EVALUATION_BATCH_SIZE = 64


class Stack:
    """`N` lanes of one shape.

    Args:
        modules: One side-network per lane, all of one class and shape. A module maps stages, each `(B, L, D)`, to
            logits `(B, C)`. The modules are copied and not changed.

    Raises:
        UsageError: The modules do not have the same shapes, or differ in an attribute that is not a tensor.
    """

    def __init__(self, modules: Sequence[nn.Module]):
        self.n_lanes = len(modules)
        _check_shapes(modules)
        _check_attributes(modules)
        self.params, self.buffers = stack_module_state(list(modules))
        self._skeleton = copy.deepcopy(modules[0]).to("meta")
        takes_lanes = getattr(modules[0], "takes_lanes", False)
        self._forward = interruptible(self._called if takes_lanes else vmap(self._called, in_dims=(0, 0, None)))

    @property
    def like(self) -> Tensor:
        """A tensor with the dtype and device of the lanes."""
        first: Tensor = next(iter(self.params.values()))
        return first

    def _called(self, params: dict[str, Tensor], buffers: dict[str, Tensor], stages: list[Tensor]) -> Tensor:
        logits: Tensor = functional_call(self._skeleton, (params, buffers), (stages,))
        return logits

    def logits(self, stages: list[Tensor]) -> Tensor:
        """Logits of every lane, `(N, B, C)`, from stages, each `(B, L, D)`."""
        with computing_lanes(self.n_lanes, self.like.device):
            logits: Tensor = self._forward(self.params, self.buffers, stages)
        return logits

    def gradients(
        self,
        stages: list[Tensor],
        labels: Tensor,
        losses_of: Callable[[Tensor, Tensor], Tensor],
        replaced: Mapping[str, Tensor] | None = None,
    ) -> tuple[Tensor, dict[str, Tensor]]:
        """Losses of every lane and the gradient of each with respect to its own parameters.

        No lane's loss depends on another lane's parameters, so the gradient of the sum is every lane's gradient.

        Args:
            stages: Each `(B, L, D)`.
            labels: `(B,)`.
            losses_of: Maps logits `(N, B, C)` and labels to losses `(N,)`.
            replaced: Buffers by name that are replaced in this step, each `(N, ...)`; see `dropout_buffers`.

        Returns:
            Losses `(N,)`, detached, and gradients by parameter name, each `(N, ...)`.
        """
        with computing_lanes(self.n_lanes, self.like.device):
            losses = losses_of(self._forward(self.params, {**self.buffers, **(replaced or {})}, stages), labels)
            grads = torch.autograd.grad(losses.sum(), list(self.params.values()))
        return losses.detach(), dict(zip(self.params, grads, strict=True))

    def of_lanes(self, lanes: Tensor) -> "Stack":
        """A stack of some lanes, by index `(n,)`. A single one is there twice: alone it would have other bits."""
        some = copy.copy(self)
        which = lanes if len(lanes) > 1 else lanes.repeat(2)
        some.params, some.buffers = (
            {name: tensor.detach()[which] for name, tensor in tensors.items()}
            for tensors in (self.params, self.buffers)
        )
        some.n_lanes = len(which)
        return some

    def lane_state(self, lane: int) -> dict[str, Tensor]:
        """A copy of one lane's parameters as its module's `state_dict`, on the CPU."""
        return {name: p[lane].detach().clone().cpu() for name, p in self.params.items()}


def _check_shapes(modules: Sequence[nn.Module]) -> None:
    """Raise an error if lanes cannot be stacked, which may happen with a user's own side-network."""
    first, *others = ({name: tuple(p.shape) for name, p in module.named_parameters()} for module in modules)
    for other in others:
        for name in sorted(first.keys() | other.keys()):
            if first.get(name) != other.get(name):
                raise UsageError(
                    f"lanes that train together must have weights of the same shapes, but {name} is "
                    f"{first.get(name, 'missing')} in one and {other.get(name, 'missing')} in another; give all trials "
                    f"of the study the same values of whatever decides the shapes"
                )


def _check_attributes(modules: Sequence[nn.Module]) -> None:
    """Raise an error if lanes differ in a plain attribute: the first lane's code runs with the tensors of each lane."""
    for name, of_first in modules[0].named_modules():
        if type(of_first).__module__.split(".")[0] in ("sweep", "torch"):  # sweep's note their own rank
            continue
        for module in modules[1:]:
            own = vars(module.get_submodule(name))
            for attribute, value in vars(of_first).items():
                if isinstance(value, bool | int | float | str) and own.get(attribute) != value:
                    where = ".".join(filter(None, [type(modules[0]).__name__, name, attribute]))
                    raise UsageError(
                        f"lanes that train together differ in {where}: {value!r} in one and {own.get(attribute)!r} in "
                        f"another. Keep it as a tensor in a buffer: register_buffer({attribute!r}, torch.tensor(…), "
                        f"persistent=False)"
                    )


@torch.no_grad()
def split_logits(stack: Stack, data: StageData, which: Tensor | None = None) -> Tensor:
    """Logits of every lane on a whole split, or on the images with the indices `which`, `(N, n, C)`, on the CPU.

    They are what `Target.condensed` keeps of the outputs.
    """
    indices = (torch.arange(len(data)) if which is None else which).split(EVALUATION_BATCH_SIZE)
    with closing(data.batches(1, indices, stack.like)) as batches:
        return torch.cat([data.target.condensed(stack.logits(stages)) for stages, _ in batches], dim=1)
