"""Lane-wise optimizers: the update rules of `torch.optim`, with each hyperparameter a tensor over lanes.

`torch.optim` has one learning rate for all parameters of a group, so a stack needs its own optimizers. Each class here
is tested against its `torch.optim` counterpart over a grid of hyperparameters.
"""

from collections.abc import Collection, Mapping, Sequence

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from sweep.side_networks.cpu.compile import has_kernels
from sweep.side_networks.cpu.tasks import on_threads
from sweep.study.lane_config import LaneConfig
from sweep.training.cpu_adamw import adamw_step
from sweep.training.flat import FlatParameters
from sweep.training.rank_penalty import RankPenalty

Params = dict[str, Tensor]

FEW_NUMBERS = 2**18
"""If all lanes together have fewer parameters, one thread updates them."""

CLIPPING_EPS = 1e-6
"""Added to a gradient's norm before dividing by it, as PyTorch does."""


class _LaneHyperparameters:
    """Hyperparameters of some lanes as tensors that broadcast over a stacked parameter."""

    def __init__(self, configs: Sequence[LaneConfig], like: Tensor):
        self.configs = configs
        self.like = like

    def __call__(self, name: str) -> Tensor:
        values = [getattr(config, name) for config in self.configs]
        return torch.tensor(values, dtype=self.like.dtype, device=self.like.device)


def _over(lanes: Tensor, parameter: Tensor) -> Tensor:
    """A tensor over lanes `(N,)`, shaped to broadcast over a parameter `(N, ...)`."""
    return lanes.view(-1, *(1,) * (parameter.dim() - 1))


def is_decayed(name: str, parameter: Tensor) -> bool:
    """Whether weight decay applies to a stacked parameter: to matrices, but not to biases, norms or positions.

    Args:
        name: The parameter's name. The name of a table of positions ends in `positions`.
        parameter: The stacked parameter, `(N, ...)`.
    """
    return parameter.dim() > 2 and not name.endswith("positions")


class LaneAdamW:
    """AdamW (Loshchilov & Hutter 2019) with one value of every hyperparameter per lane.

    Args:
        params: Stacked parameters, each `(N, ...)`; updated in place.
        configs: `N` lanes.
        decayed: Names of the parameters that weight decay applies to.
    """

    def __init__(self, params: Params, configs: Sequence[LaneConfig], decayed: Collection[str]):
        self.decayed = decayed
        of = _LaneHyperparameters(configs, next(iter(params.values())))
        self.beta1, self.beta2, self.eps = of("beta1"), of("beta2"), of("eps")
        self.weight_decay = of("weight_decay")
        self.beta1_power = torch.ones_like(self.beta1, dtype=torch.float64)
        self.beta2_power = torch.ones_like(self.beta2, dtype=torch.float64)
        self.mean = {name: torch.zeros_like(p) for name, p in params.items()}
        self.square = {name: torch.zeros_like(p) for name, p in params.items()}

    def state(self) -> dict[str, Tensor]:
        """The optimizer's state by name, each `(N, ...)`. The tensors are not copies."""
        return {
            "beta1_power": self.beta1_power,
            "beta2_power": self.beta2_power,
            **{f"mean.{name}": tensor for name, tensor in self.mean.items()},
            **{f"square.{name}": tensor for name, tensor in self.square.items()},
        }

    @torch.no_grad()
    def step(self, params: Params, grads: Mapping[str, Tensor], lr: Mapping[str, Tensor]) -> None:
        """One update.

        Args:
            params: Stacked parameters, each `(N, ...)`; updated in place.
            grads: Gradients by parameter name, each `(N, ...)`.
            lr: Learning rates by parameter name, each `(N,)`.
        """
        debias1 = (1 - self.beta1_power.mul_(self.beta1)).to(self.beta1)
        debias2 = (1 - self.beta2_power.mul_(self.beta2)).sqrt().to(self.beta2)
        if has_kernels(self.beta1.device, self.beta1.dtype):
            self._compiled_step(params, grads, lr, debias1, debias2)
            return
        for name, p in params.items():
            grad, mean, square = grads[name], self.mean[name], self.square[name]
            if name in self.decayed:
                p.mul_(_over(1 - lr[name] * self.weight_decay, p))
            mean.lerp_(grad, _over(1 - self.beta1, p))
            square.mul_(_over(self.beta2, p)).add_(grad.square().mul_(_over(1 - self.beta2, p)))
            denominator = square.sqrt().div_(_over(debias2, p)).add_(_over(self.eps, p))
            p.sub_((mean / denominator).mul_(_over(lr[name] / debias1, p)))

    def _compiled_step(
        self, params: Params, grads: Mapping[str, Tensor], lr: Mapping[str, Tensor], debias1: Tensor, debias2: Tensor
    ) -> None:
        """The same update in one pass over every parameter, with the lanes divided among threads."""
        of_lanes = [x.numpy() for x in (self.beta1, self.beta2, debias2, self.eps)]
        none, arguments = torch.ones_like(debias1), []
        rates: dict[
            tuple[int, bool], list[npt.NDArray[np.float32]]
        ] = {}  # few parameters have a learning rate of their own
        for name, p in params.items():
            kind = id(lr[name]), name in self.decayed
            if kind not in rates:
                decay = 1 - lr[name] * self.weight_decay if name in self.decayed else none
                rates[kind] = [x.numpy() for x in (decay, lr[name] / debias1)]
            tensors = (p, grads[name].contiguous(), self.mean[name], self.square[name])
            rows = (x.view(len(none), -1).numpy() for x in tensors)
            arguments.append([*rows, *rates[kind], *of_lanes])
            torch.autograd.graph.increment_version(p)

        def update(first: int, last: int) -> None:
            for of_parameter in arguments:
                adamw_step(first, last, *of_parameter)

        if sum(p.numel() for p in params.values()) < FEW_NUMBERS:
            update(0, len(debias1))
        else:
            on_threads(update, len(debias1), shares=1)


class LaneSGD:
    """SGD with momentum, with one value of every hyperparameter per lane; arguments as `LaneAdamW`."""

    def __init__(self, params: Params, configs: Sequence[LaneConfig], decayed: Collection[str]):
        self.decayed = decayed
        of = _LaneHyperparameters(configs, next(iter(params.values())))
        self.momentum, self.weight_decay = of("momentum"), of("weight_decay")
        self.velocity = {name: torch.zeros_like(p) for name, p in params.items()}

    def state(self) -> dict[str, Tensor]:
        """The optimizer's state; see `LaneAdamW.state`."""
        return {f"velocity.{name}": tensor for name, tensor in self.velocity.items()}

    @torch.no_grad()
    def step(self, params: Params, grads: Mapping[str, Tensor], lr: Mapping[str, Tensor]) -> None:
        """One update; arguments as `LaneAdamW.step`."""
        for name, p in params.items():
            grad, velocity = grads[name], self.velocity[name]
            if name in self.decayed:
                grad = grad + _over(self.weight_decay, p) * p
            velocity.mul_(_over(self.momentum, p)).add_(grad)
            p.sub_(_over(lr[name], p) * velocity)


class LaneClipping:
    """`torch.nn.utils.clip_grad_norm_` for every lane with its own norm. Lanes without a norm are not clipped.

    Args:
        configs: `N` lanes.
        like: A stacked parameter.
    """

    def __init__(self, configs: Sequence[LaneConfig], like: Tensor):
        norms = [config.clip_norm for config in configs]
        self.clips = torch.tensor([norm is not None for norm in norms], device=like.device)
        self.norms = torch.tensor([norm or 1.0 for norm in norms], dtype=like.dtype, device=like.device)

    def __call__(self, grads: Mapping[str, Tensor]) -> dict[str, Tensor]:
        """Clipped gradients by parameter name, each `(N, ...)`."""
        of_parameters = [torch.linalg.vector_norm(grad.flatten(1), dim=1) for grad in grads.values()]
        lengths = torch.linalg.vector_norm(torch.stack(of_parameters, 1), dim=1)
        factor = torch.where(self.clips, (self.norms / (lengths + CLIPPING_EPS)).clamp(max=1), 1)
        return {name: grad * _over(factor, grad) for name, grad in grads.items()}


_OPTIMIZERS: dict[str, type[LaneAdamW] | type[LaneSGD]] = {"adamw": LaneAdamW, "sgd": LaneSGD}


_DECAYED = ".decayed"
"""The end of the name of every group that weight decay applies to."""


def _group_of(name: str, parameter: Tensor) -> str:
    """The group of parameters that have one dtype and one learning rate, and decay or do not."""
    part = "head" if name.startswith("head.") else "body"
    return f"{part}.{parameter.dtype}" + (_DECAYED if is_decayed(name, parameter) else "")


class LaneOptimizers:
    """The optimizers of a stack. Each lane has its own kind. The penalty on the gates of a learned rank is added here.

    On a GPU the parameters become parts of a few matrices, see `FlatParameters`. Every number is the same as without
    them, except for the last bits of the gradients' norms by which lanes are clipped: they are sums in another order.

    Args:
        params: Stacked parameters by name, each `(N, ...)`; updated in place. Those whose names begin with `head.` have
            the learning rate `lr * head_lr_ratio`.
        configs: `N` lanes.
        flat: Whether to use a few matrices. If not given, they are used on every device but the CPU, which has a
            compiled update of its own.
    """

    def __init__(self, params: Params, configs: Sequence[LaneConfig], flat: bool | None = None):
        of = _LaneHyperparameters(configs, next(iter(params.values())))
        lr, head_lr = of("lr"), of("lr") * of("head_lr_ratio")
        decayed = {name for name, p in params.items() if is_decayed(name, p)}
        self.rank_penalty = RankPenalty(params, configs)
        self.flat: FlatParameters | None = None
        if lr.device.type != "cpu" if flat is None else flat:
            self.flat = FlatParameters(params, _group_of)
            params = self.flat.matrices
            decayed = {group for group in params if group.endswith(_DECAYED)}
        self.params = params
        clips = any(config.clip_norm is not None for config in configs)
        self.clipping = LaneClipping(configs, lr) if clips else None
        self.peak_lr = {name: head_lr if name.startswith("head.") else lr for name in params}
        self.groups: list[tuple[Tensor, LaneAdamW | LaneSGD]] = []
        for kind in sorted({config.optimizer for config in configs}):
            members = [lane for lane, config in enumerate(configs) if config.optimizer == kind]
            lanes = torch.tensor(members, device=lr.device)
            subset = {name: p[lanes] for name, p in params.items()}
            optimizer = _OPTIMIZERS[kind](subset, [configs[lane] for lane in members], decayed)
            self.groups.append((lanes, optimizer))

    def lane_states(self) -> list[dict[str, Tensor]]:
        """A copy of every lane's state by name, for `load`. Lanes with the same optimizer have the same names."""
        states: dict[int, dict[str, Tensor]] = {}
        for lanes, optimizer in self.groups:
            live = self._state(optimizer)
            for i, lane in enumerate(lanes.tolist()):
                states[lane] = {name: tensor[i].clone() for name, tensor in live.items()}
        return [states[lane] for lane in sorted(states)]

    def load(self, states: Sequence[Mapping[str, Tensor]]) -> None:
        """Restore the states of lanes: one state per lane, which is empty for a new lane."""
        for lanes, optimizer in self.groups:
            for name, tensor in self._state(optimizer).items():
                for i, lane in enumerate(lanes.tolist()):
                    if states[lane]:
                        tensor[i] = states[lane][name]

    def _state(self, optimizer: LaneAdamW | LaneSGD) -> dict[str, Tensor]:
        """An optimizer's state by the names of parameters, also if it works on matrices. The tensors are not copies."""
        live = optimizer.state()
        if self.flat is None:
            return live
        named: dict[str, Tensor] = {}
        for name, tensor in live.items():
            moment, _, group = name.partition(".")
            parts = self.flat.views(group, tensor) if group else {}
            named |= {f"{moment}.{parameter}": part for parameter, part in parts.items()} or {name: tensor}
        return named

    @torch.no_grad()
    def step(self, grads: Mapping[str, Tensor], factor: Tensor, resting: Sequence[int] = ()) -> None:
        """Update every lane.

        Args:
            grads: Gradients by parameter name, each `(N, ...)`.
            factor: The schedules' factors on the peak learning rates, `(N,)`.
            resting: Lanes that stay as they are, with their optimizers: a zero gradient would still decay weights and
                move them on by their momentum.
        """
        grads = self.rank_penalty(grads)
        if self.flat is not None:
            grads = self.flat.flat(grads)
        if not resting:
            self._update(grads, factor)
            return
        states = self.lane_states()
        weights = {name: p[list(resting)].clone() for name, p in self.params.items()}
        self._update(grads, factor)
        self.load([state if lane in resting else {} for lane, state in enumerate(states)])
        for name, p in self.params.items():
            p[list(resting)] = weights[name]

    def _update(self, grads: Mapping[str, Tensor], factor: Tensor) -> None:
        lr_of_peak = {id(peak): peak * factor for peak in self.peak_lr.values()}
        lr = {name: lr_of_peak[id(peak)] for name, peak in self.peak_lr.items()}
        if self.clipping is not None:
            grads = self.clipping(grads)
        if len(self.groups) == 1:
            self.groups[0][1].step(self.params, grads, lr)
            return
        for lanes, optimizer in self.groups:
            subset = {name: p[lanes] for name, p in self.params.items()}
            optimizer.step(
                subset,
                {name: grad[lanes] for name, grad in grads.items()},
                {name: rates[lanes] for name, rates in lr.items()},
            )
            for name, p in subset.items():
                self.params[name].index_copy_(0, lanes, p)
