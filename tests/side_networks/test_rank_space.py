"""The rank-space form computes LAST. It has the same parameters, logits and gradients at every shape."""

from collections.abc import Sequence

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from sweep.side_networks import LAST, LinearProbe, RankSpaceLAST, cut_to
from sweep.side_networks.last import LowRankAttention
from sweep.study.lane_config import Pool
from sweep.training.stack import Stack

WIDTH, N_CLASSES, BATCH, TOKENS = 16, 5, 6, 9
HEADS: list[tuple[Pool, int]] = [("mean", 0), ("mean", 1), ("mean", 5), ("class", 1), ("class", 5)]
LABELS = torch.arange(BATCH) % N_CLASSES


def some_stages(n_stages: int, dtype: torch.dtype = torch.float64) -> list[Tensor]:
    generator = torch.Generator().manual_seed(n_stages)
    # An offset and a drift, so that the stream does not already have the mean and scale that LayerNorm gives it.
    return [
        (0.5 * i + torch.randn(BATCH, TOKENS, WIDTH, generator=generator, dtype=torch.float64)).to(dtype)
        for i in range(n_stages)
    ]


def randomise(module: LAST, seed: int) -> None:
    """Give a module random weights, as after long training.

    No up-projection is zero and no norm is the identity, and the padding stays zero.
    """
    generator = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for part in module.modules():
            if isinstance(part, LowRankAttention):
                part.up.weight[:, : module.rank] = 0.4 * torch.randn(WIDTH, module.rank, generator=generator)
            if isinstance(part, nn.LayerNorm):
                part.weight += 0.3 * torch.randn(WIDTH, generator=generator)
                part.bias += 0.3 * torch.randn(WIDTH, generator=generator)


def padded_state(state: dict[str, Tensor], padded_rank: int) -> dict[str, Tensor]:
    """The inverse of `cut_to`, written independently."""
    padded = {}
    for name, value in state.items():
        if name.startswith("blocks.") and ".norm." not in name:
            side = (0, padded_rank - value.shape[1]) if ".up." in name else (0, 0, 0, padded_rank - value.shape[0])
            padded[name] = F.pad(value, side)
        else:
            padded[name] = value.clone()
    return padded


def logits_and_grads(module: nn.Module, stages: list[Tensor]) -> tuple[Tensor, dict[str, Tensor]]:
    logits = module(stages)
    names, params = zip(*module.named_parameters(), strict=True)
    grads = torch.autograd.grad(F.cross_entropy(logits, LABELS), params)
    return logits.detach(), dict(zip(names, grads, strict=True))


def relative_difference(value: Tensor, reference: Tensor) -> float:
    assert reference.norm() > 0
    return ((value - reference).norm() / reference.norm()).item()


@pytest.mark.parametrize(("pool", "n_prefix_tokens"), HEADS)
@pytest.mark.parametrize("n_stages", [2, 5])
@pytest.mark.parametrize("modules_per_block", [1, 2])
@pytest.mark.parametrize("rank", [1, 3, 8])
def test_logits_and_gradients_equal_those_of_last(
    rank: int, modules_per_block: int, n_stages: int, pool: Pool, n_prefix_tokens: int
) -> None:
    for padded_rank in sorted({rank, 8}):
        torch.manual_seed(rank)
        direct, in_rank_space = (
            kind(
                WIDTH,
                n_stages,
                N_CLASSES,
                rank,
                modules_per_block=modules_per_block,
                pool=pool,
                n_prefix_tokens=n_prefix_tokens,
                padded_rank=padded_rank,
            )
            for kind in (LAST, RankSpaceLAST)
        )
        randomise(direct, seed=rank)
        in_rank_space.load_state_dict(direct.state_dict(), strict=True)
        # In fp32, the whole gradient of either form is within 6e-7 of that in fp64. The small gradient of a single bias
        # is the rest of a sum over all tokens. It loses one more digit in both forms, which differ by up to 9.5e-6.
        for dtype, limit, limit_of_one in ((torch.float64, 1e-12, 1e-12), (torch.float32, 2e-6, 2e-5)):
            stages = some_stages(n_stages, dtype)
            logits, grads = logits_and_grads(direct.to(dtype), stages)
            rank_logits, rank_grads = logits_and_grads(in_rank_space.to(dtype), stages)
            assert relative_difference(rank_logits, logits) < limit
            assert rank_grads.keys() == grads.keys()
            whole, rank_whole = (torch.cat([g.flatten() for g in all_.values()]) for all_ in (grads, rank_grads))
            assert relative_difference(rank_whole, whole) < limit
            for name, grad in grads.items():
                assert relative_difference(rank_grads[name], grad) < limit_of_one, f"{name} in {dtype}"


@pytest.mark.parametrize("modules_per_block", [1, 2])
def test_state_dicts_are_interchangeable(modules_per_block: int) -> None:
    direct, in_rank_space = (
        kind(WIDTH, 3, N_CLASSES, 3, modules_per_block=modules_per_block, padded_rank=4)
        for kind in (LAST, RankSpaceLAST)
    )
    randomise(in_rank_space, 1)
    direct.load_state_dict(in_rank_space.state_dict(), strict=True)
    for name, value in direct.state_dict().items():
        assert torch.equal(value, in_rank_space.state_dict()[name])
    assert "scale" not in str(direct.state_dict().keys()), "the scale belongs to the shape, not to the weights"


@pytest.mark.parametrize("kind", [LAST, RankSpaceLAST])
def test_mixed_ranks_in_one_stack_equal_plain_unpadded_modules(kind: type[LAST]) -> None:
    ranks, padded_rank, n_stages = [3, 8, 1, 5, 3], 8, 4
    stages = some_stages(n_stages)
    plains, padded = [], []
    for seed, rank in enumerate(ranks):
        torch.manual_seed(seed)
        plain = LAST(WIDTH, n_stages, N_CLASSES, rank, modules_per_block=2, n_prefix_tokens=1)
        randomise(plain, seed)
        plains.append(plain.double())
        lane = kind(
            WIDTH, n_stages, N_CLASSES, rank, modules_per_block=2, n_prefix_tokens=1, padded_rank=padded_rank
        ).double()
        lane.load_state_dict(padded_state(plain.state_dict(), padded_rank), strict=True)
        padded.append(lane)

    def mean_losses(logits: Tensor, labels: Tensor) -> Tensor:
        return torch.stack([F.cross_entropy(lane, labels) for lane in logits])

    stack = Stack(padded)
    losses, grads = stack.gradients(stages, LABELS, mean_losses)
    for i, plain in enumerate(plains):
        logits, plain_grads = logits_and_grads(plain, stages)
        torch.testing.assert_close(stack.logits(stages)[i], logits, rtol=1e-11, atol=1e-12)
        torch.testing.assert_close(losses[i], F.cross_entropy(logits, LABELS), rtol=1e-11, atol=1e-12)
        of_lane = {name: grad[i] for name, grad in grads.items()}
        trimmed = cut_to(plain.state_dict(), of_lane)
        for name, grad in plain_grads.items():
            assert relative_difference(trimmed[name], grad) < 1e-11, f"lane {i}, {name}"
        in_padding = padded_state(trimmed, padded_rank)
        for name, grad in of_lane.items():
            assert torch.equal(grad, in_padding[name]), f"lane {i}, {name}: a gradient in the padding"


def test_padding_does_not_change_the_random_numbers() -> None:
    modules = []
    for padded_rank in (3, 8):
        torch.manual_seed(7)
        modules.append(LAST(WIDTH, 3, N_CLASSES, 3, padded_rank=padded_rank))
    plain, padded = modules
    trimmed = cut_to(plain.state_dict(), padded.state_dict())
    for name, value in plain.state_dict().items():
        assert torch.equal(trimmed[name], value), name


def test_cut_to_round_trip() -> None:
    torch.manual_seed(0)
    plain = LAST(WIDTH, 3, N_CLASSES, 3, modules_per_block=2)
    randomise(plain, 0)
    padded = padded_state(plain.state_dict(), 8)
    assert padded["blocks.0.0.q.weight"].shape == (8, WIDTH)
    assert padded["blocks.1.1.up.weight"].shape == (WIDTH, 8)
    trimmed = cut_to(plain.state_dict(), padded)
    fresh = LAST(WIDTH, 3, N_CLASSES, 3, modules_per_block=2)
    fresh.load_state_dict(trimmed, strict=True)
    for name, value in plain.state_dict().items():
        assert torch.equal(fresh.state_dict()[name], value), name
        assert trimmed[name].is_contiguous()
        assert trimmed[name].data_ptr() != padded[name].data_ptr(), f"{name} is a view of the padded weights"


def by_the_formulas(
    weights: dict[str, Tensor], z: Sequence[Tensor], rank: int, modules_per_block: int, pool: Pool, n_prefix: int
) -> Tensor:
    """Compute the formulas in section 2 of the design notes line by line, from the weights alone."""

    def layer_norm(x: Tensor, prefix: str) -> Tensor:
        centred = x - x.mean(-1, keepdim=True)
        normalised = centred / (centred.square().mean(-1, keepdim=True) + 1e-5).sqrt()
        return normalised * weights[f"{prefix}.weight"] + weights[f"{prefix}.bias"]

    def lsa(x: Tensor, prefix: str) -> Tensor:
        h = layer_norm(x, f"{prefix}.norm")
        q, k, v = (h @ weights[f"{prefix}.{name}.weight"].T for name in "qkv")
        attended = F.scaled_dot_product_attention(q, k, v, scale=1 / rank**0.5)
        return x + attended @ weights[f"{prefix}.up.weight"].T

    m = len(z) - 1
    u = z[0]
    for i in range(1, m + 1):
        u = u + z[i]
        for t in range(modules_per_block):
            u = lsa(u, f"blocks.{i - 1}.{t}")
    for i in range(m):
        u = u - z[i]
    pooled = u[:, 0] if pool == "class" else u[:, n_prefix:].mean(1)
    return layer_norm(pooled, "head.norm") @ weights["head.linear.weight"].T + weights["head.linear.bias"]


@pytest.mark.parametrize(("pool", "n_prefix_tokens"), HEADS)
@pytest.mark.parametrize("modules_per_block", [1, 2])
@pytest.mark.parametrize("n_stages", [2, 5])
@pytest.mark.parametrize("rank", [1, 3, 4, 8])
def test_last_equals_the_papers_formulas(
    rank: int, n_stages: int, modules_per_block: int, pool: Pool, n_prefix_tokens: int
) -> None:
    torch.manual_seed(rank)
    module = LAST(
        WIDTH,
        n_stages,
        N_CLASSES,
        rank,
        modules_per_block=modules_per_block,
        pool=pool,
        n_prefix_tokens=n_prefix_tokens,
    )
    randomise(module, rank)
    module.double()
    stages = some_stages(n_stages)
    expected = by_the_formulas(module.state_dict(), stages, rank, modules_per_block, pool, n_prefix_tokens)
    torch.testing.assert_close(module(stages), expected, rtol=1e-11, atol=1e-12)


@pytest.mark.parametrize("kind", ["probe", LAST, RankSpaceLAST])
def test_modules_are_usable_without_the_engine(kind: str | type[LAST]) -> None:
    torch.manual_seed(0)
    stages = some_stages(3, torch.float32)
    module = LinearProbe(WIDTH, N_CLASSES) if isinstance(kind, str) else kind(WIDTH, 3, N_CLASSES, 2)
    optimizer = torch.optim.AdamW(module.parameters(), lr=1e-2)
    losses = []
    for _ in range(40):
        loss = F.cross_entropy(module(stages), LABELS)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        losses.append(loss.item())
    assert losses[-1] < 0.5 * losses[0]


def test_linear_probe_reads_its_stage() -> None:
    stages = some_stages(3)
    torch.manual_seed(0)
    for stage in (0, 1, -1):
        probe = LinearProbe(WIDTH, N_CLASSES, stage=stage, n_prefix_tokens=1).double()
        expected = probe.head.linear(probe.head.norm(stages[stage][:, 1:].mean(1)))
        torch.testing.assert_close(probe(stages), expected, rtol=1e-13, atol=1e-13)


@pytest.mark.parametrize("kind", [LAST, RankSpaceLAST])
def test_impossible_shapes_are_refused(kind: type[LAST]) -> None:
    with pytest.raises(ValueError, match="rank 0 "):
        kind(WIDTH, 3, N_CLASSES, 0)
    with pytest.raises(ValueError, match=r"rank 5 .* 4"):
        kind(WIDTH, 3, N_CLASSES, 5, padded_rank=4)
    with pytest.raises(ValueError, match=r"two stages.*got 1"):
        kind(WIDTH, 1, N_CLASSES, 2)
    with pytest.raises(ValueError, match="no prefix token"):
        kind(WIDTH, 3, N_CLASSES, 2, pool="class")
    with pytest.raises(ValueError, match="'max'"):
        kind(WIDTH, 3, N_CLASSES, 2, pool="max")  # type: ignore[arg-type]


@pytest.mark.parametrize("kind", [LAST, RankSpaceLAST])
def test_stages_that_do_not_fit_the_blocks_are_refused(kind: type[LAST]) -> None:
    module = kind(WIDTH, 3, N_CLASSES, 2).double()
    for n_stages in (2, 4):
        with pytest.raises(ValueError, match=r"zip|(take|need) \d stages"):
            module(some_stages(n_stages))
