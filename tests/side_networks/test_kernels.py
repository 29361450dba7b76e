"""The compiled CPU kernels, compared with plain PyTorch."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from filelock import FileLock, Timeout
from torch import Tensor
from torch.func import vmap

from backbones.stages import Stages
from sweep.side_networks.cpu import compile as cpu_compile
from sweep.side_networks.cpu.attention import KEYS, MAX_UNROLLED_RANK, attend, attend_backward
from sweep.side_networks.cpu.compile import compiled, compiling_seconds
from sweep.side_networks.cpu.tasks import on_threads
from sweep.side_networks.cpu.trunk import is_compiled, pooled_trunk
from sweep.side_networks.cpu.vector_math import exp, log, root
from sweep.side_networks.cpu.vectors import VECTOR, load, load_part, store, store_part
from sweep.side_networks.rank_space_trunk import FrozenStreams, trunk


def drawn(*shape: int, seed: int = 0) -> Tensor:
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed))


def in_vectors(rows: Tensor) -> np.ndarray:
    """Pad rows of tokens with zeros to a multiple of the vector length."""
    return torch.nn.functional.pad(rows, (0, -rows.shape[-1] % VECTOR)).contiguous().numpy()


def attention_and_gradient(qkv: Tensor, grad: Tensor, causal: bool = False) -> tuple[Tensor, Tensor]:
    """Compute with the kernels. Return the output (r, L) and the gradient of `qkv` (3r, L)."""
    (rank, tokens), rows = grad.shape, in_vectors(qkv)
    ranks, stride = (0,) * rank, rows.shape[1]
    others = np.ones((2, stride), np.float32)  # rows in front that belong to another module
    out, d_out = (np.concatenate([others, x]) for x in (np.zeros((rank, stride), np.float32), in_vectors(grad)))
    log_sum, d_qkv = np.empty(stride, np.float32), np.zeros_like(rows)
    first = 2 * stride
    sizes = (ranks, rows.ravel(), stride, tokens, causal)
    attend(*sizes, out.ravel(), first, log_sum)
    assert (out[:2] == 1).all()
    attend_backward(*sizes, out.ravel(), d_out.ravel(), first, log_sum, d_qkv.ravel())
    return torch.from_numpy(out[2:, :tokens]), torch.from_numpy(d_qkv[:, :tokens])


def expected_attention(qkv: Tensor, grad: Tensor, causal: bool = False) -> tuple[Tensor, Tensor]:
    leaf = qkv.double().requires_grad_()
    q, k, v = (x.T for x in leaf.chunk(3))
    scores = q @ k.T
    if causal:
        scores = scores.masked_fill(torch.ones_like(scores).triu(1).bool(), -torch.inf)
    out = (torch.softmax(scores, -1) @ v).T
    return out.detach().float(), torch.autograd.grad(out, leaf, grad.double())[0].float()


@pytest.mark.parametrize("causal", [False, True])
@pytest.mark.parametrize(
    ("rank", "tokens"),
    [(3, 1), (3, 17), (3, 2 * VECTOR), (8, 3 * VECTOR + 1), (8, KEYS + 5), (24, 23), (MAX_UNROLLED_RANK, 23)],
)
def test_attention_and_its_gradient(rank: int, tokens: int, causal: bool) -> None:
    inputs = drawn(3 * rank, tokens), drawn(rank, tokens, seed=1)
    for ours, expected in zip(
        attention_and_gradient(*inputs, causal), expected_attention(*inputs, causal), strict=True
    ):
        torch.testing.assert_close(ours, expected, rtol=1e-4, atol=3e-5)


def test_masked_keys_are_ignored_whatever_their_score() -> None:
    qkv = drawn(9, 2 * VECTOR + 3)
    qkv[3:6, 1:] *= 1e4  # without the mask, the first token would attend only to other keys
    out, _ = attention_and_gradient(qkv, qkv[:3], causal=True)
    torch.testing.assert_close(out[:, 0], qkv[6:, 0], rtol=0, atol=0)
    torch.testing.assert_close(out, expected_attention(qkv, out, causal=True)[0], rtol=1e-4, atol=1e-4)


def test_large_scores_neither_overflow_nor_vanish() -> None:
    qkv = drawn(9, KEYS + 17)
    qkv[:3] *= 1e4
    out, _ = attention_and_gradient(qkv, drawn(3, KEYS + 17, seed=1))
    torch.testing.assert_close(out, expected_attention(qkv, out)[0], rtol=1e-5, atol=1e-5)


def test_saturated_attention_gives_no_subnormal_gradients() -> None:
    qkv = drawn(9, 17)
    qkv[:3] *= 60  # scores from -100 to 100, so that some probabilities are near the smallest normal number or below it
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


def in_kernel(function: Any, x: np.ndarray) -> np.ndarray:
    """A function of vectors, of every number."""
    import numba

    @numba.njit
    def kernel(x: np.ndarray, out: np.ndarray) -> None:
        for i in range(0, x.size, VECTOR):
            store(out, i, function(load(x, i)))

    out = np.empty_like(x)
    kernel(x, out)
    return out


def test_exponential() -> None:
    x = np.linspace(-70, 1, 1000 * VECTOR, dtype=np.float32)
    x[:3] = np.nan, -np.inf, -1e30
    got, expected = in_kernel(exp, x), np.exp(x.astype(np.float64))
    assert np.isnan(got[0])
    assert not got[1:][x[1:] < -60].any()
    kept = x > -60
    assert np.abs(got[kept] / expected[kept] - 1).max() < 5e-6
    assert np.abs(got[kept] - expected[kept]).max() < 5e-7


def test_logarithm_and_root() -> None:
    x = np.concatenate([np.geomspace(1e-30, 1e30, 900 * VECTOR), np.linspace(0.9, 1.1, 100 * VECTOR)])
    x = x.astype(np.float32)
    expected = np.log(x.astype(np.float64))
    assert (np.abs(in_kernel(log, x) - expected) <= 5e-7 * np.abs(expected)).all()
    assert np.array_equal(in_kernel(root, x), np.sqrt(x))


@pytest.mark.parametrize("n", [-3, 0, 1, VECTOR - 1, VECTOR, VECTOR + 5])
def test_parts_of_vectors_touch_no_other_memory(n: int) -> None:
    import numba

    @numba.njit
    def kernel(x: np.ndarray, n: int, whole: np.ndarray, part: np.ndarray) -> None:
        store(whole, 0, load_part(x, 1, n))
        store_part(part, 1, n, load(x, 1))

    x = np.arange(1, VECTOR + 2, dtype=np.float32)
    x[1 + max(n, 0) :] = np.nan
    whole, part = np.full(VECTOR, -1, np.float32), np.full(VECTOR + 2, -1, np.float32)
    kernel(x, n, whole, part)
    written = min(max(n, 0), VECTOR)
    assert np.array_equal(whole, [*x[1 : 1 + written], *[0] * (VECTOR - written)])
    assert np.array_equal(part, [-1, *x[1 : 1 + written], *[-1] * (VECTOR + 1 - written)])


MODULES, IMAGES = 4, 5


def trunk_inputs(rank: int, tokens: int, width: int, modules_per_block: int) -> tuple[list[Tensor], list[Tensor]]:
    """Return stages, and for three lanes the tensors `W_γ`, `W β` and `Ũ` of every module."""
    stages = [1 + drawn(IMAGES, tokens, width, seed=i) for i in range(MODULES // modules_per_block + 1)]
    shapes = [(3 * rank, width)] * MODULES + [(3 * rank,)] * MODULES + [(rank, width)] * MODULES
    lanes = [drawn(3, *shape, seed=i) / width**0.5 for i, shape in enumerate(shapes)]
    lanes[2 * MODULES :] = [up - up.mean(-1, keepdim=True) for up in lanes[2 * MODULES :]]
    return stages, lanes


def pooled_by(
    kind: str,
    stages: list[Tensor],
    lanes: list[Tensor],
    modules_per_block: int,
    tokens: slice,
    *,
    lengths: Sequence[int] = (),
    causal: bool = False,
) -> Tensor:
    """Return the pooled attention of every lane, computed by one of the trunks.

    With `lengths`, the inputs are texts.
    """
    if lengths:
        stages = Stages(stages, torch.tensor(lengths))
    frozen = FrozenStreams.of(stages, modules_per_block=modules_per_block, eps=1e-5, causal=causal)

    def of_lane(*tensors: Tensor) -> Tensor:
        parts = (tensors[:MODULES], tensors[MODULES : 2 * MODULES], tensors[2 * MODULES :])
        if kind == "compiled":
            return pooled_trunk(frozen, *parts, tokens)
        attended = trunk(frozen, *parts)
        if not lengths:
            return attended[..., tokens].mean(-1)
        return torch.stack([attended[:, i, :length][:, tokens].mean(-1) for i, length in enumerate(lengths)], 1)

    pooled: Tensor = vmap(of_lane)(*lanes)
    return pooled


@pytest.mark.parametrize(
    ("rank", "tokens", "width", "modules_per_block"),
    [
        (3, 7, 20, 1),
        (3, 1, 16, 2),
        (8, 2 * VECTOR, 32, 4),
        (8, KEYS + 5, 8, 1),
        (24, 9, 48, 2),
        pytest.param(MAX_UNROLLED_RANK, 9, 48, 1, marks=pytest.mark.slow),  # compiles for ten seconds
    ],
)
def test_compiled_trunk_equals_the_plain_one(rank: int, tokens: int, width: int, modules_per_block: int) -> None:
    stages, lanes = trunk_inputs(rank, tokens, width, modules_per_block)
    pool = slice(1 if tokens > 1 else 0, None)
    results = []
    for kind, dtype in (("compiled", torch.float32), ("plain", torch.float64)):
        leaves = [x.to(dtype).requires_grad_() for x in lanes]
        pooled = pooled_by(kind, [z.to(dtype) for z in stages], leaves, modules_per_block, pool)
        grads = torch.autograd.grad((pooled * drawn(*pooled.shape, seed=99)).sum(), leaves)
        results.append([pooled.detach(), *grads])
    for i, (ours, expected) in enumerate(zip(*results, strict=True)):
        # A single token attends to itself, whatever its query and key. Their gradients are zero, up to rounding.
        assert (ours - expected).norm() <= 1e-5 * expected.norm() + 1e-6, f"result {i}"
    with torch.no_grad():
        alone = pooled_by("compiled", stages, lanes, modules_per_block, pool)
    assert (alone - results[0][0]).norm() <= 1e-6 * alone.norm(), "without a backward pass"


@pytest.mark.parametrize("causal", [False, True])
@pytest.mark.parametrize("pool", [slice(None), slice(-1, None), slice(0, 1)], ids=["mean", "last", "first"])
@pytest.mark.parametrize(
    ("tokens", "lengths"),
    [
        (2 * VECTOR + 3, (3, 2 * VECTOR + 3, 1, VECTOR, VECTOR + 1)),
        (KEYS + 9, (KEYS + 9, 7, KEYS, KEYS + 1, 2)),
        (9, (9,) * IMAGES),
    ],
)
def test_compiled_trunk_of_texts_equals_the_plain_one(
    tokens: int, lengths: tuple[int, ...], pool: slice, causal: bool
) -> None:
    """Lengths go up and down, which shows whether anything of a longer text is left over."""
    stages, lanes = trunk_inputs(3, tokens, 20, 2)
    beyond = torch.arange(tokens) >= torch.tensor(lengths).unsqueeze(1)
    stages = [z.masked_fill(beyond.unsqueeze(-1), 0) for z in stages]
    options = {"lengths": lengths, "causal": causal}
    results = []
    for kind, dtype in (("compiled", torch.float32), ("plain", torch.float64)):
        leaves = [x.to(dtype).requires_grad_() for x in lanes]
        pooled = pooled_by(kind, [z.to(dtype) for z in stages], leaves, 2, pool, **options)
        grads = torch.autograd.grad((pooled * drawn(*pooled.shape, seed=99)).sum(), leaves)
        results.append([pooled.detach(), *grads])
    for i, (ours, expected) in enumerate(zip(*results, strict=True)):
        assert (ours - expected).norm() <= 2e-5 * expected.norm() + 1e-6, f"result {i}"
    with torch.no_grad():
        again = pooled_by("compiled", stages, lanes, 2, pool, **options)
    torch.testing.assert_close(again, results[0][0], rtol=1e-5, atol=1e-6)


def test_a_second_backward_pass_is_refused() -> None:
    stages, lanes = trunk_inputs(3, 7, 16, 1)
    leaves = [x.requires_grad_() for x in lanes]
    total = pooled_by("compiled", stages, leaves, 1, slice(None)).sum()
    torch.autograd.grad(total, leaves, retain_graph=True)
    with pytest.raises(RuntimeError, match="inplace operation"):
        torch.autograd.grad(total, leaves)


@pytest.mark.parametrize("n_threads", [1, 2, 3])
@pytest.mark.parametrize("n_tasks", [1, 2, 7, 32, 33, 101])
@pytest.mark.parametrize("shares", [1, 8])
def test_every_task_is_done_once(n_tasks: int, shares: int, n_threads: int, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch, "get_num_threads", lambda: n_threads)
    done: list[int] = []
    on_threads(lambda first, last: done.extend(range(first, last)), n_tasks, shares)
    assert sorted(done) == list(range(n_tasks))


def test_compiling_is_announced_once_and_its_time_is_added_up(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr(cpu_compile, "_FOLDER", str(tmp_path))
    monkeypatch.setattr(cpu_compile._compilations, "_announced", False)
    caplog.set_level("INFO")
    inner = compiled(lambda x: x + 1)
    outer = compiled(lambda x: inner(x) * 2)
    before = compiling_seconds()
    assert outer(1.0) == 4.0
    first = compiling_seconds()
    assert first > before
    assert outer(2.0) == 6.0
    assert compiling_seconds() == first, "the code is there"
    assert outer(2) == 6
    assert compiling_seconds() > first, "for another type it is compiled again"
    assert [record.message.split(",")[0] for record in caplog.records] == ["compiling kernels for this processor"]


def test_machine_code_is_saved_by_one_process_at_a_time(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(cpu_compile, "_FOLDER", str(tmp_path))
    kept = []

    def keep(code: str) -> None:
        with pytest.raises(Timeout):
            FileLock(tmp_path / "save.lock").acquire(timeout=0)
        kept.append(code)

    cpu_compile._one_process_at_a_time(keep)("of a rank")
    assert kept == ["of a rank"]
    with FileLock(tmp_path / "save.lock", timeout=0):
        pass
    assert attend._cache.save_overload.__wrapped__, "numba still saves kernels with the method that we lock"


def test_which_lanes_are_compiled() -> None:
    cpu = torch.device("cpu")
    assert is_compiled(MAX_UNROLLED_RANK, cpu, torch.float32)
    assert not is_compiled(MAX_UNROLLED_RANK + 1, cpu, torch.float32)
    assert not is_compiled(8, cpu, torch.float64)
    assert not is_compiled(8, torch.device("cuda"), torch.float32)
