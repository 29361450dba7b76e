"""Dropout: every lane has its own rate and random numbers, and drops only while it trains."""

import pytest
import torch
from torch import Tensor, nn

from sweep.errors import UsageError
from sweep.features.batches import StageData
from sweep.side_networks import LAST, LinearProbe, PyramidLAST, RankSpaceLAST, RankSpacePyramidLAST
from sweep.side_networks.head import KEEP
from sweep.study.lane_config import LaneConfig
from sweep.training.dropout import LaneStep, dropout_buffers, dropout_mask
from sweep.training.engine import train
from sweep.training.stack import Stack

WIDTH, N_IMAGES = 16, 6
STAGES = [torch.randn(N_IMAGES, 5, WIDTH, generator=torch.Generator().manual_seed(i)) for i in range(3)]


@pytest.mark.parametrize("rate", [0.1, 0.5, 0.9])
def test_a_mask_drops_its_share_and_keeps_the_mean(rate: float) -> None:
    mask = dropout_mask(LaneStep(rate, 1, 2), 400, 500, torch.float64)
    kept = 1 / (1 - rate)
    assert mask.shape == (400, 500)
    assert mask.dtype == torch.float64
    assert ((mask == 0) | (mask == kept)).all()
    # The share dropped has a standard deviation of at most 0.0011 over all 200,000 numbers, 0.022 over a row of 500,
    # and 0.025 over a column.
    dropped = (mask == 0).double()
    assert abs(dropped.mean().item() - rate) < 0.006
    assert (dropped.mean(1) - rate).abs().max() < 0.12
    assert (dropped.mean(0) - rate).abs().max() < 0.12


def test_a_mask_follows_from_seed_and_step_alone() -> None:
    def mask(seed: int, step: int, dtype: torch.dtype = torch.float32) -> Tensor:
        return dropout_mask(LaneStep(0.5, seed, step), N_IMAGES, WIDTH, dtype)

    first = mask(1, 2)
    torch.manual_seed(99)
    assert torch.equal(first, mask(1, 2))
    assert torch.equal(first, mask(1, 2, torch.float64).float())
    assert not torch.equal(first, mask(1, 3))
    assert not torch.equal(first, mask(2, 2))


def test_without_dropout_nothing_is_computed() -> None:
    assert dropout_buffers([LaneStep(0.0, 1, 2)] * 3, N_IMAGES, {}) == {}


def summed(logits: Tensor, labels: Tensor) -> Tensor:
    return logits.square().mean((1, 2))


def normalised(module: nn.Module) -> Tensor:
    """Return what the head of a side-network classifies, (B, D)."""
    features: list[Tensor] = []
    hook = module.head.norm.register_forward_hook(lambda norm, inputs, output: features.append(output))
    module(STAGES)
    hook.remove()
    return features[0]


@pytest.mark.parametrize("kind", [LAST, RankSpaceLAST, LinearProbe, PyramidLAST, RankSpacePyramidLAST])
def test_lanes_with_and_without_dropout_share_a_stack(kind: type) -> None:
    """With dropout, the loss is that of a module with a masked head input.

    Without, a lane has the bits of other stacks.
    """
    torch.manual_seed(0)
    pyramid = ([WIDTH] * 3, 4, 2)
    arguments = {LinearProbe: (WIDTH, 4), PyramidLAST: pyramid, RankSpacePyramidLAST: pyramid}
    modules = [kind(*arguments.get(kind, (WIDTH, 3, 4, 2))) for _ in range(3)]
    labels = torch.zeros(N_IMAGES, dtype=torch.long)
    stack = Stack(modules)
    at = [LaneStep(0.0, 1, 0), LaneStep(0.5, 2, 0), LaneStep(0.5, 3, 0)]
    losses, grads = stack.gradients(STAGES, labels, summed, dropout_buffers(at, N_IMAGES, stack.buffers))
    without, grads_without = stack.gradients(STAGES, labels, summed)
    assert losses[0] == without[0]
    assert (losses != without).tolist() == [False, True, True]
    for name, grad in grads.items():
        assert torch.equal(grad[0], grads_without[name][0])
    for lane in (1, 2):
        mask = dropout_mask(at[lane], N_IMAGES, WIDTH, torch.float32)
        expected = modules[lane].head.linear(normalised(modules[lane]) * mask).square().mean()
        torch.testing.assert_close(losses[lane], expected.detach())


def test_the_mask_affects_neither_weights_nor_predictions() -> None:
    module = LAST(WIDTH, 3, 4, 2)
    assert KEEP not in module.state_dict()
    stack = Stack([module, module])
    before = stack.logits(STAGES)
    at = [LaneStep(0.5, 1, 0), LaneStep(0.5, 2, 0)]
    stack.gradients(
        STAGES, torch.zeros(N_IMAGES, dtype=torch.long), summed, dropout_buffers(at, N_IMAGES, stack.buffers)
    )
    assert torch.equal(stack.logits(STAGES), before)
    torch.testing.assert_close(before[0], module(STAGES))


def test_a_side_network_without_our_head_is_refused() -> None:
    class Plain(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.head = nn.Linear(WIDTH, 4)

        def forward(self, stages: list[Tensor]) -> Tensor:
            return self.head(stages[-1].mean(1))

    data = StageData(torch.stack(STAGES, 1).numpy(), torch.zeros(N_IMAGES, dtype=torch.long), 4)
    lengths = {"n_epochs": 1, "batch_size": 3, "seed": 0}
    train([Plain()], [LaneConfig(lr=1e-3)], data, data, **lengths)
    with pytest.raises(UsageError, match="dropout is given, but Plain cannot apply it"):
        train([Plain()], [LaneConfig(lr=1e-3, dropout=0.1)], data, data, **lengths)
