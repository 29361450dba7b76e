"""What every family of side-networks must fulfil."""

from collections.abc import Callable, Sequence
from dataclasses import replace
from typing import Any

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from backbones.stages import Stages
from sweep.errors import UsageError
from sweep.features.batches import StageData, training_batches
from sweep.side_networks import LinearProbe
from sweep.side_networks.checks import check_family
from sweep.side_networks.families import FAMILIES
from sweep.side_networks.gated import RANK_GATES
from sweep.side_networks.spec import SideNetworkSpec
from sweep.study.lane_config import LaneConfig
from sweep.study.structure import READ_OUTS, SIDE_NETWORKS
from sweep.training.engine import train
from sweep.training.plain_loop import train_plainly
from sweep.training.stack import Stack

WIDTH, N_STAGES, TOKENS, N_CLASSES, BATCH = 24, 3, 10, 5, 6  # a class token and a grid of 3 x 3
WIDTHS = (12, 12, 20)
LENGTHS = torch.tensor([10, 1, 7, 4, 9, 2])
SPEC = SideNetworkSpec(WIDTH, N_STAGES, N_CLASSES, 1, 1, "mean", 8, n_tokens=TOKENS)

STRUCTURES: dict[str, dict[str, Any]] = {
    "last": {"family": "last"},
    "granular_last": {"family": "granular_last", "parts": 2, "max_rank": 4},
    "granular_last, direct form": {"family": "granular_last", "parts": 4, "max_rank": 64, "modules_per_block": 2},
    **{f"ladder, read-out {read_out}": {"family": "ladder", "read_out": read_out} for read_out in READ_OUTS},
    "gated_last": {"family": "gated_last", "modules_per_block": 2},
    "gated_last, direct form": {"family": "gated_last", "max_rank": 100},
    "ladder, attention": {"family": "ladder", "attention": True, "mlp": False},
    "ladder, attention and mlp": {"family": "ladder", "attention": True, "read_out": "both"},
    "ladder, nothing": {"family": "ladder", "mlp": False, "pool": "class"},
    "convolution": {"family": "convolution"},
    "convolution, tokens": {"family": "convolution", "read_out": "tokens", "mlp": False},
    "full_convolution": {"family": "full_convolution", "read_out": "both"},
    "full_convolution, nothing": {"family": "full_convolution", "mlp": False},
    "mixer": {"family": "mixer"},
    "multi_stage": {"family": "multi_stage"},
    "probe": {"family": "probe"},
}
SPECS = {name: replace(SPEC, **structure) for name, structure in STRUCTURES.items()}


def all_that(fit: Callable[[SideNetworkSpec], bool]) -> pytest.MarkDecorator:
    """Test all structures for which `fit` is true."""
    kept = {name: spec for name, spec in SPECS.items() if fit(spec)}
    return pytest.mark.parametrize("spec", kept.values(), ids=kept)


ALL = all_that(lambda spec: True)

# These are trained with `-m slow`; their gradients are compared in every run.
TRAINED_SLOWLY = ["granular_last, direct form", *(f"ladder, read-out {name}" for name in READ_OUTS if name != "pooled")]
TRAINED = pytest.mark.parametrize(
    "spec",
    [
        pytest.param(spec, id=name, marks=pytest.mark.slow if name in TRAINED_SLOWLY else ())
        for name, spec in SPECS.items()
    ],
)

CONFIGS = [
    LaneConfig(lr=3e-3, rank=8),
    LaneConfig(lr=1e-2, rank=3, head_lr_ratio=5.0, loss="focal", dropout=0.3),
    LaneConfig(lr=5e-3, rank=2, loss="bce", optimizer="sgd", weight_decay=0.01, clip_norm=0.5),
]
EPOCHS, BATCH_SIZE, SEED = 10, 6, 3  # five steps an epoch


def fitting(rank: int, spec: SideNetworkSpec) -> int:
    """Return the next rank that can be divided into the parts of the spec, or the largest one of the spec."""
    return min(-(-rank // spec.parts) * spec.parts, spec.max_rank)


def configs_of(spec: SideNetworkSpec) -> list[LaneConfig]:
    return [replace(config, rank=fitting(config.rank, spec)) for config in CONFIGS]


def some_stages(spec: SideNetworkSpec, n: int, *, seed: int = 0, lengths: Tensor | None = None) -> list[Tensor]:
    """Return random stages in fp64. With `lengths`, tokens beyond the end of a text are zero."""
    generator = torch.Generator().manual_seed(seed)
    stages = [
        0.5 * i + torch.randn(n, TOKENS, width, generator=generator, dtype=torch.float64)
        for i, width in enumerate(spec.stage_widths)
    ]
    if lengths is None:
        return stages
    there = (torch.arange(TOKENS) < lengths.unsqueeze(-1)).unsqueeze(-1)
    return Stages((stage * there for stage in stages), lengths)


def randomised(module: nn.Module, rank: int, spec: SideNetworkSpec) -> nn.Module:
    """Give a module random weights, as after training. Only the padding stays zero."""
    generator = torch.Generator().manual_seed(rank)
    own = spec.plain(rank).state_dict()
    with torch.no_grad():
        for name, parameter in module.named_parameters():
            shape = own[name].shape
            amount = 0.02 if name.endswith(RANK_GATES) else 0.2  # gates stay open
            parameter[tuple(map(slice, shape))] += amount * torch.randn(shape, generator=generator)
    return module.double()


def lane_and_plain(spec: SideNetworkSpec, rank: int) -> tuple[nn.Module, nn.Module]:
    """Return a padded lane in its stacked form, and the plain module of its own rank with the same weights."""
    rank = fitting(rank, spec)
    lane, plain = randomised(spec.lane(rank, seed=1), rank, spec), spec.plain(rank).double()
    plain.load_state_dict(spec.trimmed(rank, lane.state_dict()))
    return lane, plain


def gradients(module: nn.Module, stages: list[Tensor]) -> dict[str, Tensor]:
    loss = F.cross_entropy(module(stages), torch.arange(len(stages[0])) % N_CLASSES)
    names, parameters = zip(*module.named_parameters(), strict=True)
    return dict(zip(names, torch.autograd.grad(loss, parameters), strict=True))


def assert_alike(a: Tensor, b: Tensor, what: str = "") -> None:
    torch.testing.assert_close(a, b, rtol=1e-10, atol=1e-11, msg=lambda text: f"{what}: {text}")


@ALL
@pytest.mark.parametrize("rank", [2, 8])
def test_a_padded_lane_equals_the_plain_module_of_its_own_rank(spec: SideNetworkSpec, rank: int) -> None:
    lane, plain = lane_and_plain(spec, rank)
    stages = some_stages(spec, BATCH)
    logits = lane(stages)
    assert logits.shape == (BATCH, N_CLASSES)
    assert_alike(logits, plain(stages))
    of_lane, of_plain = gradients(lane, stages), gradients(plain, stages)
    trimmed = spec.trimmed(fitting(rank, spec), of_lane)
    for name, gradient in of_plain.items():
        assert gradient.abs().max() > 0, name
        assert_alike(trimmed[name], gradient, name)
        assert_alike(of_lane[name].abs().sum(), gradient.abs().sum(), f"{name}: there is a gradient in the padding")


@ALL
def test_padding_does_not_change_the_random_numbers(spec: SideNetworkSpec) -> None:
    rank = fitting(3, spec)
    of_one, of_another = spec.lane(rank, seed=7), replace(spec, max_rank=17).lane(rank, seed=7)
    trimmed = spec.trimmed(rank, of_one.state_dict())
    for name, value in spec.trimmed(rank, of_another.state_dict()).items():
        assert torch.equal(trimmed[name], value), name


@all_that(lambda spec: spec.read_out not in ("tokens", "compact"))  # these have no path from last stage to logits
def test_an_untrained_side_network_equals_the_linear_probe_unless_it_reads_tokens_only(spec: SideNetworkSpec) -> None:
    module = spec.lane(fitting(3, spec), seed=1).double()
    probe = LinearProbe(WIDTH, N_CLASSES, pool=spec.pool, n_prefix_tokens=1).double()
    probe.head.load_state_dict(getattr(module.head, "pooled", module.head).state_dict())
    stages = some_stages(spec, BATCH)
    assert_alike(module(stages), probe(stages))


@ALL
def test_lanes_of_one_seed_start_from_one_head(spec: SideNetworkSpec) -> None:
    a, b = (spec.plain(fitting(2, spec)).state_dict() for _ in range(2))
    assert a.keys() == b.keys()
    low, high = (spec.lane(fitting(rank, spec), seed=4).state_dict() for rank in (2, 8))
    for name in low:
        if name.startswith("head.") and "matrix" not in name:
            assert torch.equal(low[name], high[name]), name


@all_that(lambda spec: FAMILIES[spec.family].texts)
def test_masks_and_lengths_of_texts(spec: SideNetworkSpec) -> None:
    """A text has the same result alone and in a batch. Tokens beyond its end change nothing."""
    for causal in (False, True) if FAMILIES[spec.family].causal else (False,):
        of_texts = replace(spec, n_prefix_tokens=0, pool="last" if causal else "mean", causal=causal)
        for module in lane_and_plain(of_texts, 3):
            stages = some_stages(of_texts, BATCH, lengths=LENGTHS)
            logits = module(stages)
            for i, length in enumerate(LENGTHS.tolist()):
                alone = Stages((stage[i : i + 1, :length] for stage in stages), LENGTHS[i : i + 1])
                assert_alike(module(alone)[0], logits[i], f"text {i}, causal {causal}")


def test_a_causal_ladder_sees_nothing_that_comes_after() -> None:
    spec = replace(SPECS["ladder, attention"], pool="class", causal=True)  # the first token sees only itself
    lane, _ = lane_and_plain(spec, 4)
    stages = some_stages(spec, BATCH)
    changed = [torch.cat([stage[:, :1], stage[:, 1:].flip(-1)], 1) for stage in stages]
    assert_alike(lane(stages), lane(changed))
    seeing = randomised(replace(spec, causal=False).lane(4, seed=1), 4, spec)
    assert not torch.allclose(seeing(stages), seeing(changed))


@all_that(lambda spec: FAMILIES[spec.family].several_widths)  # `check_family` refuses the others
def test_stages_that_differ_in_width(spec: SideNetworkSpec) -> None:
    pyramid = replace(spec, width=WIDTHS[-1], widths=WIDTHS)
    lane, plain = lane_and_plain(pyramid, 3)
    stages = some_stages(pyramid, BATCH)
    assert_alike(lane(stages), plain(stages))


# In a stack


def data_of(spec: SideNetworkSpec, n_images: int, seed: int) -> StageData:
    stages = torch.stack(some_stages(spec, n_images, seed=seed), 1).numpy()
    labels = torch.from_numpy(np.random.default_rng(seed).integers(0, N_CLASSES, n_images))
    return StageData(stages, labels, N_CLASSES)


# the last batches have 5 and 1 images, as unusual numbers of tokens
TRAIN, VAL = data_of(SPEC, 29, 1), data_of(SPEC, 19, 2)


@TRAINED
def test_lane_equals_a_plain_loop_in_fp64_after_50_steps(spec: SideNetworkSpec) -> None:
    configs = configs_of(spec)
    lanes = [spec.lane(config.rank, seed).double() for seed, config in enumerate(configs)]
    states, _ = train(lanes, configs, TRAIN, VAL, n_epochs=EPOCHS, batch_size=BATCH_SIZE, seed=SEED)
    batches = [
        batch
        for epoch in range(1, EPOCHS + 1)
        for batch in TRAIN.batches(epoch, training_batches(len(TRAIN), BATCH_SIZE, SEED, epoch), lanes[0].head.keep)
    ]
    for seed, (config, lane, state) in enumerate(zip(configs, lanes, states, strict=True)):
        start = spec.trimmed(config.rank, lane.state_dict())
        alone = spec.plain(config.rank).double()
        alone.load_state_dict(start)
        lengths = {"n_steps": len(batches), "steps_per_epoch": len(batches) // EPOCHS}
        train_plainly(alone, config, TRAIN, batches, **lengths, seed=seed)
        trained = spec.trimmed(config.rank, state)
        for name, value in alone.state_dict().items():
            assert not torch.equal(value, start[name]), f"{name} was not trained"
            assert (trained[name] - value).abs().max() < 1e-10, f"lane {seed}, {name}"


@TRAINED
def test_lane_is_bitwise_the_same_in_any_stack(spec: SideNetworkSpec) -> None:
    def trained(numbers: Sequence[int]) -> list[tuple[dict[str, Tensor], Tensor]]:
        configs = [configs_of(spec)[i % 3] for i in numbers]
        lanes = [spec.lane(config.rank, seed=i % 3) for i, config in zip(numbers, configs, strict=True)]
        lengths, seeds = {"n_epochs": 1, "batch_size": BATCH_SIZE}, [i % 3 for i in numbers]
        states, results = train(lanes, configs, TRAIN, VAL, **lengths, seed=SEED, lane_seeds=seeds)
        return list(zip(states, results[-1].val_logits, strict=False))

    reference = trained([0, 1, 2])
    for numbers in ([1], [2, 1], [0, 2, 1, 2, 0], list(range(18))):
        for number, (state, logits) in zip(numbers, trained(numbers), strict=True):
            expected_state, expected_logits = reference[number % 3]
            assert torch.equal(logits, expected_logits), f"lane {number} in {numbers}"
            for name, value in state.items():
                assert torch.equal(value, expected_state[name]), f"lane {number} in {numbers}: {name}"


@ALL
def test_only_matrices_decay(spec: SideNetworkSpec) -> None:
    """Parameters with several dimensions have weight decay. No bias, norm or table of positions is among them."""
    lane = spec.lane(4, seed=0)
    names = [name for name, parameter in lane.named_parameters() if parameter.dim() > 1]
    assert all(not name.endswith(("bias", "norm.weight", "places")) for name in names)


# Saving and loading


@ALL
def test_spec_and_weights_can_be_saved_and_loaded(spec: SideNetworkSpec) -> None:
    lower = fitting(2, spec)
    rank = lower + spec.parts
    assert SideNetworkSpec.of_metadata(spec.metadata(rank)) == spec
    _, plain = lane_and_plain(spec, rank)
    loaded = spec.trained(rank, plain.float().state_dict())
    assert type(loaded) is type(plain)
    stages = [stage.float() for stage in some_stages(spec, BATCH)]
    assert torch.equal(loaded(stages), plain(stages))
    if FAMILIES[spec.family].has_rank:
        with pytest.raises(ValueError, match=f"not those of a {spec.family} of rank {lower}"):
            spec.trained(lower, plain.state_dict())
    with pytest.raises(ValueError, match="not those of"):
        spec.trained(rank, dict(list(plain.state_dict().items())[1:]))


def test_metadata_from_before_families_means_last() -> None:
    new = ("family", "attention", "mlp", "read_out", "n_tokens", "parts")
    metadata = {name: value for name, value in SPECS["last"].metadata(3).items() if name not in new}
    assert SideNetworkSpec.of_metadata(metadata) == replace(SPECS["last"], n_tokens=0)


@pytest.mark.parametrize(
    ("name", "value"),
    [("family", "lasso"), ("read_out", "all"), ("mlp", 1), ("n_tokens", "x"), ("parts", 0), ("parts", "2")],
)
def test_damaged_entries_are_refused(name: str, value: object) -> None:
    with pytest.raises((TypeError, ValueError), match=name):
        replace(SPEC, **{name: value})


@pytest.mark.parametrize(
    ("change", "texts", "message"),
    [
        ({"family": "probe", "read_out": "tokens"}, False, "--read-out tokens is for ladder and convolution"),
        ({"family": "last", "attention": True}, False, "attention = True is for ladder, but the side-network is last"),
        ({"family": "mixer", "mlp": False}, False, "mlp = False is for ladder and convolution"),
        (
            {"family": "ladder", "modules_per_block": 2},
            False,
            "modules_per_block = 2 is for last and granular_last and gated_last",
        ),
        ({"family": "last", "parts": 2}, False, "parts = 2 is for granular_last, but the side-network is last"),
        ({"family": "granular_last", "parts": 5}, False, "--parts 5 does not divide the width of b, which is 24"),
        ({"family": "granular_last", "widths": WIDTHS}, False, "granular_last needs stages of one width"),
        ({"family": "ladder", "head_stages": 2}, False, "head_stages = 2 is for segmentation and detection"),
        ({"family": "ladder", "head_cells": 2}, False, "head_cells = 2 is for segmentation, where"),
        (
            {"family": "ladder", "read_out": "boxes", "head_cells": 2},
            False,
            "head_cells = 2 is for segmentation, where",
        ),
        ({"family": "mixer", "widths": WIDTHS}, False, "mixer needs stages of one width, but those of b are 12-20"),
        ({"family": "mixer", "causal": True}, True, "mixer mixes every token with later ones, but b is a decoder"),
        ({"family": "convolution"}, True, "convolution needs the grid of an image's patches, but b reads texts"),
        ({"family": "convolution", "n_tokens": 11}, False, "10 patch tokens do not make a square grid in b"),
        ({"family": "full_convolution", "n_tokens": 11}, False, "10 patch tokens do not make a square grid in b"),
        (
            {"family": "mixer", "precision": "bf16"},
            False,
            "bf16 is for last, granular_last, gated_last, ladder, convolution, full_convolution, but",
        ),
    ],
)
def test_unsupported_combinations_give_one_clear_error(change: dict[str, Any], texts: bool, message: str) -> None:
    with pytest.raises(UsageError, match=message):
        check_family(replace(SPEC, **change), "b", texts=texts)


def test_a_study_accepts_the_names_of_all_families() -> None:
    assert tuple(FAMILIES) == SIDE_NETWORKS


@ALL
def test_supported_combinations_are_accepted(spec: SideNetworkSpec) -> None:
    check_family(spec, "b", texts=False)


def test_a_stack_of_every_family_has_the_logits_of_its_lanes() -> None:
    for name, spec in SPECS.items():
        ranks = [fitting(rank, spec) for rank in (2, 5)]
        lanes = [randomised(spec.lane(rank, seed=rank), rank, spec) for rank in ranks]
        stages = some_stages(spec, BATCH)
        for logits, lane in zip(Stack(lanes).logits(stages), lanes, strict=True):
            assert_alike(logits, lane(stages), name)
