"""The compiled kernels of the CPU against the plain PyTorch ones."""

import pytest
import torch
from torch import Tensor

from sweep.side_networks import cpu_kernels, torch_kernels
from sweep.side_networks.cpu_attention import LARGEST_BLOCK, MAX_UNROLLED_RANK

LANES, IMAGES = 2, 3


def drawn(*shape: int, seed: int = 0) -> Tensor:
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed))


@pytest.mark.parametrize(("rank", "tokens"), [(1, 1), (3, 17), (2, LARGEST_BLOCK + 5), (MAX_UNROLLED_RANK + 1, 5)])
def test_attention_and_its_gradient(rank: int, tokens: int) -> None:
    qkv = drawn(LANES, 3 * rank, IMAGES, tokens)
    others = 2  # rows in front that belong to another module
    grad = drawn(LANES, others + rank, IMAGES, tokens, seed=1)
    results = []
    for kernels in (cpu_kernels, torch_kernels):
        attended = torch.zeros(LANES, others + rank, IMAGES, tokens)
        log_sum = torch.empty(LANES, IMAGES, tokens)
        kernels.attend(qkv, attended, others, log_sum)
        results.append((attended, kernels.attend_backward(qkv, attended, grad, others, log_sum)))
    (ours, our_grad), (expected, expected_grad) = results
    assert not ours[:, :others].any()
    torch.testing.assert_close(ours, expected, rtol=1e-5, atol=1e-6)
    torch.testing.assert_close(our_grad, expected_grad, rtol=1e-4, atol=1e-5)


def test_large_scores_neither_overflow_nor_vanish() -> None:
    qkv = drawn(LANES, 9, IMAGES, 17)
    qkv[:, :3] *= 1e4
    attended, log_sum = torch.empty(LANES, 3, IMAGES, 17), torch.empty(LANES, IMAGES, 17)
    cpu_kernels.attend(qkv, attended, 0, log_sum)
    expected = torch.empty_like(attended)
    torch_kernels.attend(qkv, expected, 0, log_sum.clone())
    torch.testing.assert_close(attended, expected, rtol=1e-5, atol=1e-5)


def test_saturated_attention_gives_no_subnormal_gradients() -> None:
    qkv = drawn(LANES, 9, IMAGES, 17)
    qkv[:, :3] *= 60  # scores from -100 to 100: some probabilities near the smallest normal number, and below
    attended, log_sum = torch.empty(LANES, 3, IMAGES, 17), torch.empty(LANES, IMAGES, 17)
    cpu_kernels.attend(qkv, attended, 0, log_sum)
    grad = 1e-6 * drawn(LANES, 3, IMAGES, 17, seed=1)
    grads = cpu_kernels.attend_backward(qkv, attended, grad, 0, log_sum)
    assert (grads == 0).any(), "nothing saturated"
    subnormal = (grads != 0) & (grads.abs() < torch.finfo(torch.float32).tiny)
    assert not subnormal.any()


def test_nan_stays_in_its_lane_and_is_not_hidden() -> None:
    qkv = drawn(LANES, 9, IMAGES, 17)
    healthy, log_sum = torch.empty(LANES, 3, IMAGES, 17), torch.empty(LANES, IMAGES, 17)
    cpu_kernels.attend(qkv, healthy, 0, log_sum)
    qkv[0, 4] = torch.nan
    attended = torch.empty_like(healthy)
    cpu_kernels.attend(qkv, attended, 0, log_sum)
    assert attended[0].isnan().all()
    assert torch.equal(attended[1], healthy[1])
    grads = cpu_kernels.attend_backward(qkv, attended, torch.ones_like(attended), 0, log_sum)
    assert grads[0].isnan().any()
    assert grads[1].isfinite().all()


@pytest.mark.parametrize("before", [0, 1, 3])
def test_normalisation_and_its_gradient(before: int) -> None:
    rank, tokens, width, eps = 2, 7, 11, 1e-5
    shape = (IMAGES, tokens)
    inputs = [
        drawn(LANES, 3 * rank, *shape),
        drawn(LANES, 4 * rank, *shape, seed=1),
        0.1 * drawn(before, LANES, rank, *shape, seed=2),
        0.1 * drawn(LANES, rank, *shape, seed=3),
        drawn(LANES, *shape, seed=4).abs(),
        10 + drawn(*shape, seed=5).abs(),
        drawn(LANES, 3 * rank, seed=6),
    ]
    results = []
    for kernels in (cpu_kernels, torch_kernels):
        qkv, attended, products, streams, quadratic, square, bias = (x.clone() for x in inputs)
        inverse = torch.empty(LANES, *shape)
        kernels.normalise(qkv, attended, products, streams, quadratic, square, bias, inverse, width, eps)
        d_qkv, d_attended = drawn(*qkv.shape, seed=7), drawn(*attended.shape, seed=8)
        d_quadratic = drawn(*quadratic.shape, seed=9)
        d_products, d_streams = torch.zeros_like(products), torch.zeros_like(streams)
        d_bias = kernels.normalise_backward(
            d_qkv,
            qkv,
            attended,
            d_attended,
            products,
            streams,
            d_quadratic,
            bias,
            inverse,
            width,
            d_products,
            d_streams,
        )
        results.append([qkv, quadratic, inverse, d_qkv, d_attended, d_quadratic, d_products, d_streams, d_bias])
    for ours, expected in zip(*results, strict=True):
        torch.testing.assert_close(ours, expected, rtol=1e-5, atol=1e-5)
