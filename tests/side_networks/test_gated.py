"""Learned ranks: gates, their penalty, and the weights without the ranks that are closed."""

from dataclasses import replace
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file
from torch import Tensor

from sweep.errors import UsageError
from sweep.features.batches import StageData
from sweep.side_networks.gated import RANK_GATES, effective_ranks, opened, penalty
from sweep.side_networks.last import LAST
from sweep.side_networks.rank_space import RankSpaceLAST
from sweep.side_networks.spec import SideNetworkSpec
from sweep.study.lane_config import LaneConfig
from sweep.training.engine import train
from sweep.training.rank_penalty import RankPenalty

WIDTH, N_STAGES, TOKENS, N_CLASSES = 24, 3, 10, 5
SPEC = SideNetworkSpec(WIDTH, N_STAGES, N_CLASSES, 1, 1, "mean", 8, family="gated_last", n_tokens=TOKENS)
LIKE_LAST = replace(SPEC, family="last")


def some_data(n_images: int, seed: int) -> StageData:
    generator = torch.Generator().manual_seed(seed)
    stages = torch.randn(n_images, N_STAGES, TOKENS, WIDTH, generator=generator)
    return StageData(stages.numpy(), torch.arange(n_images) % N_CLASSES, N_CLASSES)


TRAIN, VAL = some_data(60, 1), some_data(20, 2)


def trained(config: LaneConfig, n_epochs: int) -> tuple[dict[str, Tensor], list[float]]:
    """Weights of a trained lane of rank 8, and its effective rank after every epoch."""
    (state,), results = train(
        [SPEC.lane(8, seed=0)], [config], TRAIN, VAL, n_epochs=n_epochs, batch_size=6, seed=0, lane_seeds=[0]
    )
    return state, [result.effective_rank.item() for result in results]


def with_closed_gates(*closed: tuple[int, ...]) -> tuple[LAST, dict[str, Tensor]]:
    """A side-network of rank 8 with random weights, where some gates of each module are closed, and its weights."""
    torch.manual_seed(0)
    module = SPEC.plain(8)
    with torch.no_grad():
        for parameter in module.parameters():
            parameter.add_(0.1 * torch.rand(parameter.shape))
        for block, ranks in zip(module.blocks, closed, strict=True):
            block[0].rank_gates[list(ranks)] = -0.01
    return module, module.state_dict()


def test_with_open_gates_it_is_last_bit_for_bit() -> None:
    gated, last = SPEC.plain(8), LIKE_LAST.plain(8)
    with torch.no_grad():
        for parameter in last.parameters():
            parameter.add_(0.1)
    assert not gated.load_state_dict(last.state_dict(), strict=False).unexpected_keys
    fast = SPEC.lane(8, seed=0)
    fast.load_state_dict(gated.state_dict())
    fast_last = LIKE_LAST.lane(8, seed=0)
    fast_last.load_state_dict(last.state_dict())
    assert isinstance(fast, RankSpaceLAST)
    stages = [torch.randn(3, TOKENS, WIDTH) for _ in range(N_STAGES)]
    assert torch.equal(gated(stages), last(stages))
    assert torch.equal(fast(stages), fast_last(stages))


def test_an_untrained_lane_starts_as_last_does() -> None:
    of_gated, of_last = SPEC.lane(5, seed=3).state_dict(), LIKE_LAST.lane(5, seed=3).state_dict()
    assert {name: tensor for name, tensor in of_gated.items() if not name.endswith(RANK_GATES)}.keys() == of_last.keys()
    assert all(torch.equal(of_gated[name], tensor) for name, tensor in of_last.items())


def test_a_strong_penalty_closes_ranks_and_a_weak_one_does_not() -> None:
    _, strong = trained(LaneConfig(lr=1e-2, rank_penalty=1.0), 8)
    _, weak = trained(LaneConfig(lr=1e-2, rank_penalty=0.0), 8)
    assert strong[-1] == 0
    assert strong == sorted(strong, reverse=True)  # what is closed stays closed
    assert weak[-1] > 6


def test_pruned_weights_compute_the_same(tmp_path: Path) -> None:
    whole, state = with_closed_gates((0, 3, 4), tuple(range(8)))
    pruned = SPEC.pruned(state)
    assert pruned["blocks.0.0.q.weight"].shape == (5, WIDTH)
    assert pruned["blocks.1.0.up.weight"].shape == (WIDTH, 0)
    save_file(pruned, tmp_path / "pruned.safetensors")
    loaded = SPEC.trained(8, load_file(tmp_path / "pruned.safetensors")).double()
    stages = [torch.randn(3, TOKENS, WIDTH).double() for _ in range(N_STAGES)]
    torch.testing.assert_close(loaded(stages), whole.double()(stages))
    assert sum(p.numel() for p in loaded.parameters()) == sum(x.numel() for x in pruned.values())


def test_effective_rank_is_the_mean_over_modules() -> None:
    _, state = with_closed_gates((0, 3, 4), tuple(range(8)))
    assert effective_ranks(state) == 2.5
    assert effective_ranks(SPEC.pruned(state)) == 2.5
    assert effective_ranks(LIKE_LAST.plain(8).state_dict()) is None


def test_padding_has_no_gates() -> None:
    lane = SPEC.lane(3, seed=0)
    assert effective_ranks(lane.state_dict()) == 3
    assert penalty(lane) == 3 * (N_STAGES - 1)


def test_the_penalty_has_the_gradient_of_its_definition() -> None:
    """Of each lane by its own strength, and none at gates that are closed."""
    lanes = [with_closed_gates((1, 2), ())[0] for _ in range(2)]
    params = {name: torch.stack([x, x]) for name, x in lanes[0].named_parameters()}
    strengths = (0.5, 0.0)
    of_stack = RankPenalty(params, [LaneConfig(lr=1.0, rank_penalty=strength) for strength in strengths])
    added = of_stack({name: torch.zeros_like(p) for name, p in params.items()})
    for i, (strength, lane) in enumerate(zip(strengths, lanes, strict=True)):
        (strength * penalty(lane)).backward()
        for name, p in lane.named_parameters():
            assert torch.equal(added[name][i], torch.zeros_like(p) if p.grad is None else p.grad), name


def test_damaged_weights_are_refused() -> None:
    state = SPEC.pruned(with_closed_gates((0, 3, 4), ())[1])
    for name, tensor in (
        ("blocks.0.0.q.weight", state["blocks.0.0.q.weight"][1:]),
        (f"blocks.0.0.{RANK_GATES}", torch.ones(20)),
        (f"blocks.1.0.{RANK_GATES}", torch.ones(2, 2)),
    ):
        with pytest.raises(ValueError, match="not those of a gated_last of rank 8"):
            SPEC.trained(8, {**state, name: tensor})


def test_gates_never_are_below_zero() -> None:
    assert opened(torch.tensor([-1.0, 0.0, 0.125])).tolist() == [0, 0, 1]


def test_a_negative_penalty_is_refused() -> None:
    with pytest.raises(UsageError, match=r"LaneConfig\.rank_penalty must not be negative"):
        LaneConfig(lr=1e-3, rank_penalty=-1e-3)
