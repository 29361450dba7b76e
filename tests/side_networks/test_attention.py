"""The attention kernel equals PyTorch's own, in parts, in stacks and in its gradients."""

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor
from torch.func import vmap

from sweep.side_networks import attention as attention_module
from sweep.side_networks.attention import MATRICES_AT_A_TIME, attention


def tensors(shapes: list[tuple[int, ...]], dtype: torch.dtype = torch.float64) -> list[Tensor]:
    generator = torch.Generator().manual_seed(0)
    return [torch.randn(shape, generator=generator, dtype=dtype).requires_grad_() for shape in shapes]


def reference(q: Tensor, k: Tensor, v: Tensor) -> Tensor:
    return F.scaled_dot_product_attention(q, k, v, scale=1.0)


def assert_same_with_gradients(
    value: Tensor, expected: Tensor, inputs: list[Tensor], rtol: float = 1e-11, atol: float = 1e-12
) -> None:
    weights = torch.randn(value.shape, generator=torch.Generator().manual_seed(1), dtype=value.dtype)
    torch.testing.assert_close(value, expected, rtol=rtol, atol=atol)
    grads = torch.autograd.grad((value * weights).sum(), inputs)
    expected_grads = torch.autograd.grad((expected * weights).sum(), inputs)
    for grad, expected_grad in zip(grads, expected_grads, strict=True):
        torch.testing.assert_close(grad, expected_grad, rtol=rtol, atol=atol)


BATCHES = [1, 5, MATRICES_AT_A_TIME, MATRICES_AT_A_TIME + 1, 3 * MATRICES_AT_A_TIME - 7]


@pytest.mark.parametrize("batch", BATCHES)
@pytest.mark.parametrize(("tokens", "rank"), [(1, 3), (7, 1), (11, 8)])
def test_equals_pytorchs_attention(batch: int, tokens: int, rank: int) -> None:
    inputs = tensors([(batch, tokens, rank)] * 3)
    assert_same_with_gradients(attention(*inputs), reference(*inputs), inputs)


@pytest.mark.parametrize("batch", BATCHES)
def test_equals_pytorchs_attention_in_single_precision(batch: int) -> None:
    inputs = tensors([(batch, 11, 8)] * 3, torch.float32)
    assert_same_with_gradients(attention(*inputs), reference(*inputs), inputs, rtol=1e-4, atol=1e-5)


def test_large_scores_do_not_overflow() -> None:
    q, k, v = tensors([(2, 5, 4)] * 3, torch.float32)
    out = attention(1e4 * q, k, v)
    assert out.isfinite().all()
    assert_same_with_gradients(out, reference(1e4 * q, k, v), [v], rtol=1e-5, atol=1e-5)


def test_transposed_inputs() -> None:
    bases = tensors([(6, 9, 4)] * 3)
    inputs = [base.permute(2, 1, 0) for base in bases]  # (4, 9, 6), not contiguous
    assert_same_with_gradients(attention(*inputs), reference(*inputs), bases)


@pytest.mark.parametrize(
    "in_dims",
    [(0, 0, 0), (None, 0, 0), (0, None, 0), (0, 0, None), (None, None, 0), (0, None, None), (1, 0, 2), (-1, 0, None)],
)
def test_lanes(in_dims: tuple[int | None, ...]) -> None:
    lanes, batch, tokens, rank = 3, 30, 5, 2  # 90 matrices, so that some parts hold matrices of two lanes
    bases = tensors([(lanes, batch, tokens, rank)] * 3)
    inputs = [
        base[0] if dim is None else base.movedim(0, dim).contiguous() for base, dim in zip(bases, in_dims, strict=True)
    ]
    of_lanes = [
        [x if dim is None else x.select(dim, lane) for x, dim in zip(inputs, in_dims, strict=True)]
        for lane in range(lanes)
    ]
    stacked = vmap(attention, in_dims=in_dims)(*inputs)
    assert_same_with_gradients(stacked, torch.stack([reference(*lane) for lane in of_lanes]), inputs)


def test_a_lane_has_the_same_bits_at_any_position() -> None:
    lanes = 7
    q, k, v = tensors([(lanes, 13, 6, 3)] * 3, torch.float32)
    grad = torch.randn(q.shape, generator=torch.Generator().manual_seed(2))
    stacked = vmap(attention)
    out = stacked(q, k, v)
    grads = torch.autograd.grad(out, (q, k, v), grad)
    order = torch.tensor([5, 0, 3])
    part = stacked(q[order], k[order], v[order])
    part_grads = torch.autograd.grad(part, (q, k, v), grad[order])
    assert torch.equal(part, out[order])
    for whole, own in zip(grads, part_grads, strict=True):
        assert torch.equal(own[order], whole[order])


@pytest.mark.parametrize("at_a_time", [1, 2, 64])
def test_gradcheck(at_a_time: int, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(attention_module, "MATRICES_AT_A_TIME", at_a_time)
    inputs = tensors([(5, 4, 3)] * 3)
    assert torch.autograd.gradcheck(attention, inputs)
    assert torch.autograd.gradcheck(
        vmap(attention, in_dims=(0, None, 0)), tensors([(2, 3, 4, 2), (3, 4, 2), (2, 3, 4, 2)])
    )
