"""The optimizers and schedules of lanes, compared with `torch.optim` for each lane alone."""

from collections.abc import Sequence
from dataclasses import replace
from itertools import product

import pytest
import torch
from torch import Tensor
from torch.optim import lr_scheduler

from sweep.study.lane_config import LaneConfig
from sweep.training.optim import LaneAdamW, LaneOptimizers, LaneSGD, is_decayed
from sweep.training.schedule import schedule_factors

SHAPES = {
    "blocks.0.q.weight": (3, 4),
    "blocks.0.norm.weight": (4,),
    "blocks.0.norm.bias": (4,),
    "head.linear.weight": (2, 4),
    "head.linear.bias": (2,),
}
N_STEPS = 20

ADAMW = [
    LaneConfig(lr=lr, weight_decay=decay, beta1=beta1, beta2=beta2, eps=eps, optimizer="adamw")
    for lr, decay, (beta1, beta2), eps in product(
        (1e-4, 3e-2), (0, 0.05, 1.5), ((0.9, 0.999), (0.0, 0.9), (0.5, 0.99999), (0.99, 0.5), (0.0, 0.0)), (1e-8, 1e-2)
    )
]
SGD = [
    LaneConfig(lr=lr, weight_decay=decay, momentum=momentum, optimizer="sgd")
    for lr, decay, momentum in product((1e-3, 0.1), (0, 0.05, 1.5), (0, 0.5, 0.99))
]
# In fp32, a step rounds a parameter of size one by half of 1.2e-7. Two orders of operations differ by about as much.
# After 20 steps, this is a random walk of 20^0.5 * 1.2e-7. The rounding of beta is the same in a moment and in its bias
# correction, so it cancels. A wrong hyperparameter in any lane is off by more than 1e-5.
TOLERANCE = {torch.float64: 1e-12, torch.float32: 2e-6}


def starting_params(n_lanes: int, dtype: torch.dtype) -> dict[str, Tensor]:
    generator = torch.Generator().manual_seed(0)
    return {
        name: torch.randn(n_lanes, *shape, generator=generator, dtype=torch.float64).to(dtype)
        for name, shape in SHAPES.items()
    }


def gradients(n_lanes: int, dtype: torch.dtype) -> list[dict[str, Tensor]]:
    """Return a sequence of gradients. `eps` matters for its small ones and does not matter for its large ones."""
    generator = torch.Generator().manual_seed(1)

    def draw(shape: tuple[int, ...], size: float) -> Tensor:
        return (size * torch.randn(n_lanes, *shape, generator=generator, dtype=torch.float64)).to(dtype)

    return [{name: draw(shape, 10.0 ** (step % 4 - 2)) for name, shape in SHAPES.items()} for step in range(N_STEPS)]


def by_torch(
    config: LaneConfig, lane: int, params: dict[str, Tensor], grads: Sequence[dict[str, Tensor]], factors: Tensor
) -> dict[str, Tensor]:
    """Train the same lane alone with `torch.optim`."""
    own = {name: p[lane].clone().requires_grad_() for name, p in params.items()}
    groups = [
        {
            "params": [p],
            "lr": config.lr * (config.head_lr_ratio if name.startswith("head.") else 1),
            "weight_decay": config.weight_decay if p.dim() > 1 else 0,
        }
        for name, p in own.items()
    ]
    optimizer: torch.optim.Optimizer
    if config.optimizer == "adamw":
        optimizer = torch.optim.AdamW(groups, betas=(config.beta1, config.beta2), eps=config.eps)
    else:
        optimizer = torch.optim.SGD(groups, momentum=config.momentum)
    peaks = [group["lr"] for group in optimizer.param_groups]
    for of_step, factor in zip(grads, factors[:, lane].tolist(), strict=True):
        for group, peak in zip(optimizer.param_groups, peaks, strict=True):
            group["lr"] = peak * factor
        for name, p in own.items():
            p.grad = of_step[name][lane].clone()
        if config.clip_norm is not None:
            torch.nn.utils.clip_grad_norm_(own.values(), config.clip_norm)
        optimizer.step()
    return {name: p.detach() for name, p in own.items()}


def assert_lanes_are_torchs(configs: Sequence[LaneConfig], dtype: torch.dtype, factors: Tensor) -> None:
    start, grads = starting_params(len(configs), dtype), gradients(len(configs), dtype)
    params = {name: p.clone() for name, p in start.items()}
    optimizers = LaneOptimizers(params, configs)
    for of_step, factor in zip(grads, factors.to(dtype), strict=True):
        optimizers.step(of_step, factor)
    for lane, config in enumerate(configs):
        for name, expected in by_torch(config, lane, start, grads, factors).items():
            assert not torch.equal(expected, start[name][lane])
            tolerance = TOLERANCE[dtype]
            torch.testing.assert_close(
                params[name][lane],
                expected,
                rtol=tolerance,
                atol=tolerance,
                msg=lambda text, name=name, config=config: f"{name} of {config}: {text}",
            )


@pytest.mark.parametrize("dtype", [torch.float64, torch.float32])
@pytest.mark.parametrize("grid", [ADAMW, SGD], ids=["adamw", "sgd"])
@pytest.mark.parametrize("constant", [True, False], ids=["constant", "varying"])
def test_every_lane_of_a_grid_equals_torchs_run(grid: list[LaneConfig], dtype: torch.dtype, constant: bool) -> None:
    factors = torch.ones(N_STEPS, len(grid), dtype=torch.float64)
    if not constant:
        factors = torch.rand(factors.shape, generator=torch.Generator().manual_seed(3), dtype=torch.float64)
    assert_lanes_are_torchs(grid, dtype, factors)


@pytest.mark.parametrize("dtype", [torch.float64, torch.float32])
def test_mixed_optimizers_and_head_ratios_share_a_stack(dtype: torch.dtype) -> None:
    ratios = [0.1, 1, 7.5]
    pairs = zip(ADAMW[4:34:2], SGD * 2, strict=False)
    mixed = [config for pair in pairs for config in pair]
    configs = [replace(config, head_lr_ratio=ratios[i % 3]) for i, config in enumerate(mixed)]
    assert {config.optimizer for config in configs[:2]} == {"adamw", "sgd"}
    factors = torch.rand(N_STEPS, len(configs), generator=torch.Generator().manual_seed(4), dtype=torch.float64)
    assert_lanes_are_torchs(configs, dtype, factors)


@pytest.mark.parametrize("dtype", [torch.float64, torch.float32])
def test_every_lane_clips_to_its_own_norm_and_the_others_do_not(dtype: torch.dtype) -> None:
    """Gradients have lengths from 0.06 to 60. The norms clip all steps of a lane, some of them, or none."""
    norms = [0.02, 1.0, 10, 1e3, None, 0.5, None, 1e-4]
    configs = [replace(SGD[i], clip_norm=norm) for i, norm in enumerate(norms)]
    configs += [replace(ADAMW[2 * i], clip_norm=norm) for i, norm in enumerate(norms)]
    assert_lanes_are_torchs(configs, dtype, torch.ones(N_STEPS, len(configs), dtype=torch.float64))


@pytest.mark.parametrize("few", [0, 2**40], ids=["on threads", "inline"])
def test_compiled_steps_accept_gradients_of_any_layout(few: int, monkeypatch: pytest.MonkeyPatch) -> None:
    """The bits do not depend on whether gradients are transposed or expanded, nor on threads."""
    ends = []
    for as_they_lie in (False, True):
        monkeypatch.setattr("sweep.training.optim.FEW_NUMBERS", few if as_they_lie else 1)
        params = {"body": torch.ones(3, 4, 5), "head.linear.weight": torch.ones(3, 2, 6)}
        transposed = gradients(3, torch.float32)[0]["blocks.0.q.weight"].mT  # (3, 4, 3)
        grads = {
            "body": torch.nn.functional.pad(transposed, (0, 2)).mT.contiguous().mT,
            "head.linear.weight": torch.tensor([1.0, -2.0, 3.0]).view(3, 1, 1).expand(3, 2, 6),
        }
        assert not any(grad.is_contiguous() for grad in grads.values())
        optimizers = LaneOptimizers(params, ADAMW[:3])
        optimizers.step(grads if as_they_lie else {k: g.contiguous() for k, g in grads.items()}, torch.ones(3))
        ends.append(params)
    assert all(torch.equal(p, ends[1][name]) for name, p in ends[0].items())
    assert not (ends[0]["body"][..., :3] == 1).any()


def test_a_lane_that_does_not_clip_keeps_its_bits_whatever_its_gradients() -> None:
    """This holds even if the length of the gradient exceeds the range of single precision."""
    configs = [replace(SGD[1], clip_norm=norm) for norm in (None, 1.0)]
    ends = []
    for of_stack in (configs, configs[:1] * 2):
        params = starting_params(2, torch.float32)
        huge = {name: torch.full_like(p, 1e25) for name, p in params.items()}
        LaneOptimizers(params, of_stack).step(huge, torch.ones(2))
        ends.append(params)
    for name, p in ends[0].items():
        assert p[0].isfinite().all()
        assert torch.equal(p[0], ends[1][name][0])


@pytest.mark.parametrize("kind", [LaneAdamW, LaneSGD])
def test_head_and_body_rates_are_given_by_name(kind: type[LaneAdamW] | type[LaneSGD]) -> None:
    """A rate of zero changes no parameter, not even by decay, and other parameters are not affected."""
    start, grads = starting_params(2, torch.float64), gradients(2, torch.float64)
    params = {name: p.clone() for name, p in start.items()}
    optimizer = kind(params, [LaneConfig(lr=1, weight_decay=0.5)] * 2, decayed=params)
    rates = {name: torch.tensor([0.0, 0.1 * name.startswith("head.")], dtype=torch.float64) for name in params}
    for of_step in grads:
        optimizer.step(params, of_step, rates)
    for name, p in params.items():
        assert torch.equal(p[0], start[name][0])
        assert torch.equal(p[1], start[name][1]) != name.startswith("head.")


@pytest.mark.parametrize("optimizer", ["adamw", "sgd"])
def test_decay_shrinks_matrices_and_spares_biases_and_norms(optimizer: str) -> None:
    params = starting_params(2, torch.float64)
    start = {name: p.clone() for name, p in params.items()}
    zero = {name: torch.zeros_like(p) for name, p in params.items()}
    configs = [LaneConfig(lr=0.1, weight_decay=decay, optimizer=optimizer) for decay in (0.0, 0.5)]
    LaneOptimizers(params, configs).step(zero, torch.ones(2, dtype=torch.float64))
    for name, p in params.items():
        matrix = len(SHAPES[name]) == 2
        assert is_decayed(name, p) == matrix
        assert torch.equal(p[0], start[name][0])
        torch.testing.assert_close(p[1], start[name][1] * (0.95 if matrix else 1), rtol=1e-14, atol=0)


def test_lanes_of_a_mixed_stack_do_not_touch_each_other() -> None:
    configs = [ADAMW[5], SGD[7], ADAMW[20], SGD[11], ADAMW[40]]
    start, grads = starting_params(5, torch.float32), gradients(5, torch.float32)
    results = []
    for poison in (False, True):
        params = {name: p.clone() for name, p in start.items()}
        optimizers = LaneOptimizers(params, configs)
        for of_step in grads:
            own = {name: grad.clone() for name, grad in of_step.items()}
            if poison:
                for grad in own.values():
                    grad[1:3] = torch.nan
            optimizers.step(own, torch.ones(5))
        results.append(params)
    clean, poisoned = results
    for name in SHAPES:
        assert poisoned[name][1:3].isnan().all()
        for lane in (0, 3, 4):
            assert torch.equal(poisoned[name][lane], clean[name][lane])


@pytest.mark.parametrize("clip_norm", [None, 0.5])
@pytest.mark.parametrize("dtype", [torch.float64, torch.float32])
def test_flat_parameters_train_to_the_same_bits(dtype: torch.dtype, clip_norm: float | None) -> None:
    """Also with two kinds of optimizers, and from a state in the middle. Norms are sums in another order."""
    pairs = zip(ADAMW[4:24:2], SGD, strict=False)
    configs = [replace(config, clip_norm=clip_norm, head_lr_ratio=3) for pair in pairs for config in pair]
    factors = torch.rand(N_STEPS, len(configs), generator=torch.Generator().manual_seed(4)).to(dtype)
    grads = gradients(len(configs), dtype)
    params = {flat: starting_params(len(configs), dtype) for flat in (False, True)}
    states: dict[bool, list[dict[str, Tensor]]] = {}
    for flat, of_form in params.items():
        optimizers = LaneOptimizers(of_form, configs, flat)
        for step, (of_step, factor) in enumerate(zip(grads, factors, strict=True)):
            if step == N_STEPS // 2:  # the other form goes on from here
                states[flat] = optimizers.lane_states()
                optimizers = LaneOptimizers(of_form, configs, not flat)
                optimizers.load(states[flat])
            optimizers.step(of_step, factor)
    tolerance = 0.0 if clip_norm is None else TOLERANCE[dtype]
    for name, p in params[False].items():
        torch.testing.assert_close(params[True][name], p, rtol=tolerance, atol=tolerance)
    for ours, theirs in zip(states[True], states[False], strict=True):
        assert ours.keys() == theirs.keys()
        for name, tensor in theirs.items():
            torch.testing.assert_close(ours[name], tensor, rtol=tolerance, atol=tolerance)


@pytest.mark.parametrize(("optimizer", "dtype"), [("adamw", torch.float64), ("sgd", torch.float32)])
def test_flat_parameters_may_be_single_numbers_and_have_several_dtypes(optimizer: str, dtype: torch.dtype) -> None:
    config = LaneConfig(lr=0.1, optimizer=optimizer)
    ends = []
    for flat in (False, True):
        params = {
            "temperature": torch.ones(2, dtype=torch.float64),
            "head.bias": torch.ones(2, 3, dtype=dtype),
            "head.linear.weight": torch.ones(2, 3, 4, dtype=torch.float64),
        }
        before = dict(params)
        grads = {name: torch.full_like(p, 0.5) for name, p in params.items()}
        LaneOptimizers(params, [config] * 2, flat).step(grads, torch.ones(2, dtype=torch.float64))
        assert all(params[name] is p and (p < 1).all() for name, p in before.items()), "updated in place"
        ends.append(params)
    assert all(torch.equal(p, ends[1][name]) for name, p in ends[0].items())


def factors_of(scheduler_of: type[lr_scheduler.LRScheduler], n_steps: int, **arguments: object) -> list[float]:
    optimizer = torch.optim.SGD([torch.zeros(1, requires_grad=True)], lr=1.0)
    scheduler = scheduler_of(optimizer, **arguments)  # type: ignore[arg-type]
    factors = []
    for _ in range(n_steps):
        factors.append(optimizer.param_groups[0]["lr"])
        optimizer.step()
        scheduler.step()
    return factors


def one(schedule: str, warmup_epochs: float, n_steps: int, steps_per_epoch: int) -> Tensor:
    config = LaneConfig(lr=0.3, schedule=schedule, warmup_epochs=warmup_epochs)
    factors = schedule_factors([config], n_steps, steps_per_epoch)
    assert factors.shape == (n_steps, 1)
    assert factors.dtype == torch.float64
    return factors[:, 0]


def close(factors: Tensor, expected: Sequence[float]) -> None:
    torch.testing.assert_close(factors, torch.tensor(expected, dtype=torch.float64), rtol=1e-12, atol=1e-12)


@pytest.mark.parametrize("n_steps", [1, 2, 30])
def test_cosine_without_warm_up_is_cosine_annealing(n_steps: int) -> None:
    close(one("cosine", 0, n_steps, 10), factors_of(lr_scheduler.CosineAnnealingLR, n_steps, T_max=n_steps))


@pytest.mark.parametrize("n_steps", [1, 30])
def test_constant_without_warm_up_is_one(n_steps: int) -> None:
    assert torch.equal(one("constant", 0, n_steps, 10), torch.ones(n_steps, dtype=torch.float64))


@pytest.mark.parametrize(("warmup_epochs", "warmup"), [(0.2, 2), (1, 10), (2.5, 25), (0.27, 3)])
def test_constant_after_warm_up_is_linear_lr(warmup_epochs: float, warmup: int) -> None:
    expected = factors_of(lr_scheduler.LinearLR, 30, start_factor=1 / warmup, total_iters=warmup - 1)
    close(one("constant", warmup_epochs, 30, 10), expected)


@pytest.mark.parametrize(("warmup_epochs", "warmup"), [(0.1, 1), (1, 10), (2.5, 25), (2.9, 29)])
def test_cosine_after_warm_up_joins_the_two(warmup_epochs: float, warmup: int) -> None:
    factors = one("cosine", warmup_epochs, 30, 10)
    close(factors[:warmup], [(step + 1) / warmup for step in range(warmup)])
    close(factors[warmup:], factors_of(lr_scheduler.CosineAnnealingLR, 30 - warmup, T_max=30 - warmup))


@pytest.mark.parametrize("schedule", ["cosine", "constant"])
@pytest.mark.parametrize("warmup_epochs", [3, 3.4, 1000])
def test_warm_up_as_long_as_training_or_longer_climbs_to_the_end(schedule: str, warmup_epochs: float) -> None:
    expected = factors_of(lr_scheduler.LambdaLR, 30, lr_lambda=lambda step: (step + 1) / 30)
    close(one(schedule, warmup_epochs, 30, 10), expected)


def test_lanes_keep_their_own_schedules() -> None:
    configs = [
        LaneConfig(lr=1, schedule=schedule, warmup_epochs=epochs)
        for schedule, epochs in product(("cosine", "constant"), (0, 0.5, 9))
    ]
    together = schedule_factors(configs, 12, 4)
    for lane, config in enumerate(configs):
        assert torch.equal(together[:, lane], schedule_factors([config], 12, 4)[:, 0])
    # if the warm-up is longer than the training, both schedules are the same
    assert len({tuple(column.tolist()) for column in together.T}) == 5
