"""In a training step, every tensor is on the device, and the host waits for no result.

PyTorch's `meta` device stands in for a GPU. It holds no values, so the step fails if the host reads one. A tensor that
nobody moves to the device stays on the CPU and is found. The tests cover a step from a batch on the device to the
optimizer's update. They do not cover copying batches and dropout masks to a GPU.
"""

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import pytest
import torch
from torch import Tensor
from torch._ops import OpOverload
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

from backbones.stages import Stages
from sweep.side_networks.spec import SideNetworkSpec
from sweep.study.lane_config import LaneConfig
from sweep.tasks.lane_losses import LaneLosses
from sweep.training.optim import LaneOptimizers
from sweep.training.stack import Stack

DEVICE = "meta"
N_IMAGES, N_TOKENS = 6, 17
SHAPE: dict[str, Any] = {"width": 32, "n_stages": 4, "n_classes": 5, "n_prefix_tokens": 1, "pool": "mean"}
CONFIGS = [
    LaneConfig(lr=1e-3, loss="cross_entropy", label_smoothing=0.1),
    LaneConfig(lr=1e-3, loss="focal", optimizer="sgd", clip_norm=1.0),
    LaneConfig(lr=1e-3, loss="bce", clip_norm=0.1),
    LaneConfig(lr=1e-3, loss="logit_adjusted", optimizer="sgd"),
]


LAUNCHES_OF_STEP = {"last": 1521, "ladder": 676}
"""The most launches of a step of a ViT's LAST with twelve modules, and of a ladder of four rungs with attention."""

LAUNCHES_OF_UPDATE = 90
"""The most launches of an optimizer's update in such a step."""

NO_LAUNCH = ("empty", "empty_like", "empty_strided", "new_empty", "new_empty_strided", "_unsafe_view")
"""Operations that only allocate memory, or give a tensor another shape. PyTorch does not call the last one a view."""


class OnDevice(TorchDispatchMode):
    """Fails at an operation that reads or writes a tensor elsewhere; counts those that a GPU would launch.

    Numbers are tensors without dimensions to PyTorch, and may come from the host.
    """

    n_launches = 0

    def __torch_dispatch__(
        self, func: OpOverload, types: Sequence[type], args: tuple[Any, ...] = (), kwargs: Any = None
    ) -> Any:
        self.n_launches += not (func.is_view or func.overloadpacket.__name__ in NO_LAUNCH)
        self.require_on_device(func, (args, kwargs))
        out = func(*args, **(kwargs or {}))
        self.require_on_device(func, out)
        return out

    def require_on_device(self, func: Callable[..., Any], values: Any) -> None:
        for x in tree_leaves(values):
            if isinstance(x, Tensor) and x.dim() > 0:
                assert x.device.type == DEVICE, f"{func} has a tensor on {x.device}"


def launches_of_a_step(
    spec: SideNetworkSpec, n_lanes: int, lengths: bool = False, configs: Sequence[LaneConfig] = CONFIGS
) -> tuple[int, int]:
    """Launches of the gradients, and of the update."""
    configs = [configs[lane % len(configs)] for lane in range(n_lanes)]
    stack = Stack([spec.lane(spec.max_rank, seed).to(DEVICE) for seed in range(n_lanes)])
    like = stack.like
    losses_of = LaneLosses(configs, torch.ones(spec.n_classes, device=DEVICE), like.dtype)
    optimizers = LaneOptimizers(stack.params, configs)
    stages = [torch.empty(N_IMAGES, N_TOKENS, width, device=DEVICE) for width in spec.stage_widths]
    if lengths:
        stages = Stages(stages, torch.empty(N_IMAGES, dtype=torch.long, device=DEVICE))
    labels = torch.empty(N_IMAGES, dtype=torch.long, device=DEVICE)
    factor = like.new_ones(n_lanes)
    with OnDevice() as of_gradients:
        losses, grads = stack.gradients(stages, labels, losses_of)
    with OnDevice() as of_update:
        optimizers.step(grads, factor)
    assert losses.shape == (n_lanes,)
    return of_gradients.n_launches, of_update.n_launches


@pytest.mark.parametrize(
    ("options", "form"),
    [
        ({"max_rank": 4}, "rank space"),
        ({"max_rank": 4, "precision": "bf16"}, "rank space"),
        ({"max_rank": 4, "causal": True}, "rank space"),
        ({"max_rank": 128}, "direct"),
        ({"max_rank": 2, "widths": (16, 16, 32, 32)}, "rank space"),
    ],
    ids=["fp32", "bf16", "causal", "direct", "pyramid"],
)
def test_all_of_a_step_is_on_the_device(options: Mapping[str, Any], form: str) -> None:
    spec = SideNetworkSpec(**SHAPE, modules_per_block=2, **options)
    assert spec.form == form
    assert min(launches_of_a_step(spec, len(CONFIGS))) > 0


@pytest.mark.parametrize("causal", [False, True])
def test_all_of_a_step_on_texts_is_on_the_device(causal: bool) -> None:
    spec = SideNetworkSpec(**SHAPE, modules_per_block=1, max_rank=4, causal=causal)
    assert min(launches_of_a_step(spec, len(CONFIGS), lengths=True)) > 0


def test_more_lanes_are_not_more_launches() -> None:
    spec = SideNetworkSpec(**SHAPE, modules_per_block=1, max_rank=4)
    assert launches_of_a_step(spec, 4) == launches_of_a_step(spec, 32)


def test_more_parameters_are_not_more_launches_of_an_update() -> None:
    """Except for a module's one gradient that is transposed, and copied."""
    few, many = (SideNetworkSpec(**SHAPE, modules_per_block=n, max_rank=4) for n in (1, 4))
    more_modules = many.n_modules - few.n_modules
    assert launches_of_a_step(many, 4)[1] <= launches_of_a_step(few, 4)[1] + more_modules


@pytest.mark.parametrize("family", LAUNCHES_OF_STEP)
def test_launches_of_a_step_are_as_few_as_they_were(family: str) -> None:
    shape = {**SHAPE, "n_stages": 13 if family == "last" else 5, "n_tokens": N_TOKENS, "attention": family == "ladder"}
    spec = SideNetworkSpec(**shape, modules_per_block=1, max_rank=8, family=family)
    of_gradients, of_update = launches_of_a_step(spec, 4, configs=[LaneConfig(lr=1e-3)])
    assert of_update <= LAUNCHES_OF_UPDATE
    assert of_gradients + of_update <= LAUNCHES_OF_STEP[family]


def test_a_tensor_that_stays_on_the_host_is_found() -> None:
    here, there = torch.empty(2, 2, device=DEVICE), torch.ones(2, 2)
    with OnDevice(), pytest.raises(AssertionError, match=r"mm\.default has a tensor on cpu"):
        torch.mm(here, there)
