"""The ways of training that are compared. Each row is built from a workload and takes one training step at a time."""

import copy
from abc import ABC, abstractmethod
from collections.abc import Callable
from functools import partial
from typing import Any, Protocol

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.profiler import record_function

from sweep.bench.adapters import has_peft, with_lora
from sweep.bench.flops import flops_of, step_flops
from sweep.bench.workload import LAST, N_CLASSES, Workload
from sweep.machine.at_once import Check, at_once, shares
from sweep.side_networks.linear_probe import pooled_probe
from sweep.study.lane_config import LaneConfig
from sweep.tasks.lane_losses import LaneLosses
from sweep.training.optim import LaneOptimizers
from sweep.training.parts import n_parts
from sweep.training.stack import Stack

BATCH, GRADIENTS, OPTIMIZER = "sweep bench: batch", "sweep bench: gradients", "sweep bench: optimizer"
"""The parts of a stack's step, with their names in PyTorch's profiler."""


class Row(Protocol):
    """One way of training.

    Attributes:
        n_lanes: Configurations that one step trains.
        useful_flops: FLOPs of one step: those of the direct form, however the row computes it, and those of the
            backbone if it runs.
    """

    n_lanes: int
    useful_flops: float

    def step(self) -> None:
        """Take one optimizer step for all lanes."""


def _adamw(module: nn.Module, config: LaneConfig) -> torch.optim.Optimizer:
    """Return AdamW as lanes use it: weight decay on matrices, none on biases and norms."""
    params = [p for p in module.parameters() if p.requires_grad]
    groups = [
        {"params": [p for p in params if p.dim() > 1], "weight_decay": config.weight_decay},
        {"params": [p for p in params if p.dim() <= 1], "weight_decay": 0.0},
    ]
    betas = (config.beta1, config.beta2)
    return torch.optim.AdamW(groups, lr=config.lr, betas=betas, eps=config.eps)


class _PlainLoop(ABC):
    """Trains one configuration at a time, as a PyTorch user would write it."""

    n_lanes = 1

    def __init__(self, module: nn.Module, workload: Workload, config: LaneConfig):
        self.module = module.to(workload.device)
        self.workload = workload
        self.optimizer = _adamw(self.module, config)

    @abstractmethod
    def inputs(self) -> Any:
        """The inputs of the module."""

    def step(self) -> None:
        """Take one step: forward, backward, update."""
        loss = F.cross_entropy(self.module(self.inputs()), self.workload.labels)
        self.optimizer.zero_grad()
        loss.backward()
        self.optimizer.step()

    def state(self) -> list[dict[str, Tensor]]:
        """The trained weights, one dictionary a lane."""
        return [{name: p.detach().clone().cpu() for name, p in self.module.named_parameters()}]


def _direct(workload: Workload, lane: int) -> nn.Module:
    """Build a lane's module in the direct form, with the initial weights that `sweep run` gives it."""
    module = workload.spec.plain(workload.sizes.rank)
    module.load_state_dict(workload.spec.lane(workload.sizes.rank, workload.seed_of(lane)).state_dict())
    return module


class Sequential(_PlainLoop):
    """Trains one configuration at a time, with the backbone's forward pass in every step: the paper's recipe.

    The backbone runs without gradients and with PyTorch's fused attention. Features are rounded to fp16 as in the
    cache, so that all rows compute the same function.
    """

    def __init__(self, workload: Workload, lane: int = 0):
        super().__init__(_direct(workload, lane), workload, workload.configs[lane])
        backbone, images = workload.backbone, workload.images
        assert backbone is not None
        assert images is not None
        self.backbone, self.images = backbone, images
        self.useful_flops = step_flops(workload) + flops_of(lambda: backbone.stages(images))

    def inputs(self) -> list[Tensor]:
        """The stages, computed by the backbone."""
        return [stage.half().float() for stage in self.backbone.stages(self.images)]


class SequentialCached(_PlainLoop):
    """Trains one configuration at a time from the feature cache."""

    def __init__(self, workload: Workload, lane: int = 0):
        super().__init__(_direct(workload, lane), workload, workload.configs[lane])
        self.useful_flops = step_flops(workload)

    def inputs(self) -> list[Tensor]:
        """The stages, read from the cache."""
        like = next(self.module.parameters())
        return self.workload.features.batch(torch.arange(len(self.workload.features)), like)[0]


class _StackRow:
    """Trains lanes in one stack from the feature cache; `first` is the number of the first lane."""

    def __init__(self, workload: Workload, modules: list[nn.Module], first: int = 0):
        configs = workload.configs[first : first + len(modules)]
        self.workload = workload
        self.n_lanes = len(modules)
        self.data = workload.features
        self.stack = Stack([module.to(workload.device) for module in modules])
        like = self.stack.like
        self.losses_of = LaneLosses(configs, self.data.class_counts.to(like.device), like.dtype, len(self.data))
        self.optimizers = LaneOptimizers(self.stack.params, configs)
        self.factor = like.new_ones(self.n_lanes)
        self.useful_flops = self.n_lanes * step_flops(workload)

    def step(self) -> None:
        """Do what `sweep.training.engine` does for a batch."""
        with record_function(BATCH):
            stages, labels = self.data.batch(torch.arange(len(self.data)), self.stack.like)
        with record_function(GRADIENTS):
            _, grads = self.stack.gradients(stages, labels, self.losses_of)
        with record_function(OPTIMIZER):
            self.optimizers.step(grads, self.factor)

    def state(self) -> list[dict[str, Tensor]]:
        """The trained weights, one dictionary a lane."""
        return [self.stack.lane_state(lane) for lane in range(self.n_lanes)]


class VmapDirect(_StackRow):
    """Trains by the torch.func recipe: `stack_module_state` and `vmap` over the direct form."""

    def __init__(self, workload: Workload, n_lanes: int):
        super().__init__(workload, [_direct(workload, lane) for lane in range(n_lanes)])


class SweepRow(_StackRow):
    """Trains as `sweep run` does on a GPU, and on a CPU in each of its parts."""

    def __init__(self, workload: Workload, n_lanes: int, first: int = 0):
        rank, spec = workload.sizes.rank, workload.spec
        lanes = [spec.lane(rank, workload.seed_of(lane)) for lane in range(first, first + n_lanes)]
        super().__init__(workload, lanes, first)

    @property
    def shared_product_flops(self) -> float:
        """Return the FLOPs of the shared products in a lane's step: queries, keys and values, forward and backward."""
        B, shape, r = self.workload.sizes.batch_size, self.workload.shape, self.workload.sizes.rank
        return 2.0 * 2 * (shape.n_stages - 1) * 3 * r * shape.width * B * shape.tokens


class SweepInParts:
    """Trains as `sweep run` does, see `sweep.training.parts`.

    Attributes:
        parts: The parts of the lanes that train at the same time.
    """

    def __init__(self, workload: Workload, n_lanes: int):
        lanes = shares(range(n_lanes), n_parts(n_lanes, workload.device))
        self.parts = [SweepRow(workload, len(part), part[0]) for part in lanes]
        self.workload, self.n_lanes = workload, n_lanes
        self.useful_flops = sum(part.useful_flops for part in self.parts)

    def step(self) -> None:
        """Take a step in every part at the same time."""

        def step_of(part: SweepRow, _: Check) -> None:
            part.step()

        at_once([partial(step_of, part) for part in self.parts])

    def state(self) -> list[dict[str, Tensor]]:
        """The trained weights, one dictionary a lane."""
        return [lane for part in self.parts for lane in part.state()]


class _OnImages(_PlainLoop):
    """Trains a copy of the backbone on images."""

    def __init__(self, backbone: nn.Module, workload: Workload):
        head = nn.Linear(workload.shape.width, N_CLASSES)
        super().__init__(nn.Sequential(backbone, head), workload, workload.configs[0])
        self.useful_flops = flops_of(self.step)

    def inputs(self) -> Tensor:
        """The images."""
        assert self.workload.images is not None
        return self.workload.images


def _own_vit(workload: Workload) -> nn.Module:
    assert workload.backbone is not None
    vit = copy.deepcopy(workload.backbone.network)
    for parameter in vit.parameters():
        parameter.requires_grad = True
    return vit.train()


def full_finetune(workload: Workload) -> Row:
    """Build the row that trains all weights of the backbone, and a head."""
    return _OnImages(_own_vit(workload), workload)


def lora(workload: Workload) -> Row:
    """Build the row that trains LoRA with the workload's rank, and a head."""
    return _OnImages(with_lora(_own_vit(workload), workload.sizes.rank), workload)


class LinearProbeRow(_PlainLoop):
    """Trains only a head on the pooled features of the last stage, one configuration at a time."""

    def __init__(self, workload: Workload):
        probe = pooled_probe(workload.spec, -1, workload.seed_of(0))
        super().__init__(probe, workload, workload.configs[0])
        tokens = slice(workload.shape.n_prefix_tokens, None)
        self.data = workload.features.pooled(tokens)
        self.useful_flops = 6.0 * workload.sizes.batch_size * workload.shape.width * N_CLASSES

    def inputs(self) -> list[Tensor]:
        """The pooled stages."""
        return self.data.batch(torch.arange(len(self.data)), next(self.module.parameters()))[0]


ROWS: dict[str, tuple[str, Callable[[Workload, int], Row]]] = {
    "sequential": ("one at a time, backbone in every step", lambda workload, n_lanes: Sequential(workload)),
    "sequential_cached": ("one at a time, cached features", lambda workload, n_lanes: SequentialCached(workload)),
    "vmap_direct": ("stack and vmap of the direct form, cached", VmapDirect),
    "sweep": ("what sweep run does", SweepInParts),
    "last": (
        "LAST of rank 8 after every block, as sweep run trains it",
        lambda workload, n_lanes: SweepInParts(workload.of_last, n_lanes),
    ),
    "lora": ("peft LoRA, one at a time", lambda workload, n_lanes: lora(workload)),
    "full_finetune": ("all weights, one at a time", lambda workload, n_lanes: full_finetune(workload)),
    "linear_probe": (
        "head alone on pooled features, one at a time",
        lambda workload, n_lanes: LinearProbeRow(workload),
    ),
}
"""For each row by name: its description, and a function that builds it for a number of lanes."""

ON_IMAGES = ("sequential", "lora", "full_finetune")
STACKED = ("vmap_direct", "sweep", "last")
SAME_WEIGHTS = ("sequential", "sequential_cached", "vmap_direct", "sweep")


def names_of_rows(workload: Workload) -> list[str]:
    """Return the rows to measure: LAST is a row of its own beside another family, and LoRA needs peft."""
    left_out = {"last"} if workload.spec.family == LAST else set()
    left_out |= set() if has_peft() else {"lora"}
    return [name for name in ROWS if name not in left_out]
