"""Losses for several labels and for numbers, compared with PyTorch's and with formulas written by hand."""

from collections.abc import Callable
from itertools import cycle, islice

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor

from sweep.errors import UsageError
from sweep.study.lane_config import LaneConfig
from sweep.tasks.kinds import MULTI_LABEL, REGRESSION, TASK_KINDS, TaskKind
from sweep.tasks.lane_losses import LaneLosses
from sweep.tasks.losses import asymmetric, binary_one_vs_all, huber, squared_error
from sweep.training.plain_loop import plain_loss

N, B, C = 4, 11, 5
LABEL_LANES = [
    LaneConfig(lr=1, loss="bce"),
    LaneConfig(lr=1, loss="asymmetric"),
    LaneConfig(lr=1, loss="asymmetric", asymmetric_gamma_positive=1.5, asymmetric_margin=0.0),
    LaneConfig(lr=1, loss="asymmetric", asymmetric_gamma_negative=0.0, asymmetric_margin=0.2),
]
NUMBER_LANES = [
    LaneConfig(lr=1, loss="mse"),
    LaneConfig(lr=1, loss="huber"),
    LaneConfig(lr=1, loss="huber", huber_delta=0.1),
    LaneConfig(lr=1, loss="huber", huber_delta=20),
]
KINDS = pytest.mark.parametrize(("kind", "lanes"), [(MULTI_LABEL, LABEL_LANES), (REGRESSION, NUMBER_LANES)])


def some(*shape: int, seed: int = 5, scale: float = 3, dtype: torch.dtype = torch.float64) -> Tensor:
    return (scale * torch.randn(shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)).to(dtype)


def targets_of(kind: TaskKind, *shape: int, dtype: torch.dtype = torch.float64) -> Tensor:
    return (some(*shape, seed=6) > 1).to(dtype) if kind is MULTI_LABEL else some(*shape, seed=6, scale=1, dtype=dtype)


def assert_same_with_gradients(
    loss: Callable[[Tensor], Tensor], expected: Callable[[Tensor, int], Tensor], outputs: Tensor
) -> None:
    outputs = outputs.requires_grad_()
    value = loss(outputs)
    by_lane = torch.stack([expected(outputs[lane], lane) for lane in range(len(outputs))])
    torch.testing.assert_close(value, by_lane, rtol=1e-11, atol=1e-12)
    weights = torch.rand(value.shape, generator=torch.Generator().manual_seed(7), dtype=value.dtype)
    (grad,) = torch.autograd.grad((value * weights).sum(), outputs)
    (expected_grad,) = torch.autograd.grad((by_lane * weights).sum(), outputs)
    torch.testing.assert_close(grad, expected_grad, rtol=1e-9, atol=1e-12)


def test_binary_losses_of_several_labels_are_pytorchs() -> None:
    labels = targets_of(MULTI_LABEL, B, C)
    assert_same_with_gradients(
        lambda logits: binary_one_vs_all(logits, labels),
        lambda logits, _: F.binary_cross_entropy_with_logits(logits, labels, reduction="none").sum(-1),
        some(N, B, C),
    )


def test_asymmetric_is_its_formula() -> None:
    labels = targets_of(MULTI_LABEL, B, C)
    positive, negative, margin = torch.tensor([[0, 1, 2.5, 0], [4, 2, 0, 3], [0.05, 0, 0.2, 0.5]], dtype=torch.float64)

    def by_hand(logits: Tensor, lane: int) -> Tensor:
        p = logits.sigmoid()
        q = (p - margin[lane]).clamp(min=0)
        present, absent = (1 - p) ** positive[lane] * p.log(), q ** negative[lane] * (1 - q).log()
        return -torch.where(labels == 1, present, absent).sum(-1)

    assert_same_with_gradients(
        lambda logits: asymmetric(logits, labels, positive, negative, margin), by_hand, some(N, B, C)
    )


def test_asymmetric_without_asymmetry_is_binary_cross_entropy() -> None:
    zero, labels, logits = torch.zeros(N, dtype=torch.float64), targets_of(MULTI_LABEL, B, C), some(N, B, C)
    found = asymmetric(logits, labels, zero, zero, zero)
    torch.testing.assert_close(found, binary_one_vs_all(logits, labels), rtol=1e-12, atol=1e-14)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@pytest.mark.parametrize("logit", [0.0, 17.0, -17.0, 90.0, -90.0, 1000.0, -1000.0])
@pytest.mark.parametrize("margin", [0.0, 0.05])
def test_asymmetric_of_certain_answers_is_finite(dtype: torch.dtype, logit: float, margin: float) -> None:
    logits = torch.full((3, 1, 2), logit, dtype=dtype, requires_grad=True)
    gammas = torch.tensor([0, 0.5, 4], dtype=dtype)
    loss = asymmetric(logits, torch.tensor([[1.0, 0.0]], dtype=dtype), gammas, gammas, torch.full_like(gammas, margin))
    (grad,) = torch.autograd.grad(loss.sum(), logits)
    assert loss.isfinite().all()
    assert grad.isfinite().all()


def test_losses_of_numbers_are_pytorchs() -> None:
    targets, delta = targets_of(REGRESSION, B, C), torch.tensor([0.1, 1, 3, 50], dtype=torch.float64)
    assert_same_with_gradients(
        lambda values: squared_error(values, targets),
        lambda values, _: F.mse_loss(values, targets, reduction="none").mean(-1),
        some(N, B, C),
    )
    assert_same_with_gradients(
        lambda values: huber(values, targets, delta),
        lambda values, lane: F.huber_loss(values, targets, reduction="none", delta=delta[lane].item()).mean(-1),
        some(N, B, C),
    )


@KINDS
def test_a_mixed_stack_equals_the_plain_loss_of_every_lane(kind: TaskKind, lanes: list[LaneConfig]) -> None:
    assert {lane.loss for lane in lanes} == set(kind.losses)
    targets, counts = targets_of(kind, B, C), torch.ones(C, dtype=torch.float64)
    losses = LaneLosses(lanes, counts, torch.float64)
    assert_same_with_gradients(
        lambda outputs: losses(outputs, targets),
        lambda outputs, lane: plain_loss(lanes[lane], counts)(outputs, targets),
        some(len(lanes), B, C),
    )


@KINDS
@pytest.mark.parametrize(("batch", "outputs"), [(1, 1), (1, 3), (7, 2), (32, 1), (13, 47)])
def test_bits_do_not_depend_on_the_place_in_the_stack(
    kind: TaskKind, lanes: list[LaneConfig], batch: int, outputs: int
) -> None:
    configs = list(islice(cycle(lanes), 80))
    given = some(len(configs), batch, outputs, dtype=torch.float32)
    targets, counts = targets_of(kind, batch, outputs, dtype=torch.float32), torch.ones(outputs)

    def run(members: list[int]) -> tuple[Tensor, Tensor]:
        own = given[members].clone().requires_grad_()
        losses = LaneLosses([configs[i] for i in members], counts, torch.float32)(own, targets)
        (grad,) = torch.autograd.grad(losses.sum(), own)
        return losses.detach(), grad

    reference, reference_grad = run(list(range(80)))
    for members in ([0, 1], [3, 17], [5, 2, 42], list(reversed(range(80))), [i for i in range(80) if i % 4 == 2]):
        losses, grad = run(members)
        assert torch.equal(losses, reference[members]), members
        assert torch.equal(grad, reference_grad[members]), members


@pytest.mark.parametrize("kind", TASK_KINDS.values(), ids=TASK_KINDS)
def test_a_lane_takes_the_losses_of_its_task(kind: TaskKind) -> None:
    assert LaneConfig(lr=1).on(kind).loss == kind.losses[0]
    for loss in kind.losses:
        assert LaneConfig(lr=1, loss=loss).on(kind).loss == loss
    for other in TASK_KINDS.values():
        for loss in set(other.losses) - set(kind.losses):
            with pytest.raises(UsageError, match=f"'{loss}', .* kind {kind.name}, whose losses are {kind.losses[0]}"):
                LaneConfig(lr=1, loss=loss).on(kind)


@pytest.mark.parametrize(
    ("values", "message"),
    [
        ({"huber_delta": 0}, "huber_delta must be above 0"),
        ({"asymmetric_margin": 1.0}, "asymmetric_margin must be at least 0 and below 1"),
        ({"asymmetric_gamma_negative": -1}, "asymmetric_gamma_negative must not be negative"),
        ({"loss": "l1"}, "loss must be one of cross_entropy, .*, huber"),
        ({"loss": 3}, "loss must be of type str"),
    ],
)
def test_values_that_do_not_fit_the_task_are_refused(values: dict[str, object], message: str) -> None:
    with pytest.raises(UsageError, match=message):
        LaneConfig(lr=1, **values)
