"""bf16 rounds only the factors of products. Gradients stay near those of fp32, and statistics are computed in fp32."""

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor

from sweep.features.batches import StageData
from sweep.side_networks import RankSpaceLAST, torch_kernels
from sweep.side_networks.attention import attention_of_heads, attention_of_matrices
from sweep.side_networks.rank_space_trunk import FrozenStreams
from sweep.side_networks.spec import SideNetworkSpec
from sweep.study.lane_config import LaneConfig
from sweep.training.engine import train
from sweep.training.stack import Stack

ROUNDING = 2.0**-8
"""The largest relative error of a number rounded to bf16 is half of this."""

N_CLASSES, BATCH, LANES = 5, 8, 3
LABELS = torch.arange(BATCH) % N_CLASSES


def some_stages(n_stages: int, tokens: int, width: int, offset: float = 0.0) -> list[Tensor]:
    generator = torch.Generator().manual_seed(0)
    return [offset + torch.randn(BATCH, tokens, width, generator=generator) for _ in range(n_stages)]


def lanes(n_stages: int, width: int, rank: int, dtype: torch.dtype | None) -> list[RankSpaceLAST]:
    """Return side-networks with random weights, as after training. No up-projection is zero."""
    modules = []
    for seed in range(LANES):
        torch.manual_seed(seed)
        module = RankSpaceLAST(width, n_stages, N_CLASSES, rank)
        with torch.no_grad():
            for name, parameter in module.named_parameters():
                if name.endswith("up.weight"):
                    parameter.normal_(std=0.2)
        module.product_dtype = dtype
        modules.append(module)
    return modules


def mean_losses(logits: Tensor, labels: Tensor) -> Tensor:
    return torch.stack([F.cross_entropy(lane, labels) for lane in logits])


def whole_gradient(stack: Stack, stages: list[Tensor]) -> Tensor:
    _, grads = stack.gradients(stages, LABELS, mean_losses)
    assert all(grad.dtype == stack.like.dtype for grad in grads.values())
    return torch.cat([grad.flatten(1) for grad in grads.values()], 1).double()


@pytest.mark.parametrize(("n_stages", "tokens", "width", "rank"), [(2, 5, 16, 1), (4, 17, 48, 3), (7, 9, 32, 8)])
def test_gradients_equal_those_of_fp64_up_to_the_rounding_of_bf16(
    n_stages: int, tokens: int, width: int, rank: int
) -> None:
    stages = some_stages(n_stages, tokens, width)
    exact = Stack([module.double() for module in lanes(n_stages, width, rank, None)])
    expected = whole_gradient(exact, [stage.double() for stage in stages])
    found = whole_gradient(Stack(lanes(n_stages, width, rank, torch.bfloat16)), stages)
    error = (found - expected).norm(dim=1) / expected.norm(dim=1)
    assert (error < 4 * ROUNDING).all(), error
    assert (error > ROUNDING / 100).all(), "nothing was rounded"


def test_statistics_are_fp32_even_if_tokens_share_a_large_offset() -> None:
    """At 200, bf16 has steps of 1. A stream of unit variance would be lost if it were rounded before it is centred."""
    plain = FrozenStreams.of(some_stages(3, 7, 32), modules_per_block=1, eps=1e-6)
    shifted = some_stages(3, 7, 32, offset=200.0)
    frozen = FrozenStreams.of(shifted, modules_per_block=1, eps=1e-6, dtype=torch.bfloat16)
    for square, expected in zip(frozen.squares, plain.squares, strict=True):
        assert square.dtype == torch.float32
        torch.testing.assert_close(square, expected, rtol=2e-5, atol=0)
    fp32 = Stack(lanes(3, 32, 4, None)).logits(shifted)
    bf16 = Stack(lanes(3, 32, 4, torch.bfloat16)).logits(shifted)
    assert ((bf16 - fp32).norm() / fp32.norm()).item() < ROUNDING


def _distance(a: dict[str, torch.Tensor], b: dict[str, torch.Tensor]) -> float:
    """Return the squared distance between the weights of two lanes."""
    return sum(float((p - b[name]).square().sum()) for name, p in a.items())


def test_training_ends_near_fp32() -> None:
    generator = torch.Generator().manual_seed(1)
    labels = torch.arange(48) % N_CLASSES
    stages = 0.5 * torch.randn(48, 4, 9, 24, generator=generator) + F.one_hot(labels, 24)[:, None, None]
    data = StageData(stages.half().numpy(), labels, N_CLASSES)
    configs = [LaneConfig(lr=1e-2, rank=4), LaneConfig(lr=1.5e-2, rank=2)]
    losses, states = {}, {}
    for precision in ("fp32", "bf16"):
        spec = SideNetworkSpec(24, 4, N_CLASSES, 0, 1, "mean", 4, precision=precision)
        modules = [spec.lane(config.rank, seed) for seed, config in enumerate(configs)]
        start = [{name: p.detach().clone() for name, p in module.named_parameters()} for module in modules]
        states[precision], results = train(modules, configs, data, data, n_epochs=8, batch_size=16, seed=0)
        losses[precision] = results[-1].train_loss
    assert (losses["fp32"] < 0.5).all(), "the lanes have to learn in this test"
    torch.testing.assert_close(losses["bf16"], losses["fp32"], rtol=4 * ROUNDING, atol=ROUNDING)
    moved = sum(_distance(lane, begun) for lane, begun in zip(states["fp32"], start, strict=True))
    apart = sum(_distance(lane, other) for lane, other in zip(states["fp32"], states["bf16"], strict=True))
    assert 0 < apart < 0.1**2 * moved


@pytest.mark.parametrize("rank", [1, 3, 8, 9])
def test_lanes_as_heads_equal_lanes_in_the_batch(rank: int) -> None:
    inputs = [torch.randn(4, 3, 11, rank, dtype=torch.float64).requires_grad_() for _ in range(3)]
    heads = attention_of_heads(*inputs)
    matrices = attention_of_matrices(*(x.transpose(0, 1).flatten(0, 1) for x in inputs))
    expected = matrices.unflatten(0, (3, 4)).transpose(0, 1)
    torch.testing.assert_close(heads, expected, rtol=1e-12, atol=1e-12)
    weights = torch.randn_like(heads)
    grads, expected_grads = (torch.autograd.grad((x * weights).sum(), inputs) for x in (heads, expected))
    for grad, expected_grad in zip(grads, expected_grads, strict=True):
        torch.testing.assert_close(grad, expected_grad, rtol=1e-11, atol=1e-12)


def test_kernels_with_lanes_as_heads() -> None:
    """With an explicit dtype, attention takes the path of a GPU, even if the dtype is the same."""
    qkv, grad = torch.randn(2, 9, 4, 7, dtype=torch.float64), torch.randn(2, 5, 4, 7, dtype=torch.float64)
    results = []
    for dtype in (None, torch.float64):
        attended = torch.zeros_like(grad)
        torch_kernels.attend(qkv, attended, 2, grad[:, 0], dtype)
        results.append((attended, torch_kernels.attend_backward(qkv, attended, grad, 2, grad[:, 0], dtype)))
    for heads, matrices in zip(results[1], results[0], strict=True):
        torch.testing.assert_close(heads, matrices, rtol=1e-11, atol=1e-12)
