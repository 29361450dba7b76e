"""The compiled kernels of the CPU against plain PyTorch."""

import numpy as np
import pytest
import torch
from torch import Tensor
from torch.func import vmap

from sweep.side_networks.cpu_attention import KEYS, attend, attend_backward
from sweep.side_networks.cpu_trunk import is_compiled, pooled_trunk
from sweep.side_networks.cpu_vector_math import exp
from sweep.side_networks.cpu_vectors import VECTOR, load, store
from sweep.side_networks.rank_space_trunk import FrozenStreams, trunk

LARGEST_RANK = 16


def drawn(*shape: int, seed: int = 0) -> Tensor:
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed))


def in_vectors(rows: Tensor) -> np.ndarray:
    """Rows of tokens, with zeros up to whole vectors."""
    return torch.nn.functional.pad(rows, (0, -rows.shape[-1] % VECTOR)).contiguous().numpy()


def attention_and_gradient(qkv: Tensor, grad: Tensor) -> tuple[Tensor, Tensor]:
    """Output `(r, L)` and the gradient of `qkv`, `(3r, L)`, by the kernels."""
    (rank, tokens), rows = grad.shape, in_vectors(qkv)
    ranks, stride = (0,) * rank, rows.shape[1]
    others = np.ones((2, stride), np.float32)  # rows in front that belong to another module
    out, d_out = (np.concatenate([others, x]) for x in (np.zeros((rank, stride), np.float32), in_vectors(grad)))
    log_sum, d_qkv = np.empty(stride, np.float32), np.zeros_like(rows)
    first = 2 * stride
    attend(ranks, rows.ravel(), stride, tokens, out.ravel(), first, log_sum)
    assert (out[:2] == 1).all()
    attend_backward(ranks, rows.ravel(), stride, tokens, out.ravel(), d_out.ravel(), first, log_sum, d_qkv.ravel())
    return torch.from_numpy(out[2:, :tokens]), torch.from_numpy(d_qkv[:, :tokens])


def expected_attention(qkv: Tensor, grad: Tensor) -> tuple[Tensor, Tensor]:
    leaf = qkv.double().requires_grad_()
    q, k, v = (x.T for x in leaf.chunk(3))
    out = (torch.softmax(q @ k.T, -1) @ v).T
    return out.detach().float(), torch.autograd.grad(out, leaf, grad.double())[0].float()


@pytest.mark.parametrize(("rank", "tokens"), [(3, 1), (3, 17), (8, KEYS + 5), (LARGEST_RANK, 23)])
def test_attention_and_its_gradient(rank: int, tokens: int) -> None:
    inputs = drawn(3 * rank, tokens), drawn(rank, tokens, seed=1)
    for ours, expected in zip(attention_and_gradient(*inputs), expected_attention(*inputs), strict=True):
        torch.testing.assert_close(ours, expected, rtol=1e-4, atol=3e-5)


def test_large_scores_neither_overflow_nor_vanish() -> None:
    qkv = drawn(9, KEYS + 17)
    qkv[:3] *= 1e4
    out, _ = attention_and_gradient(qkv, drawn(3, KEYS + 17, seed=1))
    torch.testing.assert_close(out, expected_attention(qkv, out)[0], rtol=1e-5, atol=1e-5)


def test_saturated_attention_gives_no_subnormal_gradients() -> None:
    qkv = drawn(9, 17)
    qkv[:3] *= 60  # scores from -100 to 100: some probabilities near the smallest normal number, and below
    _, grads = attention_and_gradient(qkv, 1e-6 * drawn(3, 17, seed=1))
    assert (grads == 0).any(), "nothing saturated"
    subnormal = (grads != 0) & (grads.abs() < torch.finfo(torch.float32).tiny)
    assert not subnormal.any()


def test_nan_is_not_hidden() -> None:
    qkv = drawn(9, 17)
    qkv[4] = torch.nan
    out, grads = attention_and_gradient(qkv, torch.ones(3, 17))
    assert out.isnan().all()
    assert grads.isnan().any()


def exponentials(x: np.ndarray) -> np.ndarray:
    import numba

    @numba.njit  # type: ignore[untyped-decorator]
    def kernel(x: np.ndarray, out: np.ndarray) -> None:
        for i in range(0, x.size, VECTOR):
            store(out, i, exp(load(x, i)))

    out = np.empty_like(x)
    kernel(x, out)
    return out


def test_exponential() -> None:
    x = np.linspace(-70, 1, 1000 * VECTOR, dtype=np.float32)
    x[:3] = np.nan, -np.inf, -1e30
    got, expected = exponentials(x), np.exp(x.astype(np.float64))
    assert np.isnan(got[0])
    assert not got[1:][x[1:] < -60].any()
    kept = x > -60
    assert np.abs(got[kept] / expected[kept] - 1).max() < 5e-6
    assert np.abs(got[kept] - expected[kept]).max() < 5e-7


MODULES, IMAGES = 4, 5


def trunk_inputs(rank: int, tokens: int, width: int, modules_per_block: int) -> tuple[list[Tensor], list[Tensor]]:
    """Stages, and of three lanes `W_γ`, `W β` and `Ũ` of every module."""
    stages = [1 + drawn(IMAGES, tokens, width, seed=i) for i in range(MODULES // modules_per_block + 1)]
    shapes = [(3 * rank, width)] * MODULES + [(3 * rank,)] * MODULES + [(rank, width)] * MODULES
    lanes = [drawn(3, *shape, seed=i) / width**0.5 for i, shape in enumerate(shapes)]
    lanes[2 * MODULES :] = [up - up.mean(-1, keepdim=True) for up in lanes[2 * MODULES :]]
    return stages, lanes


def pooled_by(kind: str, stages: list[Tensor], lanes: list[Tensor], modules_per_block: int, tokens: slice) -> Tensor:
    """Pooled attention of every lane, by either trunk."""
    frozen = FrozenStreams.of(stages, modules_per_block=modules_per_block, eps=1e-5)

    def of_lane(*tensors: Tensor) -> Tensor:
        parts = (tensors[:MODULES], tensors[MODULES : 2 * MODULES], tensors[2 * MODULES :])
        if kind == "compiled":
            return pooled_trunk(frozen, *parts, tokens)
        return trunk(frozen, *parts)[..., tokens].mean(-1)

    pooled: Tensor = vmap(of_lane)(*lanes)
    return pooled


@pytest.mark.parametrize(
    ("rank", "tokens", "width", "modules_per_block"),
    [(3, 7, 20, 1), (3, 1, 16, 2), (8, 2 * VECTOR, 32, 4), (8, KEYS + 5, 8, 1), (LARGEST_RANK, 9, 48, 2)],
)
def test_compiled_trunk_is_the_plain_one(rank: int, tokens: int, width: int, modules_per_block: int) -> None:
    stages, lanes = trunk_inputs(rank, tokens, width, modules_per_block)
    pool = slice(1 if tokens > 1 else 0, None)
    results = []
    for kind, dtype in (("compiled", torch.float32), ("plain", torch.float64)):
        leaves = [x.to(dtype).requires_grad_() for x in lanes]
        pooled = pooled_by(kind, [z.to(dtype) for z in stages], leaves, modules_per_block, pool)
        grads = torch.autograd.grad((pooled * drawn(*pooled.shape, seed=99)).sum(), leaves)
        results.append([pooled.detach(), *grads])
    for i, (ours, expected) in enumerate(zip(*results, strict=True)):
        # A lone token attends to itself whatever its query and key: their gradient is zero, up to rounding.
        assert (ours - expected).norm() <= 1e-5 * expected.norm() + 1e-6, f"result {i}"
    with torch.no_grad():
        torch.testing.assert_close(
            pooled_by("compiled", stages, lanes, modules_per_block, pool), results[0][0], rtol=1e-5, atol=1e-6
        )


def test_a_second_backward_pass_is_refused() -> None:
    stages, lanes = trunk_inputs(3, 7, 16, 1)
    leaves = [x.requires_grad_() for x in lanes]
    total = pooled_by("compiled", stages, leaves, 1, slice(None)).sum()
    torch.autograd.grad(total, leaves, retain_graph=True)
    with pytest.raises(RuntimeError, match="inplace operation"):
        torch.autograd.grad(total, leaves)


def test_what_is_compiled() -> None:
    cpu = torch.device("cpu")
    assert is_compiled(LARGEST_RANK, cpu, torch.float32)
    assert not is_compiled(LARGEST_RANK + 1, cpu, torch.float32)
    assert not is_compiled(8, cpu, torch.float64)
    assert not is_compiled(8, torch.device("cuda"), torch.float32)
