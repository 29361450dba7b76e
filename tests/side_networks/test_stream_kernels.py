"""The compiled CPU kernels for larger ranks, compared with plain PyTorch."""

from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor

from sweep.side_networks.cpu import stream_trunk
from sweep.side_networks.cpu.attention import hidden_keys
from sweep.side_networks.cpu.stream_trunk import FEWEST_RANKS, _divided, pooled_streams
from sweep.side_networks.cpu.tiles import ROWS, multiply
from sweep.side_networks.cpu.vectors import VECTOR, loads, store_rows, transposed
from sweep.side_networks.cpu.wide_attention import QUERIES, attend_wide, attend_wide_backward
from sweep.side_networks.rank_space_trunk import FrozenStreams, trunk


def drawn(*shape: int, seed: int = 0) -> Tensor:
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed))


def in_panels(x: Tensor) -> Tensor:
    return x.unflatten(-1, (-1, VECTOR)).movedim(-2, -3).contiguous()


@pytest.mark.parametrize("n_rows", [1, 4, ROWS, 2 * ROWS + 5])
@pytest.mark.parametrize("n_vectors", [1, 2, 3])
@pytest.mark.parametrize("fresh", [False, True])
def test_products_of_every_size(n_rows: int, n_vectors: int, fresh: bool) -> None:
    inner = 2 * VECTOR
    a, b = drawn(n_rows, inner, seed=1), drawn(inner, n_vectors * VECTOR, seed=2)
    before = drawn(n_rows, n_vectors * VECTOR, seed=3)
    expected = (a.double() @ b.double() + (0 if fresh else before)).float()
    width = n_vectors * VECTOR
    rows = before.clone().numpy()
    C, A = (rows.ravel(), 0, width, VECTOR), (a.T.numpy().ravel(), 0, 1, n_rows, 0)
    multiply(fresh, n_rows, n_vectors, C, A, (b.numpy().ravel(), 0, width, VECTOR), inner, 1)
    panels, of_a, of_b = in_panels(before).numpy(), in_panels(a).numpy(), in_panels(b).numpy()
    C, A = (panels.ravel(), 0, VECTOR, n_rows * VECTOR), (of_a.ravel(), 0, VECTOR, 1, n_rows * VECTOR)
    multiply(fresh, n_rows, n_vectors, C, A, (of_b.ravel(), 0, VECTOR, inner * VECTOR), VECTOR, 2)
    torch.testing.assert_close(torch.from_numpy(rows), expected, rtol=1e-5, atol=1e-5)
    assert np.array_equal(panels, in_panels(torch.from_numpy(rows)).numpy()), "other bits in another layout"


def test_a_square_of_vectors_is_transposed() -> None:
    import numba

    @numba.njit
    def kernel(x: np.ndarray, out: np.ndarray) -> None:
        store_rows(out, 0, VECTOR, transposed(loads(x, 0, VECTOR, VECTOR, VECTOR)))

    x, out = np.arange(VECTOR * VECTOR, dtype=np.float32), np.zeros(VECTOR * VECTOR, np.float32)
    kernel(x, out)
    assert np.array_equal(out.reshape(VECTOR, VECTOR), x.reshape(VECTOR, VECTOR).T)


def attention_and_gradient(qkv: Tensor, grad: Tensor, causal: bool = False) -> tuple[Tensor, Tensor]:
    """Compute with the kernels, from rows of tokens. Return the output (L, R) and the gradient of `qkv` (L, 3R)."""
    tokens, rank = grad.shape
    others = torch.full((1, 3 * rank), 7.0), torch.full((VECTOR, 3 * rank), 7.0)  # of other images
    rows = torch.cat([others[0], qkv, others[1]]).numpy().ravel()
    out, d_out = np.full((tokens + 1, rank), 7, np.float32), torch.cat([grad, others[1][:, :rank]]).numpy()
    log_sum, d_qkv = np.empty(tokens, np.float32), np.full((tokens + 2, 3 * rank), 7, np.float32)
    columns = [np.empty((tokens + VECTOR) * rank, np.float32) for _ in range(2)]
    scores = [np.empty(tokens * QUERIES, np.float32) for _ in range(2)]
    sizes: tuple[Any, ...] = (rank, rows, 3 * rank, tokens, causal, hidden_keys())
    attend_wide(*sizes, columns[0], scores[0], out.ravel(), rank, log_sum, 0)
    attend_wide_backward(*sizes, *columns, *scores, d_out.ravel(), 0, log_sum, 0, d_qkv.ravel())
    assert (out[0] == 7).all()
    assert (d_qkv[[0, -1]] == 7).all()
    return torch.from_numpy(out[1:]), torch.from_numpy(d_qkv[1:-1])


def expected_attention(qkv: Tensor, grad: Tensor, causal: bool = False) -> tuple[Tensor, Tensor]:
    leaf = qkv.double().requires_grad_()
    q, k, v = leaf.chunk(3, -1)
    scores = q @ k.T
    if causal:
        scores = scores.masked_fill(torch.ones_like(scores).triu(1).bool(), -torch.inf)
    out = torch.softmax(scores, -1) @ v
    return out.detach().float(), torch.autograd.grad(out, leaf, grad.double())[0].float()


@pytest.mark.parametrize("causal", [False, True])
@pytest.mark.parametrize("tokens", [1, 17, 2 * VECTOR, QUERIES + 5])
@pytest.mark.parametrize("rank", [VECTOR, 3 * VECTOR])
def test_attention_and_its_gradient(rank: int, tokens: int, causal: bool) -> None:
    inputs = drawn(tokens, 3 * rank), drawn(tokens, rank, seed=1)
    inputs[0][:, :rank] /= rank**0.5
    for ours, expected in zip(
        attention_and_gradient(*inputs, causal), expected_attention(*inputs, causal), strict=True
    ):
        torch.testing.assert_close(ours, expected, rtol=1e-4, atol=3e-5)


def test_large_scores_neither_overflow_nor_vanish() -> None:
    qkv = drawn(17, 3 * VECTOR)
    qkv[:, :VECTOR] *= 1e4
    out, _ = attention_and_gradient(qkv, drawn(17, VECTOR, seed=1))
    torch.testing.assert_close(out, expected_attention(qkv, out)[0], rtol=1e-5, atol=1e-5)


def test_saturated_attention_gives_no_subnormal_gradients() -> None:
    qkv = drawn(17, 3 * VECTOR)
    qkv[:, :VECTOR] *= 40
    _, grads = attention_and_gradient(qkv, 1e-6 * drawn(17, VECTOR, seed=1))
    assert (grads == 0).any(), "nothing saturated"
    subnormal = (grads != 0) & (grads.abs() < torch.finfo(torch.float32).tiny)
    assert not subnormal.any()


def test_nan_is_not_hidden() -> None:
    qkv = drawn(17, 3 * VECTOR)
    qkv[4, VECTOR] = torch.nan
    out, grads = attention_and_gradient(qkv, torch.ones(17, VECTOR))
    assert out.isnan().all()
    assert grads.isnan().any()


MODULES = 4


def pooled_and_gradients(
    rank: int, lengths: tuple[int, ...], width: int, kind: str = "compiled", *, causal: bool = False
) -> list[Tensor]:
    """Return the pooled attention of a lane and the gradients of its weights, in single or double precision."""
    dtype = torch.float32 if kind == "compiled" else torch.float64
    stages = [1 + drawn(len(lengths), max(lengths), width, seed=i) for i in range(MODULES // 2 + 1)]
    beyond = (torch.arange(max(lengths)) >= torch.tensor(lengths).unsqueeze(1)).unsqueeze(-1)
    frozen = FrozenStreams.of(
        [z.masked_fill(beyond, 0).to(dtype) for z in stages], modules_per_block=2, eps=1e-5, causal=causal
    )
    object.__setattr__(frozen, "lengths", torch.tensor(lengths))
    shapes = (MODULES, 3 * rank, width), (MODULES, 3 * rank), (MODULES, rank, width)
    lane = [drawn(*shape, seed=i) / width**0.5 for i, shape in enumerate(shapes)]
    lane[2] -= lane[2].mean(-1, keepdim=True)
    leaves = [x.to(dtype).requires_grad_() for x in lane]
    if kind == "compiled":
        pooled = pooled_streams(frozen, slice(1, None), *leaves)
    else:
        attended = trunk(frozen, *(list(x.unbind()) for x in leaves))
        pooled = torch.stack([attended[:, i, 1:length].mean(-1) for i, length in enumerate(lengths)], 1)
    grads = torch.autograd.grad((pooled * drawn(*pooled.shape, seed=99)).sum(), leaves)
    return [pooled.detach(), *grads]


@pytest.mark.parametrize("causal", [False, True])
@pytest.mark.parametrize(
    ("rank", "lengths", "width"),
    [
        (FEWEST_RANKS, (7,) * 5, 20),
        (2 * VECTOR, (VECTOR + 1, 2, QUERIES + 3, VECTOR, 9, 2), 64),
        (FEWEST_RANKS + 1, (5, 3), 2 * VECTOR),
        (72, (9,), 48),
    ],
)
def test_trunk_equals_the_plain_one(rank: int, lengths: tuple[int, ...], width: int, causal: bool) -> None:
    """Of images and texts, with widths and ranks that are padded and others that are not."""
    results = (pooled_and_gradients(rank, lengths, width, kind, causal=causal) for kind in ("compiled", "plain"))
    for i, (ours, expected) in enumerate(zip(*results, strict=True)):
        assert (ours - expected).norm() <= 2e-5 * expected.norm() + 1e-6, f"result {i}"


def test_number_of_images_at_a_time_changes_no_bit(monkeypatch: pytest.MonkeyPatch) -> None:
    results = []
    for floats in (1, 2 * 13 * 32, 2**20):
        monkeypatch.setattr(stream_trunk, "STREAM_FLOATS", floats)
        results.append(pooled_and_gradients(FEWEST_RANKS, (13,) * 18, 32))
    for other in results[1:]:
        assert all(map(torch.equal, results[0], other))


@pytest.mark.parametrize(("n_images", "n_tokens"), [(1, 5), (3, 5), (32, 65), (33, 7), (32, 10_000)])
def test_every_image_is_in_one_group(n_images: int, n_tokens: int) -> None:
    firsts, lasts, of_sums = _divided(n_images, n_tokens, 384)
    assert [*firsts, n_images] == [0, *lasts]
    assert (lasts > firsts).all()
    assert (of_sums[0], of_sums[-1]) == (0, len(firsts))
    assert (np.diff(of_sums) > 0).all()
