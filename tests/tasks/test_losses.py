"""The losses of lanes, compared with PyTorch's and with formulas written by hand."""

from collections.abc import Callable
from itertools import cycle, islice

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor

from sweep.study.lane_config import LaneConfig
from sweep.tasks.kinds import CLASSES
from sweep.tasks.lane_losses import LaneLosses
from sweep.tasks.losses import binary_one_vs_all, cross_entropy, focal, logit_adjusted

N, B, C = 4, 11, 6
GENERATOR_SEED = 5


def some_logits(n: int = N, b: int = B, c: int = C, dtype: torch.dtype = torch.float64) -> Tensor:
    generator = torch.Generator().manual_seed(GENERATOR_SEED)
    return (3 * torch.randn(n, b, c, generator=generator, dtype=torch.float64)).to(dtype).requires_grad_()


def some_labels(b: int = B, c: int = C) -> Tensor:
    return torch.randint(c, (b,), generator=torch.Generator().manual_seed(6))


def assert_same_with_gradients(
    loss: Callable[[Tensor], Tensor], expected: Callable[[Tensor, int], Tensor], logits: Tensor
) -> None:
    """Compare `loss` over all lanes with `expected`, which gets one lane's logits and the lane's number."""
    value = loss(logits)
    by_lane = torch.stack([expected(logits[lane], lane) for lane in range(len(logits))])
    torch.testing.assert_close(value, by_lane, rtol=1e-11, atol=1e-12)
    weights = torch.rand(value.shape, generator=torch.Generator().manual_seed(7), dtype=value.dtype)
    (grad,) = torch.autograd.grad((value * weights).sum(), logits)
    (expected_grad,) = torch.autograd.grad((by_lane * weights).sum(), logits)
    torch.testing.assert_close(grad, expected_grad, rtol=1e-10, atol=1e-12)


def test_cross_entropy_is_pytorchs() -> None:
    smoothing, labels = torch.tensor([0, 0.1, 0.5, 0.99], dtype=torch.float64), some_labels()
    assert_same_with_gradients(
        lambda logits: cross_entropy(logits, labels, smoothing),
        lambda logits, lane: F.cross_entropy(logits, labels, reduction="none", label_smoothing=smoothing[lane].item()),
        some_logits(),
    )


def test_focal_is_its_formula() -> None:
    gamma, labels = torch.tensor([0, 0.5, 2, 5], dtype=torch.float64), some_labels()

    def by_hand(logits: Tensor, lane: int) -> Tensor:
        p = logits.softmax(-1)[torch.arange(B), labels]
        return -((1 - p) ** gamma[lane]) * p.log()

    assert_same_with_gradients(lambda logits: focal(logits, labels, gamma), by_hand, some_logits())


def test_focal_without_focus_is_cross_entropy() -> None:
    zero, labels = torch.zeros(N, dtype=torch.float64), some_labels()
    logits = some_logits()
    torch.testing.assert_close(focal(logits, labels, zero), cross_entropy(logits, labels, zero), rtol=1e-14, atol=0)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@pytest.mark.parametrize("gamma", [0.0, 0.01, 0.5, 1.0, 2.0, 5.0])
@pytest.mark.parametrize("margin", [1e-3, 1.0, 10.0, 17.0, 40.0, 100.0, 1000.0])
def test_focal_of_certain_answers_is_finite(dtype: torch.dtype, gamma: float, margin: float) -> None:
    """Two answers have the same margin. If it is large, the right one costs nothing and the wrong one its margin."""
    logits = torch.tensor([[[margin, 0.0], [0.0, margin]]], dtype=dtype, requires_grad=True)
    loss = focal(logits, torch.tensor([0, 0]), torch.tensor([gamma], dtype=dtype))
    (grad,) = torch.autograd.grad(loss.sum(), logits)
    assert loss.isfinite().all()
    assert grad.isfinite().all()
    right, wrong = loss[0].tolist()
    if margin >= 40:
        assert abs(right) < 1e-15
        assert grad[0, 0].abs().max() < 1e-15 if gamma >= 1 else grad[0, 0].abs().max() < 1e-6
        assert wrong == pytest.approx(margin, rel=1e-6)
        torch.testing.assert_close(grad[0, 1], torch.tensor([-1, 1], dtype=dtype), rtol=1e-5, atol=1e-5)


def test_logit_adjusted_is_cross_entropy_of_shifted_logits() -> None:
    weight, labels = torch.tensor([0, 0.5, 1, 3], dtype=torch.float64), some_labels()
    log_prior = torch.tensor([0.4, 0.3, 0.15, 0.1, 0.04, 0.01], dtype=torch.float64).log()
    assert_same_with_gradients(
        lambda logits: logit_adjusted(logits, labels, weight, log_prior.expand(len(weight), -1)),
        lambda logits, lane: F.cross_entropy(logits + weight[lane] * log_prior, labels, reduction="none"),
        some_logits(),
    )


def test_an_empty_class_counts_as_one_image() -> None:
    counts, labels = torch.tensor([6, 0, 3, 0, 1, 1]), torch.tensor([0, 2, 4, 5, 0])
    losses = LaneLosses([LaneConfig(lr=1, loss="logit_adjusted", logit_adjustment=1.5)] * 2, counts, torch.float64)
    logits = some_logits(2, 5)
    prior = torch.tensor([6, 1, 3, 1, 1, 1], dtype=torch.float64) / 13
    assert_same_with_gradients(
        lambda logits: losses(logits, labels),
        lambda logits, _: F.cross_entropy(logits + 1.5 * prior.log(), labels),
        logits,
    )


def test_binary_one_vs_all_is_pytorchs() -> None:
    labels = some_labels()
    targets = F.one_hot(labels, C).double()
    assert_same_with_gradients(
        lambda logits: binary_one_vs_all(logits, labels),
        lambda logits, _: F.binary_cross_entropy_with_logits(logits, targets, reduction="none").sum(-1),
        some_logits(),
    )


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@pytest.mark.parametrize("logit", [0.0, -0.0, 1e-30, 30.0, -30.0, 300.0, -300.0])
def test_binary_one_vs_all_has_gradient_sigma_minus_target(logit: float, dtype: torch.dtype) -> None:
    logits = torch.full((2, 3, 4), logit, dtype=dtype, requires_grad=True)
    labels = torch.tensor([3, 0, 1])
    loss = binary_one_vs_all(logits, labels)
    assert loss.isfinite().all()
    (grad,) = torch.autograd.grad(loss.sum(), logits)
    expected = (torch.sigmoid(logits.detach()) - F.one_hot(labels, 4)).to(dtype)
    torch.testing.assert_close(grad, expected, rtol=0, atol=1.5e-7 if dtype == torch.float32 else 1e-15)


MIXED = [
    LaneConfig(lr=1, loss="bce"),
    LaneConfig(lr=1, loss="focal", focal_gamma=1.5),
    LaneConfig(lr=1, loss="cross_entropy", label_smoothing=0.3),
    LaneConfig(lr=1, loss="logit_adjusted", logit_adjustment=0.7),
    LaneConfig(lr=1, loss="focal", focal_gamma=4),
    LaneConfig(lr=1, loss="cross_entropy"),
    LaneConfig(lr=1, loss="bce"),
    LaneConfig(lr=1, loss="logit_adjusted", logit_adjustment=2),
]


def test_mixed_kinds_equal_each_alone() -> None:
    assert {config.loss for config in MIXED} == set(CLASSES.losses)
    labels = some_labels()
    counts = torch.bincount(labels, minlength=C)
    log_prior = (counts.clamp_min(1) / counts.clamp_min(1).sum(dtype=torch.float64)).log()
    targets = F.one_hot(labels, C).double()

    def alone(logits: Tensor, lane: int) -> Tensor:
        config = MIXED[lane]
        if config.loss == "cross_entropy":
            return F.cross_entropy(logits, labels, label_smoothing=config.label_smoothing)
        if config.loss == "logit_adjusted":
            return F.cross_entropy(logits + config.logit_adjustment * log_prior, labels)
        if config.loss == "focal":
            p = logits.softmax(-1)[torch.arange(B), labels]
            return (-((1 - p) ** config.focal_gamma) * p.log()).mean()
        return C * F.binary_cross_entropy_with_logits(logits, targets)

    losses = LaneLosses(MIXED, counts, torch.float64)
    assert_same_with_gradients(lambda logits: losses(logits, labels), alone, some_logits(len(MIXED)))


def test_unused_kinds_are_not_computed(monkeypatch: pytest.MonkeyPatch) -> None:
    def fail(*_: object) -> Tensor:
        raise AssertionError("no lane asked for this loss")

    for name in ("focal", "logit_adjusted", "binary_one_vs_all"):
        monkeypatch.setattr(f"sweep.tasks.lane_losses.{name}", fail)
    losses = LaneLosses([LaneConfig(lr=1)] * 3, torch.ones(C), torch.float64)
    assert losses(some_logits(3), some_labels()).shape == (3,)
    with pytest.raises(AssertionError, match="no lane asked"):
        LaneLosses([LaneConfig(lr=1, loss="focal")], torch.ones(C), torch.float64)(some_logits(1), some_labels())


def test_a_diverged_lane_affects_no_other() -> None:
    labels, counts = some_labels(), torch.ones(C)
    logits = some_logits(len(MIXED), dtype=torch.float32)
    wild = logits.detach().clone()
    wild[1], wild[3, 0, 0], wild[0] = torch.nan, torch.inf, -torch.inf
    wild.requires_grad_()
    losses = LaneLosses(MIXED, counts, torch.float32)
    healthy, broken = losses(logits, labels), losses(wild, labels)
    (grad,), (wild_grad,) = torch.autograd.grad(healthy.sum(), logits), torch.autograd.grad(broken.sum(), wild)
    assert not broken[[0, 1, 3]].isfinite().any()
    for lane in (2, 4, 5, 6, 7):
        assert torch.equal(broken[lane], healthy[lane])
        assert torch.equal(wild_grad[lane], grad[lane])


N_LANES = 80  # a kind with 20 lanes is longer than a vector register, a kind with two is shorter


@pytest.mark.parametrize(("batch", "classes"), [(1, 2), (7, 3), (32, 10), (13, 47), (32, 100)])
def test_bits_do_not_depend_on_the_place_in_the_stack(batch: int, classes: int) -> None:
    """Every trial of a wide stack has the same bits in narrower, reordered and regrouped stacks."""
    configs = list(islice(cycle(MIXED), N_LANES))
    labels, counts = some_labels(batch, classes), torch.ones(classes)
    logits = some_logits(len(configs), batch, classes, torch.float32)

    def run(lanes: list[int]) -> tuple[Tensor, Tensor]:
        own = logits[lanes].detach().clone().requires_grad_()
        losses = LaneLosses([configs[i] for i in lanes], counts, torch.float32)(own, labels)
        (grad,) = torch.autograd.grad(losses.sum(), own)
        return losses.detach(), grad

    reference, reference_grad = run(list(range(N_LANES)))
    stacks = [[a, b] for a in range(8) for b in (8, 17)] + [
        [3, 1, 18],
        [9, 17, 1, 4, 12],
        list(reversed(range(N_LANES))),
    ]
    stacks += [[i for i in range(N_LANES) if configs[i].loss == kind] for kind in CLASSES.losses]
    for lanes in stacks:
        losses, grad = run(lanes)
        assert torch.equal(losses, reference[lanes]), lanes
        assert torch.equal(grad, reference_grad[lanes]), lanes


@pytest.mark.parametrize("kind", CLASSES.losses)
def test_bits_of_one_image_do_not_depend_on_the_place_in_a_wide_stack(kind: str) -> None:
    """In a last batch of one image, a kernel runs over the lanes. With `pow`, 1 lane in 60 would differ."""
    n_lanes, classes = 400, 3
    config = LaneConfig(lr=1, loss=kind, focal_gamma=1.5, logit_adjustment=0.7)
    logits, label, counts = some_logits(n_lanes, 1, classes, torch.float32), torch.tensor([1]), torch.ones(classes)

    def run(logits: Tensor) -> tuple[Tensor, Tensor]:
        own = logits.detach().clone().requires_grad_()
        losses = LaneLosses([config] * len(own), counts, torch.float32)(own, label)
        (grad,) = torch.autograd.grad(losses.sum(), own)
        return losses.detach(), grad

    losses, grad = run(logits)
    pairs = [run(pair) for pair in logits.split(2)]
    assert torch.equal(torch.cat([of_pair for of_pair, _ in pairs]), losses)
    assert torch.equal(torch.cat([of_pair for _, of_pair in pairs]), grad)
