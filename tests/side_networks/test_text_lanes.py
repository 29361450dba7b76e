"""LAST beside a text backbone, masked or causal, pooled over existing tokens only, in both forms and in stacks."""

from collections.abc import Sequence

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from backbones.stages import Stages
from sweep.features.batches import StageData, training_batches
from sweep.side_networks import LAST, LinearProbe, RankSpaceLAST, cut_to
from sweep.side_networks.spec import SideNetworkSpec
from sweep.study.lane_config import LaneConfig, Pool
from sweep.training.engine import train
from sweep.training.plain_loop import train_plainly

WIDTH, N_STAGES, N_CLASSES, TOKENS = 16, 4, 5, 37
LENGTHS = torch.tensor([37, 1, 20, 7, 33, 2])
LABELS = torch.arange(len(LENGTHS)) % N_CLASSES
KINDS = [LAST, RankSpaceLAST]
FORMS = [(False, "mean"), (False, "last"), (True, "mean"), (True, "last")]


def some_stages(lengths: Tensor, dtype: torch.dtype = torch.float64, seed: int = 0) -> Stages:
    """Return random stages that are zero beyond the ends of the texts."""
    generator = torch.Generator().manual_seed(seed)
    there = torch.arange(TOKENS) < lengths.unsqueeze(-1)
    drawn = [
        0.5 * i + torch.randn(len(lengths), TOKENS, WIDTH, generator=generator, dtype=torch.float64)
        for i in range(N_STAGES)
    ]
    return Stages(((stage * there.unsqueeze(-1)).to(dtype) for stage in drawn), lengths)


def build(kind: type[LAST], rank: int, padded_rank: int, *, causal: bool, pool: Pool, seed: int = 0) -> LAST:
    """Build a module with random weights, as after training. No up-projection is zero."""
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        module = kind(
            WIDTH, N_STAGES, N_CLASSES, rank, modules_per_block=2, pool=pool, causal=causal, padded_rank=padded_rank
        )
        for name, parameter in module.named_parameters():
            if name.endswith("up.weight"):
                parameter.data[:, :rank] = 0.4 * torch.randn(WIDTH, rank)
    return module


def by_the_formulas(weights: dict[str, Tensor], z: Sequence[Tensor], rank: int, causal: bool, pool: Pool) -> Tensor:
    """Compute the logits of one text without padding, whose stages are (L, D), from the weights alone."""

    def layer_norm(x: Tensor, prefix: str) -> Tensor:
        return F.layer_norm(x, (WIDTH,), weights[f"{prefix}.weight"], weights[f"{prefix}.bias"])

    u = z[0]
    for i in range(1, len(z)):
        u = u + z[i]
        for t in range(2):
            name = f"blocks.{i - 1}.{t}"
            h = layer_norm(u, f"{name}.norm")
            q, k, v = (h @ weights[f"{name}.{part}.weight"].T for part in "qkv")
            rows = []
            for place in range(len(h)):
                seen = place + 1 if causal else len(h)
                rows.append(torch.softmax(q[place] @ k[:seen].T / rank**0.5, -1) @ v[:seen])
            u = u + torch.stack(rows) @ weights[f"{name}.up.weight"].T
    last = u - sum(z[:-1])
    pooled = last[-1] if pool == "last" else last.mean(0)
    return layer_norm(pooled, "head.norm") @ weights["head.linear.weight"].T + weights["head.linear.bias"]


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize(("causal", "pool"), FORMS)
def test_a_text_in_a_batch_equals_its_own_formulas(kind: type[LAST], causal: bool, pool: Pool) -> None:
    module = build(kind, 3, 3, causal=causal, pool=pool).double()
    stages = some_stages(LENGTHS)
    logits = module(stages)
    for i, length in enumerate(LENGTHS.tolist()):
        expected = by_the_formulas(module.state_dict(), [z[i, :length] for z in stages], 3, causal, pool)
        torch.testing.assert_close(logits[i], expected, rtol=1e-11, atol=1e-12)


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize(("causal", "pool"), FORMS)
def test_padding_of_a_text_changes_nothing(kind: type[LAST], causal: bool, pool: Pool) -> None:
    """One more token of padding changes nothing. In the direct form, the padding may hold any numbers."""
    module = build(kind, 3, 3, causal=causal, pool=pool).double()
    stages = some_stages(LENGTHS)
    longer = Stages((F.pad(z, (0, 0, 0, 1), value=9.0 * (kind is LAST)) for z in stages), LENGTHS)
    torch.testing.assert_close(module(longer), module(stages), rtol=1e-11, atol=1e-12)


@pytest.mark.parametrize(("causal", "pool"), FORMS)
@pytest.mark.parametrize(("rank", "padded_rank"), [(1, 1), (3, 8), (8, 8)])
def test_both_forms_have_the_same_logits_and_gradients(rank: int, padded_rank: int, causal: bool, pool: Pool) -> None:
    direct, in_rank_space = (build(kind, rank, padded_rank, causal=causal, pool=pool) for kind in KINDS)
    for dtype, limit in ((torch.float64, 1e-11), (torch.float32, 1e-4)):
        stages = some_stages(LENGTHS, dtype)
        results = []
        for module in (direct.to(dtype), in_rank_space.to(dtype)):
            logits = module(stages)
            grads = torch.autograd.grad(F.cross_entropy(logits, LABELS), list(module.parameters()))
            results.append((logits, *grads))
        for name, ours, theirs in zip(["logits", *direct.state_dict()], results[1], results[0], strict=True):
            assert theirs.norm() > 0 or rank < padded_rank, name
            assert (ours - theirs).norm() <= limit * theirs.norm() + limit / 1000, f"{name} in {dtype}"


def test_images_equal_texts_of_full_length() -> None:
    full = torch.full((len(LENGTHS),), TOKENS)
    stages = some_stages(full)
    for kind in KINDS:
        module = build(kind, 3, 3, causal=False, pool="mean").double()
        torch.testing.assert_close(module(list(stages)), module(stages), rtol=1e-12, atol=1e-12)


def test_linear_probe_of_texts() -> None:
    stages = some_stages(LENGTHS)
    for pool in ("mean", "last"):
        probe = LinearProbe(WIDTH, N_CLASSES, pool=pool).double()
        last = [stages[-1][i, :length] for i, length in enumerate(LENGTHS.tolist())]
        pooled = torch.stack([text[-1] if pool == "last" else text.mean(0) for text in last])
        torch.testing.assert_close(probe(stages), probe.head(pooled), rtol=1e-12, atol=1e-12)


# Data and lanes


def text_data(n_texts: int, seed: int) -> StageData:
    rng = np.random.default_rng(seed)
    lengths = torch.from_numpy(rng.integers(1, TOKENS + 1, n_texts))
    stages = torch.stack(some_stages(lengths, seed=seed), 1).numpy()
    return StageData(stages, torch.from_numpy(rng.integers(0, N_CLASSES, n_texts)), N_CLASSES, lengths=lengths)


TRAIN, VAL = text_data(60, 1), text_data(20, 2)
CONFIGS = [
    LaneConfig(lr=3e-3, rank=8),
    LaneConfig(lr=1e-2, rank=3, head_lr_ratio=5.0, loss="focal"),
    LaneConfig(lr=5e-3, rank=1, loss="bce", optimizer="sgd", weight_decay=0.01, dropout=0.3, clip_norm=0.5),
]
EPOCHS, BATCH_SIZE, SEED = 5, 6, 3  # ten steps an epoch
IN_TRAINING = pytest.mark.parametrize(
    ("kind", "causal", "pool"),
    [
        (RankSpaceLAST, False, "mean"),
        (RankSpaceLAST, True, "last"),
        (LAST, True, "last"),
        pytest.param(LAST, False, "mean", marks=pytest.mark.slow),
    ],
)


def test_a_batch_is_as_long_as_its_longest_text_and_pooling_skips_padding() -> None:
    assert TRAIN.lengths is not None
    indices = TRAIN.lengths.argsort()[:4]
    stages, _ = TRAIN.batch(indices, torch.empty(0))
    assert isinstance(stages, Stages)
    assert stages[0].shape[1] == TRAIN.lengths[indices].max() < TOKENS
    for pool, tokens in (("mean", slice(None)), ("last", slice(-1, None))):
        whole, _ = TRAIN.batch(torch.arange(len(TRAIN)), torch.empty(0))
        pooled, _ = TRAIN.pooled(tokens).batch(torch.arange(len(TRAIN)), torch.empty(0))
        head = LinearProbe(WIDTH, N_CLASSES, pool=pool).head
        torch.testing.assert_close(pooled[2].squeeze(1), head.pool(whole[2], TRAIN.lengths), rtol=1e-5, atol=1e-6)
    both = TRAIN.first(7).joined(VAL)
    assert both.lengths is not None
    assert VAL.lengths is not None
    assert both.lengths.tolist() == [*TRAIN.lengths[:7].tolist(), *VAL.lengths.tolist()]


def lanes(kind: type[LAST], numbers: Sequence[int], dtype: torch.dtype, *, causal: bool, pool: Pool) -> list[nn.Module]:
    return [build(kind, CONFIGS[i % 3].rank, 8, causal=causal, pool=pool, seed=i % 3).to(dtype) for i in numbers]


@IN_TRAINING
def test_lane_equals_plain_loop_in_fp64_after_50_steps(kind: type[LAST], causal: bool, pool: Pool) -> None:
    modules = lanes(kind, range(3), torch.float64, causal=causal, pool=pool)
    states, _ = train(modules, CONFIGS, TRAIN, VAL, n_epochs=EPOCHS, batch_size=BATCH_SIZE, seed=SEED)
    like = torch.empty(0, dtype=torch.float64)
    batches = [
        batch
        for epoch in range(1, EPOCHS + 1)
        for batch in TRAIN.batches(epoch, training_batches(len(TRAIN), BATCH_SIZE, SEED, epoch), like)
    ]
    for i, (config, state) in enumerate(zip(CONFIGS, states, strict=True)):
        alone = build(LAST, config.rank, config.rank, causal=causal, pool=pool, seed=i).double()
        lengths = {"n_steps": len(batches), "steps_per_epoch": len(batches) // EPOCHS}
        train_plainly(alone, config, TRAIN, batches, **lengths, seed=i)
        lane = cut_to(alone.state_dict(), state)
        for name, value in alone.named_parameters():
            assert (lane[name] - value).abs().max() < 1e-10, f"rank {config.rank}, {name}"


@IN_TRAINING
def test_lane_is_bitwise_the_same_in_any_stack(kind: type[LAST], causal: bool, pool: Pool) -> None:
    def trained(numbers: Sequence[int]) -> list[tuple[dict[str, Tensor], Tensor]]:
        modules = lanes(kind, numbers, torch.float32, causal=causal, pool=pool)
        configs = [CONFIGS[i % 3] for i in numbers]
        lengths, seeds = {"n_epochs": 2, "batch_size": BATCH_SIZE}, [i % 3 for i in numbers]
        states, results = train(modules, configs, TRAIN, VAL, **lengths, seed=SEED, lane_seeds=seeds)
        return list(zip(states, results[-1].val_logits, strict=False))

    reference = trained(range(6))
    for numbers in ([1], [2, 1, 0, 1], [3, 5], [5, 4, 3, 2, 1, 0, 0, 1]):
        for number, (state, logits) in zip(numbers, trained(numbers), strict=True):
            expected_state, expected_logits = reference[number % 3]
            assert torch.equal(logits, expected_logits), f"trial {number} in {numbers}"
            for name, value in state.items():
                assert torch.equal(value, expected_state[name]), f"trial {number} in {numbers}: {name}"


def test_diverging_lane_changes_no_other_lane() -> None:
    def trained(configs: list[LaneConfig]) -> list[dict[str, Tensor]]:
        modules = lanes(RankSpaceLAST, range(3), torch.float32, causal=True, pool="last")
        return train(modules, configs, TRAIN, VAL, n_epochs=2, batch_size=BATCH_SIZE, seed=SEED)[0]

    healthy = trained(CONFIGS)
    sick = trained([CONFIGS[0], LaneConfig(lr=1e30, rank=3, optimizer="sgd"), CONFIGS[2]])
    assert not all(value.isfinite().all() for value in sick[1].values())
    for i in (0, 2):
        for name, value in sick[i].items():
            assert torch.equal(value, healthy[i][name]), name


def test_a_causal_spec_can_be_saved_and_loaded() -> None:
    for causal in (False, True):
        spec = SideNetworkSpec(WIDTH, N_STAGES, N_CLASSES, 0, 1, "last", 4, causal=causal)
        assert spec.lane(2, seed=0).causal == spec.plain(2).causal == causal
        assert SideNetworkSpec.of_metadata(spec.metadata(2)) == spec
