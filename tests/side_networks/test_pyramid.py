"""LAST beside a backbone of several widths: both of its forms equal the formulas, and its lanes are exact."""

from collections.abc import Sequence
from itertools import groupby

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from sweep.features.batches import StageData, training_batches
from sweep.side_networks import LAST, PyramidLAST, RankSpacePyramidLAST, cut_to
from sweep.side_networks.linear_probe import pooled_probe
from sweep.side_networks.spec import SideNetworkSpec
from sweep.study.lane_config import LaneConfig, Pool
from sweep.training.engine import train

N_CLASSES, BATCH, TOKENS = 5, 6, 9
LABELS = torch.arange(BATCH) % N_CLASSES
KINDS = [PyramidLAST, RankSpacePyramidLAST]
WIDTHS = {
    "one of each": (4, 6, 10, 16),
    "several of a width": (6, 6, 6, 10, 10, 16, 16),
    "narrowing, and a width twice": (16, 8, 8, 16),
    "all alike": (12, 12, 12),
}
Kind = type[PyramidLAST]


def some_stages(widths: Sequence[int], n_images: int = BATCH, seed: int = 0) -> list[Tensor]:
    generator = torch.Generator().manual_seed(seed)
    return [
        0.5 * i + torch.randn(n_images, TOKENS, width, generator=generator, dtype=torch.float64)
        for i, width in enumerate(widths)
    ]


def randomise(module: PyramidLAST, seed: int) -> None:
    """Give a module random weights, as after long training.

    No up-projection is zero and no norm is the identity, and the padding stays zero.
    """
    generator = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for name, parameter in module.named_parameters():
            if ".up." in name:
                shape = (parameter.shape[0], module.rank)
                parameter[:, : module.rank] = 0.4 * torch.randn(shape, generator=generator)
            elif "norm" in name:
                parameter.add_(0.3 * torch.randn(parameter.shape, generator=generator))


def build(
    kind: Kind, widths: Sequence[int], rank: int, *, t: int = 1, pool: Pool = "mean", prefix: int = 0, padded: int
) -> PyramidLAST:
    torch.manual_seed(rank)
    module = kind(
        widths, N_CLASSES, rank, modules_per_block=t, pool=pool, n_prefix_tokens=prefix, padded_rank=padded
    ).double()
    randomise(module, rank)
    return module


def by_the_formulas(
    weights: dict[str, Tensor], z: Sequence[Tensor], rank: int, t: int, pool: Pool, prefix: int
) -> Tensor:
    """Compute the formulas in the docstring of `pyramid.py` from the weights alone, with new sums for every module."""

    def layer_norm(x: Tensor, name: str) -> Tensor:
        centred = x - x.mean(-1, keepdim=True)
        normalised = centred / (centred.square().mean(-1, keepdim=True) + 1e-5).sqrt()
        return normalised * weights[f"{name}.weight"] + weights[f"{name}.bias"]

    widths = [stage.shape[-1] for stage in z]
    runs = [list(run) for _, run in groupby(range(len(z)), key=lambda i: widths[i])]
    run_of = {i: number for number, run in enumerate(runs) for i in run}
    outputs: list[tuple[str, Tensor]] = []

    def contributed(run: int) -> Tensor | float:
        return sum((a @ weights[f"{name}.up.{run}.weight"].T for name, a in outputs), start=0.0)

    for i in range(1, len(z)):
        run = run_of[i]
        for module in range(t):
            name = f"blocks.{i - 1}.{module}"
            x = sum(z[j] for j in runs[run] if j <= i) + contributed(run)
            h = layer_norm(x, f"{name}.norm")
            q, k, v = (h @ weights[f"{name}.{part}.weight"].T for part in "qkv")
            outputs.append((name, F.scaled_dot_product_attention(q, k, v, scale=1 / rank**0.5)))
    last = z[-1] + contributed(run_of[len(z) - 1])
    pooled = last[:, 0] if pool == "class" else last[:, prefix:].mean(1)
    return layer_norm(pooled, "head.norm") @ weights["head.linear.weight"].T + weights["head.linear.bias"]


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("widths", WIDTHS.values(), ids=WIDTHS)
@pytest.mark.parametrize(("pool", "prefix"), [("mean", 0), ("mean", 2), ("class", 1)])
@pytest.mark.parametrize("t", [1, 2])
def test_pyramid_equals_its_formulas(kind: Kind, widths: Sequence[int], t: int, pool: Pool, prefix: int) -> None:
    module = build(kind, widths, 3, t=t, pool=pool, prefix=prefix, padded=3)
    stages = some_stages(widths)
    expected = by_the_formulas(module.state_dict(), stages, 3, t, pool, prefix)
    torch.testing.assert_close(module(stages), expected, rtol=1e-10, atol=1e-10)


@pytest.mark.parametrize("widths", WIDTHS.values(), ids=WIDTHS)
@pytest.mark.parametrize(("rank", "padded"), [(1, 1), (3, 8), (8, 8)])
@pytest.mark.parametrize("t", [1, 2])
def test_rank_space_has_the_logits_and_gradients_of_the_direct_form(
    widths: Sequence[int], rank: int, padded: int, t: int
) -> None:
    direct, in_rank_space = (build(kind, widths, rank, t=t, prefix=1, padded=padded) for kind in KINDS)
    in_rank_space.load_state_dict(direct.state_dict(), strict=True)
    for dtype, limit in ((torch.float64, 1e-10), (torch.float32, 1e-4)):
        stages = [stage.to(dtype) for stage in some_stages(widths)]
        results = []
        for module in (direct.to(dtype), in_rank_space.to(dtype)):
            logits = module(stages)
            grads = torch.autograd.grad(F.cross_entropy(logits, LABELS), list(module.parameters()))
            results.append((logits, *grads))
        for name, ours, theirs in zip(["logits", *direct.state_dict()], results[1], results[0], strict=True):
            assert theirs.norm() > 0 or rank < padded, name
            assert (ours - theirs).norm() <= limit * theirs.norm() + limit / 1000, f"{name} in {dtype}"


@pytest.mark.parametrize("kind", KINDS)
def test_with_one_width_it_equals_last(kind: Kind) -> None:
    widths = (12, 12, 12)
    module = build(kind, widths, 3, t=2, prefix=1, padded=4)
    last = LAST(12, 3, N_CLASSES, 3, modules_per_block=2, n_prefix_tokens=1, padded_rank=4).double()
    last.load_state_dict({name.replace(".up.0.", ".up."): value for name, value in module.state_dict().items()})
    stages = some_stages(widths)
    torch.testing.assert_close(module(stages), last(stages), rtol=1e-10, atol=1e-10)
    torch.manual_seed(5)
    fresh = kind(widths, N_CLASSES, 3, padded_rank=4).state_dict()
    torch.manual_seed(5)
    for name, value in LAST(12, 3, N_CLASSES, 3, padded_rank=4).state_dict().items():
        assert torch.equal(value, fresh[name.replace(".up.", ".up.0.")]), name


@pytest.mark.parametrize("kind", KINDS)
def test_impossible_shapes_are_refused(kind: Kind) -> None:
    with pytest.raises(ValueError, match="rank 0 "):
        kind((4, 6), N_CLASSES, 0)
    with pytest.raises(ValueError, match=r"two stages.*got 1"):
        kind((4,), N_CLASSES, 2)
    with pytest.raises(ValueError, match="at least one module"):
        kind((4, 6), N_CLASSES, 2, modules_per_block=0)
    module = kind((4, 6, 8), N_CLASSES, 2).double()
    for widths in ((4, 6), (4, 6, 8, 8)):
        with pytest.raises(ValueError, match=r"zip|(take|need) \d stages"):
            module(some_stages(widths))


# Lanes

LANE_WIDTHS = (6, 6, 10, 16)
CONFIGS = [
    LaneConfig(lr=3e-3, rank=4, schedule="constant", warmup_epochs=0),
    LaneConfig(lr=1e-2, rank=2, schedule="constant", warmup_epochs=0, weight_decay=0.2),
    LaneConfig(lr=1e-3, rank=3, schedule="constant", warmup_epochs=0, head_lr_ratio=3.0),
]
EPOCHS, LANE_BATCH, SEED = 5, 6, 3  # ten steps an epoch


def side_by_side(n_images: int, seed: int) -> StageData:
    stages = torch.cat(some_stages(LANE_WIDTHS, n_images, seed), -1).unsqueeze(1).numpy()
    labels = torch.from_numpy(np.random.default_rng(seed).integers(0, N_CLASSES, n_images))
    return StageData(stages, labels, N_CLASSES, widths=LANE_WIDTHS)


TRAIN, VAL = side_by_side(60, 1), side_by_side(20, 2)


def lane(kind: Kind, config: LaneConfig, padded: int, dtype: torch.dtype) -> PyramidLAST:
    torch.manual_seed(config.rank)
    return kind(LANE_WIDTHS, N_CLASSES, config.rank, padded_rank=padded).to(dtype)


def plain_loop(config: LaneConfig) -> dict[str, Tensor]:
    """Train one trial alone, in the direct form at its own rank, with stages from a list."""
    module = lane(PyramidLAST, config, config.rank, torch.float64)
    named = dict(module.named_parameters())
    optimizer = torch.optim.AdamW(
        [
            {
                "params": [p],
                "lr": config.lr * (config.head_lr_ratio if name.startswith("head.") else 1),
                "weight_decay": config.weight_decay if p.dim() > 1 else 0.0,
            }
            for name, p in named.items()
        ],
        betas=(config.beta1, config.beta2),
        eps=config.eps,
    )
    stages = some_stages(LANE_WIDTHS, 60, 1)
    for epoch in range(1, EPOCHS + 1):
        for indices in training_batches(len(TRAIN), LANE_BATCH, SEED, epoch):
            loss = F.cross_entropy(module([stage[indices] for stage in stages]), TRAIN.labels[indices])
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
    return {name: p.detach() for name, p in named.items()}


@pytest.mark.parametrize("kind", KINDS)
def test_lane_equals_plain_loop_in_fp64_after_50_steps(kind: Kind) -> None:
    modules: list[nn.Module] = [lane(kind, config, 4, torch.float64) for config in CONFIGS]
    states, _ = train(modules, CONFIGS, TRAIN, VAL, n_epochs=EPOCHS, batch_size=LANE_BATCH, seed=SEED)
    for config, state in zip(CONFIGS, states, strict=True):
        alone = plain_loop(config)
        trimmed = cut_to(alone, state)
        for name, value in alone.items():
            assert value.shape == trimmed[name].shape
            assert (trimmed[name] - value).abs().max() < 1e-10, f"rank {config.rank}, {name}"


@pytest.mark.parametrize("kind", KINDS)
def test_lane_is_bitwise_the_same_in_any_stack(kind: Kind) -> None:
    def weights(numbers: Sequence[int]) -> list[dict[str, Tensor]]:
        configs = [CONFIGS[i % 3] for i in numbers]
        modules: list[nn.Module] = [lane(kind, config, 4, torch.float32) for config in configs]
        return train(modules, configs, TRAIN, VAL, n_epochs=1, batch_size=LANE_BATCH, seed=SEED)[0]

    reference = weights(range(6))
    for numbers in ([1], [2, 1, 0, 1], [3, 5]):
        for number, state in zip(numbers, weights(numbers), strict=True):
            for name, value in state.items():
                assert torch.equal(value, reference[number % 3][name]), f"trial {number} in {numbers}: {name}"


def test_spec_builds_it_for_several_widths_and_can_be_saved() -> None:
    spec = SideNetworkSpec(
        width=16,
        n_stages=4,
        n_classes=N_CLASSES,
        n_prefix_tokens=0,
        modules_per_block=1,
        pool="mean",
        max_rank=4,
        widths=LANE_WIDTHS,
    )
    assert type(spec.lane(2, seed=0)) is RankSpacePyramidLAST
    assert type(spec.plain(2)) is PyramidLAST
    assert pooled_probe(spec, 1, seed=0).head.norm.normalized_shape == (6,)
    assert SideNetworkSpec.of_metadata(spec.metadata(2)) == spec
    assert set(spec.work) == {"rank space", "direct"}
